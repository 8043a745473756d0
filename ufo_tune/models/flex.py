"""FlexAttention under the attention rule: blocks of the mask that nobody sees are never computed.

    flex.use(model.vlm)                  # from here on ``UfoModel.embed`` makes block masks
    mask = flex.rule(text_model)(segment, is_image, causal_image)

An answer sees the prompt and itself, so of a hundred answers' dense mask most is empty, and a kernel that takes dense
masks computes it all. The rule is that of ``core.sequence.visible``, asked of single pairs; the block mask is made once
for a batch and goes as it is through transformers' own ``flex_attention``. Decoding does not use it: its prefill has
nearly no answers in it, and a step never meets other answers' keys (``models.shared_prefix``).

Source: Dong et al. 2024, Flex Attention (arXiv 2412.05496).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from ufo_tune.core.sequence import visible
from ufo_tune.core.types import PAD, PROMPT
from ufo_tune.errors import ModelError
from ufo_tune.models.base import VLM

NAME = "flex_attention"
"""Of transformers."""


def use(vlm: VLM) -> None:
    """Let the decoder attend by FlexAttention; the vision tower stays as it is.

    Raises:
        ModelError: the decoder does not choose its attention by name, or drops attention weights.
    """
    model: Any = vlm.text_model
    dropout = getattr(model.config, "attention_dropout", 0.0)
    if dropout:
        raise ModelError(
            f"model.attention: flex has no dropout of attention weights (got {dropout} in the base's config); set "
            "model.attention: sdpa"
        )
    vlm.attend_by(NAME, "flex")


def rule(text_model: nn.Module) -> Callable[..., Tensor | BlockMask]:
    """``block_mask`` where the decoder attends by FlexAttention at present, ``core.sequence.visible`` elsewhere."""
    config: Any = text_model.config
    return block_mask if config._attn_implementation == NAME else visible


def block_mask(segment: Tensor, is_image: Tensor, causal_image: Tensor, document: Tensor | None = None) -> BlockMask:
    """The attention rule as a block mask.

    Args:
        segment: [B, T].
        is_image: [B, T] bool.
        causal_image: [B] bool; such rows keep image tokens causal.
        document: [B, T] number of the sample where a row holds several: each sees itself only.
    Returns:
        Of shape [B, 1, T, T]: which blocks of 128 x 128 pairs are seen by none, some or all, and the rule for "some".
    """
    image = is_image & ~causal_image[:, None]  # [B, T]
    own = torch.zeros_like(segment) if document is None else document  # [B, T]

    def sees(row: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """Whether token i sees token j; all four are numbers."""
        order = (j <= i) | (image[row, i] & image[row, j])
        same = (segment[row, j] == PROMPT) | (segment[row, j] == segment[row, i])
        real = (segment[row, i] != PAD) | (segment[row, j] == PAD)
        return order & same & real & (own[row, i] == own[row, j])

    rows, length = segment.shape
    return create_block_mask(sees, rows, None, length, length, device=segment.device)
