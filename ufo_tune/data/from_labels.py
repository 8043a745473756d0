"""Instance segmentation samples out of a dataset of label maps; see ``data.semantic``."""

from __future__ import annotations

from dataclasses import dataclass

from ufo_tune.core.lazy import Wrapped
from ufo_tune.core.types import Sample, Samples
from ufo_tune.data.semantic import Split, to_instances


@dataclass(frozen=True)
class FromLabels(Wrapped):
    """Samples of task ``semantic_segmentation`` as such of ``instance_segmentation``, made on access.

    Args:
        samples: with label maps.
        split: ``classes``, one object per class; ``components``, one per connected piece of it.
    """

    samples: Samples
    split: Split

    def _make(self, number: int) -> Sample:
        return to_instances(self.samples[number], self.split)
