"""The special tokens: added once, found by id, and rows initialised. Never looked up by tokenising a string."""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ufo_tune.core.answers import pieces
from ufo_tune.core.codec import Codec
from ufo_tune.errors import ModelError

_WORD_STARTS = "\u0120\u2581"
"""How tokenizers over bytes, and those of SentencePiece, write the blank before a word."""


def add_tokens(tokenizer: Any, codec: Codec) -> list[int]:
    """Add those of the codec's tokens that the base does not own; ids of the added ones, in order."""
    known = tokenizer.get_vocab()
    missing = [t for t in codec.special_tokens if t not in known]
    # Not "special": decoding with skip_special_tokens must keep <box> and <MASK> in the text.
    tokenizer.add_tokens(missing, special_tokens=False)
    for remembered in (prompt_ids, _answer_ids, _piece_ids):
        remembered.cache_clear()
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


@lru_cache(maxsize=1 << 6)
def prompt_ids(tokenizer: Any, text: str, image_token: str, *, special: bool) -> tuple[int, ...]:
    """Token ids of a part of the prompt that may show an image; ``special``: with those that start a text.

    The placeholder is written once and multiplied as an id, because tokenizers need milliseconds for thousands of them.
    Remembered: a grid task asks the same of every image.
    """
    runs = re.compile(f"(?:{re.escape(image_token)})+")
    counts = iter([len(run) // len(image_token) for run in runs.findall(text)])
    image_id = tokenizer.convert_tokens_to_ids(image_token)
    ids: list[int] = tokenizer(runs.sub(lambda _: image_token, text), add_special_tokens=special)["input_ids"]
    return tuple(i for token in ids for i in ([token] * next(counts) if token == image_id else (token,)))


def answer_ids(tokenizer: Any, text: str, codec: Codec) -> list[int]:
    """Token ids of an answer, piece by piece, exactly as the answer grammar spells them (without the end token)."""
    return list(_answer_ids(tokenizer, text, codec))


@lru_cache(maxsize=1 << 9)
def _answer_ids(tokenizer: Any, text: str, codec: Codec) -> tuple[int, ...]:
    """Remembered: many points of a grid say the same."""
    return tuple(i for piece in pieces(text, codec) for i in _piece_ids(tokenizer, piece))


@lru_cache(maxsize=1 << 13)
def _piece_ids(tokenizer: Any, piece: str) -> tuple[int, ...]:
    """Remembered: most pieces are numbers and class names, and a tokenizer takes as long for one as for a sentence."""
    return tuple(tokenizer(piece, add_special_tokens=False)["input_ids"])


def spelling(tokenizer: Any, ids: Sequence[int], text: str) -> range:
    """Which of some tokens spell a text where it first stands; none where it does not.

    Inside a sentence a word has other ids than at the start of a text, and may share a token with a quotation mark, so
    it is looked for as tokenizers write it, without the signs for where words begin.
    """
    written = tokenizer.convert_ids_to_tokens(ids)
    sought = "".join(tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"]))
    sought, joined = sought.lstrip(_WORD_STARTS), "".join(written)
    edges = list(itertools.accumulate(map(len, written), initial=0))
    places = [m.start() for m in re.finditer(re.escape(sought), joined)] if sought else []
    if not places:
        return range(0)
    starts = set(edges) | {at + 1 for at, letter in enumerate(joined) if letter in _WORD_STARTS}
    first = next((at for at in places if at in starts and at + len(sought) in edges), places[0])  # else inside a word
    return range(bisect.bisect_right(edges, first) - 1, bisect.bisect_left(edges, first + len(sought)))


def initialise_rows(weight: Tensor, new_ids: list[int]) -> None:
    """Set new rows to the mean of the others, in place (an untrained row of other scale would swamp the softmax)."""
    if not new_ids:
        return
    with torch.no_grad():
        old = torch.from_numpy(np.setdiff1d(np.arange(len(weight)), new_ids)).to(weight.device)
        weight[new_ids] = weight[old].float().mean(0).to(weight.dtype)
