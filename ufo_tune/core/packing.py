"""Packing: short batch rows share a row of the decoder instead of padding each other.

    packs([900, 100, 120, 700], budget=1024)  # -> [[0], [3, 2, 1]]: two rows of 900 and 920 tokens, not four of 900

Inside a row of the decoder every batch row keeps its own positions, segments and image, and sees nothing of the others.
Rows are put together after their embeddings are complete and taken apart before anything reads their states, so
nothing but the decoder knows.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_NEAR = 1.05
"""So much of the fewest tokens is about as few."""


def packs(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Which rows share one: the least padding, and of what pads about as little the shortest rows.

    Attention under a dense mask costs the square of a row, so rows of one length stay apart: there is nothing to gain.

    Args:
        lengths: tokens of each row.
        budget: tokens of rows together, or those of the longest row if it has more.
    Returns:
        Row numbers, each once.
    """
    most = max(budget, max(lengths, default=0))
    found = [_evenly(lengths, count) for count in range(1, len(lengths) + 1)]
    sizes = {n: (len(p) * longest, longest) for n, (longest, p) in enumerate(found) if longest <= most}
    least = min((tokens for tokens, _ in sizes.values()), default=0)
    near = [(longest, n) for n, (tokens, longest) in sizes.items() if tokens <= _NEAR * least]
    return found[min(near)[1]][1] if near else []


def _evenly(lengths: Sequence[int], count: int) -> tuple[int, list[list[int]]]:
    """Tokens of the longest of so many packs, and the packs: long rows first, each to where least is (Graham 1969)."""
    heap: list[tuple[int, int]] = [(0, number) for number in range(count)]
    found: list[list[int]] = [[] for _ in heap]
    for row in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        tokens, number = heap[0]
        heapq.heapreplace(heap, (tokens + lengths[row], number))
        found[number].append(row)
    return max(heap)[0], found


@dataclass(frozen=True, slots=True)
class Packing:
    """Where the tokens of batch rows [B, T] stand in rows of the decoder [P, L], and back."""

    source: Tensor  # [P, L] place in the flattened batch; 0 where ``document`` is -1
    document: Tensor  # [P, L] the batch row, -1 padding
    place: Tensor  # [B, T] place in the flattened rows of the decoder; 0 for padding

    @classmethod
    def of(cls, lengths: Sequence[Sequence[int]], width: int, device: torch.device) -> Packing:
        """The packing of batch rows that follow each other.

        Args:
            lengths: of each row of the decoder, the tokens of its batch rows, in the batch's order.
            width: T.
            device: where its tensors are to be.
        """
        length = max(map(sum, lengths))
        source = np.zeros((len(lengths), length), dtype=np.int64)
        document = np.full((len(lengths), length), -1, dtype=np.int64)
        place = np.zeros((sum(map(len, lengths)), width), dtype=np.int64)
        row = 0
        for number, pack in enumerate(lengths):
            at = 0
            for tokens in pack:
                source[number, at : at + tokens] = row * width + np.arange(tokens)
                document[number, at : at + tokens] = row
                place[row, :tokens] = number * length + at + np.arange(tokens)
                row, at = row + 1, at + tokens
        return cls(*(torch.from_numpy(a).to(device) for a in (source, document, place)))

    def put(self, values: Tensor, fill: int | None = None) -> Tensor:
        """Values [B, T, ...] as [P, L, ...]; padding is ``fill``, or whatever stands in the first place."""
        packed = values.flatten(0, 1)[self.source]  # [B*T, ...] -> [P, L, ...]
        return packed if fill is None else packed.masked_fill(self.document < 0, fill)

    def take(self, states: Tensor) -> Tensor:
        """States [P, L, D] as [B, T, D]; padding gets any state."""
        return states.flatten(0, 1)[self.place]  # [P*L, D] -> [B, T, D]

    def moved(self, row: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Row and position [...] in the batch as those in the decoder."""
        place, length = self.place[row, position], self.source.shape[1]
        return place.div(length, rounding_mode="floor"), place % length
