"""The special tokens: added once, found by id, and rows initialised. Never looked up by tokenising a string."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ufo_tune.core.answers import pieces
from ufo_tune.core.codec import Codec
from ufo_tune.errors import ModelError


def add_tokens(tokenizer: Any, codec: Codec) -> list[int]:
    """Add those of the codec's tokens that the base does not own; ids of the added ones, in order."""
    known = tokenizer.get_vocab()
    missing = [t for t in codec.special_tokens if t not in known]
    # Not "special": decoding with skip_special_tokens must keep <box> and <MASK> in the text.
    tokenizer.add_tokens(missing, special_tokens=False)
    return [token_id(tokenizer, t) for t in missing]


def token_id(tokenizer: Any, token: str) -> int:
    """The id of one special token, checked to be one id, alone and inside a sentence.

    Raises:
        ModelError: unknown, or split into several ids.
    """
    found = tokenizer.convert_tokens_to_ids(token)
    if found is None or (found == tokenizer.unk_token_id and token != tokenizer.unk_token):
        raise ModelError(f"tokenizer: {token!r} is unknown; run `ufo-tune prepare` on the base first")
    inside = tokenizer(f"a {token} b", add_special_tokens=False)["input_ids"]
    if inside.count(found) != 1:
        raise ModelError(f"tokenizer: {token!r} is not one token inside a sentence (got ids {inside}); add it again")
    return int(found)


def answer_ids(tokenizer: Any, text: str, codec: Codec) -> list[int]:
    """Token ids of an answer, piece by piece, exactly as the answer grammar spells them (without the end token)."""
    size = len(tokenizer)  # tokens may be added
    return [i for piece in pieces(text, codec) for i in _piece_ids(tokenizer, size, piece)]


@lru_cache(maxsize=1 << 13)
def _piece_ids(tokenizer: Any, size: int, piece: str) -> tuple[int, ...]:
    """Ids of a piece in a tokenizer of ``size`` tokens.

    Remembered: the answers of grid tasks have hundreds of pieces, mostly numbers and class names, and the tokenizer
    takes as long for one of them as for a sentence.
    """
    return tuple(tokenizer(piece, add_special_tokens=False)["input_ids"])


def initialise_rows(weight: Tensor, new_ids: list[int]) -> None:
    """Set new rows to the mean of the others, in place (an untrained row of other scale would swamp the softmax)."""
    if not new_ids:
        return
    with torch.no_grad():
        old = torch.ones(len(weight), dtype=torch.bool, device=weight.device)
        old[new_ids] = False
        weight[new_ids] = weight[old].float().mean(0).to(weight.dtype)
