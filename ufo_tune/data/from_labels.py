"""Instance segmentation samples out of a dataset of label maps; see ``data.semantic``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

from ufo_tune.core.types import Sample, Samples
from ufo_tune.data.semantic import Split, to_instances


@dataclass(frozen=True)
class FromLabels(Sequence[Sample]):
    """Samples of task ``semantic_segmentation`` as such of ``instance_segmentation``, made on access.

    Args:
        samples: with label maps.
        split: ``classes``, one object per class; ``components``, one per connected piece of it.
    """

    samples: Samples
    split: Split

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
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return to_instances(self.samples[index], self.split)
