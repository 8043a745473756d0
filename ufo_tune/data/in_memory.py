"""Samples that stay in memory once they were read, pixels and all: for sets that are small and seen often."""

from __future__ import annotations

from dataclasses import dataclass, field

from ufo_tune.core.lazy import Wrapped
from ufo_tune.core.types import Sample, Samples
from ufo_tune.data.images import sample_image


@dataclass(frozen=True)
class InMemory(Wrapped):
    """The same samples, each made once. Every loader worker keeps its own.

    Args:
        samples: whose files are decoded at the first look at each.
    """

    samples: Samples
    _seen: dict[int, Sample] = field(default_factory=dict, repr=False, compare=False)

    def _make(self, number: int) -> Sample:
        """One sample, its image as pixels.

        Raises:
            DataError: see the dataset, and ``sample_image``.
        """
        if number not in self._seen:
            sample = self.samples[number]
            self._seen[number] = sample.with_(image=sample_image(sample))
        return self._seen[number]
