"""Label maps to instances, so that ``instance_segmentation`` can learn from datasets of label maps.

    instances = to_instances(sample, "components", min_area=16)

Source: one mask per class, without splitting, is what UFO's code makes of a label map (ufo.md 6.6).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from scipy import ndimage

from ufo_tune.core import masks
from ufo_tune.core.types import Sample, Targets
from ufo_tune.errors import ConfigError, DataError

Split = Literal["classes", "components"]
_EIGHT = np.ones((3, 3), dtype=int)  # pixels that touch at a corner belong together


def to_instances(sample: Sample, split: Split = "classes", *, min_area: int = 1) -> Sample:
    """The same picture as a sample of ``instance_segmentation``.

    Args:
        sample: with a label map.
        split: one mask for all pixels of a class, or one for each 8-connected piece of them.
        min_area: masks of fewer pixels are left out.

    Returns:
        Masks in the order of classes, pieces of a class from the top; their tightest boxes; and as ``ignore`` the
        pixels that no class has: an object there is neither right nor wrong.

    Raises:
        ConfigError: no such split.
        DataError: the sample has no label map.
    """
    if split not in get_args(Split):
        raise ConfigError(f"from_labels: no such split (got {split!r}); use {' or '.join(get_args(Split))}")
    label_map = None if sample.targets is None else sample.targets.label_map
    if label_map is None:
        raise DataError(f"{sample.source}: has no label map (got targets without); use a dataset with one")
    ids, classes = _pieces(label_map) if split == "components" else (label_map + 1, range(-1, int(label_map.max()) + 1))
    regions = masks.encode_ids(ids)
    unlabelled = regions.pop(0, None)
    areas = dict(zip(regions, masks.area(tuple(regions.values())).tolist(), strict=True))
    kept = [k for k in regions if areas[k] >= min_area]
    rles = tuple(regions[k] for k in kept)
    targets = Targets(
        boxes=masks.boxes_of(rles),
        masks=rles,
        labels=torch.tensor([classes[k] for k in kept], dtype=torch.long),
        ignore=unlabelled,
    )
    return sample.with_(task="instance_segmentation", targets=targets)


def _pieces(label_map: np.ndarray) -> tuple[np.ndarray, Sequence[int]]:
    """The number of each pixel's piece, [H, W] int32 with 0 for none, and the class of each number."""
    ids, classes = np.zeros(label_map.shape, dtype=np.int32), [-1]
    for number, window in enumerate(ndimage.find_objects(label_map + 1)):
        if window is not None:
            found, count = ndimage.label(label_map[window] == number, structure=_EIGHT)
            ids[window] += np.where(found > 0, found + len(classes) - 1, 0)
            classes += [number] * count
    return ids, classes
