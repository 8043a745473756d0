"""``<LOCAL>`` tokens: each holds the image features interpolated at its grid point (UFO sec. 3.3; ufo.md 5.4).

At the input the token's embedding *is* the interpolated feature; before every later decoder layer the interpolation
of the current image states is added to its state. Cells and weights are found once per batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ufo_tune.core.packing import Packing
from ufo_tune.core.types import Batch, View
from ufo_tune.core.views import cells, grid_of


@dataclass(frozen=True, slots=True)
class LocalSampler:
    """Bilinear weights of every ``<LOCAL>`` token over the image tokens of its row.

    Equal to ``grid_sample`` (bilinear, zeros outside, ``align_corners=False``) on the stitched map.
    """

    row: Tensor  # [Q] batch row
    position: Tensor  # [Q] the token's position
    cells: Tensor  # [Q, 4] positions of the four image tokens
    weights: Tensor  # [Q, 4] f32, 0 outside the map

    @classmethod
    def of(cls, batch: Batch) -> LocalSampler | None:
        """The sampler of a batch; None where it has no ``<LOCAL>`` token."""
        row, number = (batch.local_index >= 0).nonzero(as_tuple=True)  # [Q], [Q]
        if len(row) == 0:
            return None
        cells = torch.zeros(len(row), 4, dtype=torch.long, device=row.device)
        weights = torch.zeros(len(row), 4, device=row.device)
        for views in set(batch.views):  # one pass for all rows of one shape: usually one
            rows = torch.tensor([i for i, v in enumerate(batch.views) if v == views], device=row.device)
            mine = torch.isin(row, rows)
            cells[mine], weights[mine] = _bilinear(batch.points[row[mine], number[mine]], views)
        return cls(row, batch.local_index[row, number], batch.image_index[row[:, None], cells], weights)

    def packed(self, packing: Packing) -> LocalSampler:
        """The same tokens where they stand in rows of the decoder."""
        row, position = packing.moved(self.row, self.position)
        return LocalSampler(row, position, packing.moved(self.row[:, None], self.cells)[1], self.weights)

    def sample(self, states: Tensor) -> Tensor:
        """[Q, D] interpolated image states from [B, T, D]."""
        corners = states[self.row[:, None], self.cells]  # [Q, 4, D]
        return torch.einsum("qc,qcd->qd", self.weights.to(states.dtype), corners).to(states.dtype)  # autocast's is half

    def fill(self, embeds: Tensor, batch: Batch) -> Tensor:
        """The embed transform of layer 0: ``<LOCAL>`` embeddings become interpolated image features."""
        return embeds.index_put((self.row, self.position), self.sample(embeds))

    @contextmanager
    def added_to(self, layers: Sequence[nn.Module]) -> Iterator[None]:
        """Within the context, every layer but the first adds the current interpolation to ``<LOCAL>`` states."""

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            states = args[0] if args else kwargs["hidden_states"]
            moved = states.index_put((self.row, self.position), self.sample(states), accumulate=True)
            return ((moved, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": moved})

        handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in layers[1:]]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _bilinear(points: Tensor, views: tuple[View, ...]) -> tuple[Tensor, Tensor]:
    """Four neighbours of points [Q, 2] (canvas, [0, 1]) as image token numbers [Q, 4], and their weights [Q, 4]."""
    h, w = grid_of(views)
    token = cells(views).to(points.device)  # [h, w]
    at = points * points.new_tensor([w, h]) - 0.5  # continuous cell index (x, y)
    low = at.floor()
    share = at - low
    corners = low[:, None] + points.new_tensor([[0, 0], [1, 0], [0, 1], [1, 1]])  # [Q, 4, 2]
    near = torch.stack([1 - share, share], dim=1)  # [Q, 2 (low, high), 2 (x, y)]
    weights = near[:, [0, 1, 0, 1], 0] * near[:, [0, 0, 1, 1], 1]  # [Q, 4]
    inside = ((corners >= 0) & (corners < points.new_tensor([w, h]))).all(-1)  # [Q, 4]
    x = corners[..., 0].clamp(0, w - 1).long()
    y = corners[..., 1].clamp(0, h - 1).long()
    return token[y, x], weights * inside
