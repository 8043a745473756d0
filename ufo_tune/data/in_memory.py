"""Samples that stay in memory once they were read, pixels and all: for sets that are small and seen often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from ufo_tune.core.types import Sample, Samples
from ufo_tune.data.images import sample_image


@dataclass(frozen=True)
class InMemory(Sequence[Sample]):
    """The same samples, each made once. Every loader worker keeps its own.

    Args:
        samples: whose files are decoded at the first look at each.
    """

    samples: Samples
    _seen: dict[int, Sample] = field(default_factory=dict, repr=False, compare=False)

    def __getattr__(self, name: str) -> Any:
        """``image_ids`` and ``class_lists`` are the dataset's, where it has them."""
        if name in ("image_ids", "class_lists"):
            return getattr(self.samples, name)
        raise AttributeError(name)

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """One sample, its image as pixels.

        Raises:
            DataError: see the dataset, and ``sample_image``.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index not in self._seen:
            sample = self.samples[index]
            self._seen[index] = sample.with_(image=sample_image(sample))
        return self._seen[index]
