"""torch's own attention, stretch by stretch: answers that stand side by side meet the prompt and each other, no more.

    stretches.use(model.vlm)             # from here on ``UfoModel.embed`` lays them out

An answer sees the prompt and itself, so of a hundred answers' dense mask most is empty, and a kernel that takes dense
masks computes it all. Here the tokens after the prompts are cut into stretches at least as long as any answer: what a
token sees then lies in the prompt, its own stretch or the one before. For CPUs, where FlexAttention (``models.flex``)
has no backward pass; a GPU would spend more on starting the pieces than it saves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ufo_tune.core.types import PAD, PROMPT
from ufo_tune.models.base import VLM

NAME = "ufo_stretches"
_SHORTEST = 64
"""Tokens of a stretch: of fewer the pieces cost more than the pairs they leave out."""


@dataclass(frozen=True, slots=True)
class Stretches:
    """Where a batch is cut, the prompts first."""

    sizes: list[int]
    masks: list[Tensor]  # of each [B, 1, size, tokens of its keys] bool

    @classmethod
    def of(cls, segment: Tensor, mask: Tensor) -> Stretches | None:
        """The stretches of rows with a mask.

        Args:
            segment: [B, T].
            mask: [B, 1, T, T] bool, ``core.sequence.visible``.
        Returns:
            None where they would not leave out anything.
        """
        length = segment.shape[1]
        places = torch.arange(length, device=segment.device)
        prompt = int(((segment == PROMPT) * (places + 1)).max())
        own = (segment != PROMPT) & (segment != PAD)
        # An answer's tokens are neighbours: it is as long as the way back from its last to the change before it.
        begins = own & (segment != segment.roll(1, 1))
        first = torch.where(begins, places, -1).cummax(1).values  # [B, T]; a row's first token may count one too many
        longest = int(torch.where(own, places - first + 1, 0).max())
        size = max(longest, _SHORTEST)
        if length - prompt <= 2 * size:
            return None
        sizes = [prompt, *[size] * ((length - prompt) // size)]
        if left := length - sum(sizes):
            sizes.append(left)
        rows, masks = mask.split(sizes, 2), []
        for n, row in enumerate(rows):
            columns = row.split(sizes, 3)
            masks.append(torch.cat([columns[k] for k in _seen(n)], 3))
        return cls(sizes, masks)


def _seen(n: int) -> list[int]:
    """The stretches whose keys stretch n meets."""
    return sorted({0, max(0, n - 1), n})


def use(vlm: VLM) -> None:
    """Let the decoder attend stretch by stretch; the vision tower stays as it is.

    Raises:
        ModelError: the decoder does not choose its attention by name.
    """
    vlm.attend_by(NAME, "stretches")


def further(text_model: nn.Module, segment: Tensor, mask: Any) -> dict[str, Any]:
    """What the attention function is told besides the mask, where the decoder attends by stretches at present."""
    config: Any = text_model.config
    found = Stretches.of(segment, mask) if config._attn_implementation == NAME else None
    return {"stretches": found} if found else {}


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    stretches: Stretches | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """HF's sdpa on each stretch and the keys it meets; on everything where there are no stretches.

    Args:
        module: the attention layer.
        query: [B, H, T, d].
        key: [B, kv, T, d].
        value: likewise.
        attention_mask: [B, 1, T, T] bool.
        dropout: of HF's sdpa.
        scaling: of the scores.
        stretches: of this batch.
        kwargs: of HF's sdpa.
    Returns:
        [B, T, H, d], and no weights.
    """
    if stretches is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)  # type: ignore[no-any-return]
    queries, keys, values = (states.split(stretches.sizes, 2) for states in (query, key, value))
    done = []
    for n, mask in enumerate(stretches.masks):
        met = [torch.cat([states[k] for k in _seen(n)], 2) for states in (keys, values)]  # [B, kv, t, d] each
        done.append(sdpa_attention_forward(module, queries[n], *met, mask, dropout, scaling, **kwargs)[0])
    return torch.cat(done, 1), None  # [B, T, H, d]


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
