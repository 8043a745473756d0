"""Detection and instance segmentation samples out of a table of pictures.

Here are the filters and checks that all such datasets share.

    samples = choose(pictures, "lvis/train", task="detection", images=folder, annotations=folder, filters=Filters())
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ufo_tune.core import masks
from ufo_tune.core.images import open_image
from ufo_tune.core.lazy import Lazy
from ufo_tune.core.types import Rle, Sample, Targets
from ufo_tune.datasets import _readers as readers
from ufo_tune.datasets._pictures import Picture, Pictures, Thing
from ufo_tune.errors import ConfigError, DataError
from ufo_tune.plugins import did_you_mean

TASKS = ("detection", "instance_segmentation")


@dataclass(frozen=True, slots=True)
class Filters:
    """Which pictures, classes and objects are wanted.

    Args:
        images: so many pictures from the start, or the ids or file names of those wanted; 0: all.
        classes: ask only for these and drop other objects; ``present``: those that the chosen pictures have.
        min_size: objects whose box is narrower or lower than this, in pixels, are dropped.
        min_area: objects whose area, in pixels, is below this are dropped.
        keep_empty: whether pictures without objects stay in.
        with_masks: masks for ``detection`` too (copy-paste needs them).
    """

    images: int | Sequence[int | str] = 0
    classes: Sequence[str] | Literal["present"] = ()
    min_size: float = 1.0
    min_area: float = 0.0
    keep_empty: bool = True
    with_masks: bool = False


@dataclass(frozen=True, slots=True)
class Objects(Lazy[Sample]):
    """Samples made on access; annotations stay on disk. ``rows`` [n] are places in ``pictures``."""

    name: str
    task: str
    classes: tuple[str, ...]
    pictures: Pictures
    rows: np.ndarray
    images: Path
    annotations: Path
    filters: Filters

    @property
    def image_ids(self) -> tuple[str, ...]:
        """One per sample."""
        ids = self.pictures.strings("id")
        return tuple(ids[i] for i in self.rows.tolist())

    def __len__(self) -> int:
        return len(self.rows)

    def _make(self, number: int) -> Sample:
        """One sample.

        Raises:
            DataError: a box outside its image, a mask of another size or damaged, an id PNG that does not fit.
        """
        picture = self.pictures[int(self.rows[number])]
        numbers = _numbers(self.classes)
        things = [t for t in picture.things if t.category in numbers and _large(t, self.filters)]
        source = f"{self.name}#{picture.id}"
        boxes = [readers.box(t.box, picture.size, f"{source}: {t.name}") for t in things]
        wants_masks = self.task == "instance_segmentation" or self.filters.with_masks
        targets = Targets(
            boxes=readers.boxes_tensor(boxes),
            masks=self._masks(picture, things, source) if wants_masks else None,
            labels=torch.tensor([numbers[t.category] for t in things], dtype=torch.long),
            crowd=torch.tensor([t.crowd for t in things], dtype=torch.bool),
        )
        absent = picture.absent
        return Sample(
            image=self.images / picture.file,
            size=picture.size,
            task=self.task,
            classes=self.classes,
            targets=targets,
            source=source,
            image_id=picture.id,
            absent=None if absent is None else tuple(c for c in absent if c in numbers),
            partial=tuple(c for c in picture.partial if c in numbers),
            groups=self.pictures.groups,
        )

    def class_lists(self) -> tuple[np.ndarray, np.ndarray]:
        """The classes [N] of every sample's objects, sample after sample, and where each sample's end [n]."""
        labels, ends = _left(self.pictures, self.classes, self.filters)
        counts = np.diff(ends, prepend=0)[self.rows]  # [n]
        own = np.cumsum(counts)  # [n]
        places = np.arange(counts.sum()) + np.repeat(ends[self.rows] - own, counts)  # [N] of these among all objects
        renumber = np.array([_numbers(self.classes).get(c, -1) for c in self.pictures.classes])
        return renumber[labels[places]], own

    def _masks(self, picture: Picture, things: Sequence[Thing], source: str) -> tuple[Rle, ...]:
        if not picture.ids:
            return tuple(
                readers.mask(t.segmentation, picture.size, f"{source}: {t.name}", self.annotations) for t in things
            )
        file = self.annotations / picture.ids
        colours = open_image(readers.existing(file, "id PNG")).astype(np.int64)  # [H, W, 3]
        if colours.shape[:2] != tuple(picture.size):
            raise DataError(f"{source}: mask is {colours.shape[:2]} but the image is {picture.size}; check {file}")
        ids = colours @ np.array([1, 256, 256 * 256])  # [H, W]
        found = masks.encode_ids(ids)
        for thing in things:
            if thing.segmentation not in found:
                raise DataError(f"{source}: {thing.name} has no pixels in {file}; download both files again")
        return tuple(found[t.segmentation] for t in things)


def choose(pictures: Pictures, name: str, *, task: str, images: Path, annotations: Path, filters: Filters) -> Objects:
    """The samples that the filters leave, in the order of the table or, where pictures are named, in theirs.

    Args:
        pictures: of one split.
        name: such as ``coco/val2017``, for messages.
        task: one of ``TASKS``.
        images: folder that pictures' files are below.
        annotations: folder that id PNGs and mask files are below.
        filters: see ``Filters``.

    Raises:
        ConfigError: an unknown task, class or picture.
    """
    dataset = name.split("/")[0]
    if task not in TASKS:
        raise ConfigError(f"datasets/{dataset}: no such task (got {task!r}); {did_you_mean(task, TASKS)}")
    if isinstance(filters.images, int) and filters.images < 0:
        raise ConfigError(f"datasets/{dataset}.images: is negative (got {filters.images}); give how many, or 0 for all")
    wanted = _wanted(pictures.classes, filters.classes, dataset)
    rows = np.arange(len(pictures))
    if not isinstance(filters.images, int):
        rows = _select(pictures, filters.images, dataset)
    found = Objects(name, task, wanted, pictures, rows, images, annotations, filters)
    if not filters.keep_empty:
        found = replace(found, rows=rows[np.diff(found.class_lists()[1], prepend=0) > 0])
    if isinstance(filters.images, int) and filters.images:
        found = replace(found, rows=found.rows[: filters.images])
    if filters.classes == "present":
        present = np.unique(found.class_lists()[0])
        found = replace(found, classes=tuple(wanted[k] for k in present.tolist()))
    return found


def _left(pictures: Pictures, wanted: Sequence[str], filters: Filters) -> tuple[np.ndarray, np.ndarray]:
    """Classes [N] of all objects that the filters leave, and where each picture's end [pictures].

    One pass over the columns for what ``_large`` says of one object.
    """
    labels, sides, areas, ends = pictures.objects()
    asked = np.isin(pictures.classes, wanted)
    large = (sides >= filters.min_size) & (areas >= filters.min_area)  # [all]
    kept = asked[labels] & (large | (sides < 0))  # [all]
    return labels[kept], np.append(0, np.cumsum(kept))[ends]


def _large(thing: Thing, filters: Filters) -> bool:
    """Reversed boxes stay in, so that they are reported."""
    side = min(thing.box[2] - thing.box[0], thing.box[3] - thing.box[1])
    return side < 0 or (side >= filters.min_size and thing.area >= filters.min_area)


@lru_cache(maxsize=64)
def _numbers(classes: tuple[str, ...]) -> dict[str, int]:
    """Cached because a dataset's list is the same for every sample, and may have a thousand names."""
    return {name: number for number, name in enumerate(classes)}


def _wanted(names: tuple[str, ...], classes: Sequence[str] | str, dataset: str) -> tuple[str, ...]:
    if not classes or classes == "present":
        return names
    for name in classes:
        if name not in names:
            raise ConfigError(f"datasets/{dataset}.classes: no such class (got {name!r}); {did_you_mean(name, names)}")
    return tuple(n for n in names if n in classes)


def _select(pictures: Pictures, images: Sequence[int | str], dataset: str) -> np.ndarray:
    """Those asked for by id, by file name or by its stem, in the order asked for."""
    files, ids = pictures.strings("file"), pictures.strings("id")
    known: dict[str, int] = {}
    for key in (lambda i: Path(files[i]).stem, lambda i: Path(files[i]).name, lambda i: ids[i]):
        known |= {key(i): i for i in range(len(ids))}
    for name in images:
        if str(name) not in known:
            raise ConfigError(f"datasets/{dataset}.images: no such image (got {name!r}); give ids such as {ids[0]}")
    return np.array([known[str(name)] for name in images], dtype=int)
