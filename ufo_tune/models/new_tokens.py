"""Rows of new tokens that train beside a frozen table, and never as a copy of it.

``peft`` writes the trained rows into a copy of the whole embedding, and of the whole head, in every pass, and as the
copy depends on them, it also computes the gradient of every row of it. With a vocabulary of 152,000 and a width of 3584
these are 1.1 GB in bf16 for each of the two tables, their gradients once more, and a third matrix product of the
head's size. Here a new token's embedding is looked up in the trained rows, and its logit is the frozen row's plus what
the trained row makes of a difference. Parameters, their names and what is saved are peft's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.trainable_tokens import TrainableTokensLayer
from torch import Tensor, nn


class NewTokens(TrainableTokensLayer):
    """peft's layer with another forward pass."""

    def forward_adapters(self, x: Tensor, active_adapters: list[str], *args: Any, **kwargs: Any) -> Tensor:
        """Embeddings [..., D] of ids [...], or logits [..., V] of states [..., D]."""
        if self.disable_adapters or self.merged or not active_adapters:
            out: Tensor = super().forward_adapters(x, active_adapters, *args, **kwargs)
            return out
        self._check_overlapping_tokens(active_adapters)
        out = self.base_layer(x)
        for name in active_adapters:
            ids = torch.tensor(self.token_indices[name], device=x.device)  # [C]
            trained, frozen = self.trainable_tokens_delta[name], self.trainable_tokens_original[name]  # [C, D]
            if x.is_floating_point():
                more = F.linear(x, (trained - frozen.detach()).to(x.dtype))  # [..., C]
                out.index_add_(-1, ids, more.to(out.dtype))  # a linear layer does not look at its output again
            else:
                scale = self._get_embed_scale()  # Gemma's
                out = _replaced(out, x, ids, trained if scale is None else trained * scale.to(trained.dtype))
        return out


def _replaced(embedded: Tensor, x: Tensor, ids: Tensor, rows: Tensor) -> Tensor:
    """Embeddings [..., D] of tokens x [...], where those in ``ids`` [C] have the given rows [C, D]."""
    known, order = ids.sort()
    at = torch.searchsorted(known, x).clamp_max(len(known) - 1)  # [...]
    return torch.where((known[at] == x)[..., None], rows[order[at]].to(embedded.dtype), embedded)


def beside_tables(hf: nn.Module) -> None:
    """Let every layer of ``peft`` that trains new tokens do so."""
    for module in hf.modules():
        if type(module) is TrainableTokensLayer:
            module.__class__ = NewTokens
