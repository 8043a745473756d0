"""``jsonl``: your own data, one JSON object a line; a superset of ms-swift's ``objects``.

    samples = load("my_data", "train", task="rec")     # my_data/train.jsonl, images relative to my_data

    {"image": "a.jpg", "objects": {"ref": ["the red cup"], "bbox": [[10, 20, 90, 80]]}}
    {"image": "a.jpg", "objects": {"ref": ["cup", "cup"], "bbox": [[..], [..]]}, "classes": ["cup", "plate"]}
    {"image": "a.jpg", "question": "How many cups are there?", "answer": "two"}

===================  ===========================================================================================
key                  means
===================  ===========================================================================================
image, or images     path below the folder (or absolute); ``images`` is a list, as ms-swift has it; a question and
                     answer may do without
objects.ref          one text per object: its phrase, or its class where ``classes`` are given
objects.bbox         one ``[x1, y1, x2, y2]`` per object; may be left out where there are masks
objects.bbox_type    ``real`` (default): pixels of the original image as a viewer shows it; ``norm1``: 0 to 1
objects.image_id     number of each object's image in ``images`` (default 0)
objects.masks        one per object: COCO run lengths ``{"size": [H, W], "counts": ..}``, polygons
                     ``[[x, y, x, y, ..], ..]`` in pixels, or the path of a PNG (not 0: inside)
objects.crowd        one true or false per object: a crowd, not counted by COCO AP
classes              class names to ask for; ``ref`` then names classes (no ``objects``: an image without any)
question, answer     a question and its answer in words; or ms-swift's ``messages`` with one turn
task                 what the row is for; default: what it holds (below)
width, height        size of the image, checked where given
===================  ===========================================================================================

A row without ``task`` serves ``vqa`` if it has a question; ``detection`` (with masks also ``instance_segmentation``)
if it has classes; else ``rec`` (with masks also ``res``), one sample per object. Rows that do not serve the task are
passed over, so one file may hold several tasks. Other keys are ignored unless they look like a misspelt one.

At the start lines are parsed once, for their shape, and only offsets are kept; images and masks are read on access.

Source: swift.readthedocs.io, "Custom dataset", grounding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, overload

import torch

from ufo_tune.core import masks
from ufo_tune.core.images import image_size
from ufo_tune.core.types import NO_SIZE, Rle, Sample, Targets
from ufo_tune.datasets import _readers as readers
from ufo_tune.datasets._jsonl_rows import PER_OBJECT, TASKS, Row, read_row
from ufo_tune.errors import ConfigError, DataError
from ufo_tune.plugins import did_you_mean

__all__ = ["TASKS", "Jsonl", "load", "open_file"]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one sample is: byte offset and number of its line, and which object or image of that row."""

    offset: int
    line: int
    part: int


@dataclass(frozen=True, slots=True)
class Jsonl(Sequence[Sample]):
    """Samples of one task of one file. ``problems`` are the rows that were left out, ``served`` counts all tasks."""

    path: Path
    images: Path
    task: str
    classes: tuple[str, ...]
    places: tuple[_Place, ...]
    image_ids: tuple[str, ...]
    problems: tuple[str, ...] = ()
    served: dict[str, int] = field(default_factory=dict)

    @property
    def skipped(self) -> int:
        """How many rows were left out because they are bad."""
        return len(self.problems)

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """One sample.

        Raises:
            DataError: the image is missing, a box is outside it, a mask has another size, a class is unknown, ...
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = self.places[index]
        with self.path.open("rb") as file:
            file.seek(place.offset)
            line = file.readline()
        row = read_row(line, f"{self.path}:{place.line}", self.classes)
        if not row.images:
            answer = Targets(text=row.answer)
            return Sample(None, NO_SIZE, self.task, row.question, targets=answer, source=row.where, image_id=row.where)
        numbers = [place.part] if self.task in PER_OBJECT else row.objects_of(place.part)
        shown = row.image_of[place.part] if self.task in PER_OBJECT else place.part
        image = self.images / row.images[shown]
        size = self._size(row, image)
        return Sample(
            image=image,
            size=size,
            task=self.task,
            text=row.question if self.task == "vqa" else row.refs[place.part] if self.task in PER_OBJECT else "",
            classes=() if self.task in (*PER_OBJECT, "vqa") else row.classes,
            targets=Targets(text=row.answer) if self.task == "vqa" else self._targets(row, numbers, size),
            source=row.where,
            image_id=row.images[shown],
        )

    def _size(self, row: Row, image: Path) -> tuple[int, int]:
        try:
            size = image_size(image)
        except DataError as error:
            raise DataError(f"{row.where}: {error}") from error
        if row.size is not None and row.size != size:
            raise DataError(
                f"{row.where}: image is {size[1]}x{size[0]} but the row says {row.size[1]}x{row.size[0]}; "
                "mend the row, and its boxes if they were made for another size"
            )
        return size

    def _targets(self, row: Row, numbers: Sequence[int], size: tuple[int, int]) -> Targets:
        wanted = row.masks is not None and (self.task in ("res", "instance_segmentation") or row.boxes is None)
        rles = [self._mask(row, k, size) for k in numbers] if wanted else []
        if row.boxes is None:
            boxes = masks.boxes_of(rles)
        else:
            boxes = readers.boxes_tensor([_box(row, k, size) for k in numbers])
        labels = [0] * len(numbers)
        if self.task not in PER_OBJECT:
            labels = [readers.class_number(row.refs[k], row.classes, f"{row.where}: object {k}") for k in numbers]
        return Targets(
            boxes=boxes,
            masks=tuple(rles) if self.task in ("res", "instance_segmentation") else None,
            labels=torch.tensor(labels, dtype=torch.long),
            crowd=torch.tensor([row.crowd[k] for k in numbers], dtype=torch.bool) if row.crowd else None,
        )

    def _mask(self, row: Row, number: int, size: tuple[int, int]) -> Rle:
        assert row.masks is not None
        return readers.mask(row.masks[number], size, f"{row.where}: object {number}", self.images)


def load(
    root: str,
    split: str,
    *,
    task: str,
    classes: Sequence[str] = (),
    image_root: str = "",
    on_bad_sample: Literal["error", "skip"] = "error",
) -> Jsonl:
    """The samples of ``root/split.jsonl`` that serve a task.

    Args:
        root: folder of the file and, unless ``image_root`` says otherwise, of the images.
        split: the file's name without ``.jsonl``.
        task: one of ``TASKS``.
        classes: class names for rows that have none of their own.
        image_root: folder that image and mask paths are below.
        on_bad_sample: whether a row of the wrong shape stops, or is left out and counted (``skipped``).

    Raises:
        ConfigError: an unknown task.
        DataError: no such file, a bad row (with its line), or no row for the task.
    """
    path = Path(root) / f"{split}.jsonl"
    found = open_file(path, task=task, classes=classes, image_root=image_root, on_bad_sample=on_bad_sample)
    if not len(found):
        has = ", ".join(f"{k} {v}" for k, v in sorted(found.served.items())) or "no good row"
        raise DataError(
            f"{path}: has no rows for task {task} (got {has}); detection needs classes in the rows or the option "
            "classes, res and instance_segmentation need masks"
        )
    return found


def open_file(
    path: Path,
    *,
    task: str,
    classes: Sequence[str] = (),
    image_root: str = "",
    on_bad_sample: Literal["error", "skip"] = "error",
) -> Jsonl:
    """As ``load``, from a path, and without a complaint where the file has nothing for the task."""
    if task not in TASKS:
        raise ConfigError(f"datasets/jsonl: no such task (got {task!r}); {did_you_mean(task, TASKS)}")
    readers.existing(path, "JSONL file")
    places: list[_Place] = []
    ids: list[str] = []
    problems: list[str] = []
    served: Counter[str] = Counter()
    for offset, number, line in _lines(path):
        try:
            row = read_row(line, f"{path}:{number}", tuple(classes))
        except DataError as error:
            if on_bad_sample == "error":
                raise
            problems.append(str(error))
            continue
        for kind in row.tasks:
            served[kind] += row.parts(kind)
        if task in row.tasks:
            for part in range(row.parts(task)):
                places.append(_Place(offset, number, part))
                shown = row.image_of[part] if task in PER_OBJECT else part
                ids.append(row.images[shown] if row.images else f"{path}:{number}")
    images = Path(image_root) if image_root else path.parent
    return Jsonl(path, images, task, tuple(classes), tuple(places), tuple(ids), tuple(problems), dict(served))


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Offset, number from 1, and bytes of every line that is not blank."""
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield offset, number, line
            offset += len(line)


def _box(row: Row, number: int, size: tuple[int, int]) -> list[float]:
    assert row.boxes is not None
    where = f"{row.where}: object {number}"
    values = readers.numbers(row.boxes[number], 4, f"{where}: bbox")
    if row.normalised:
        if not all(0 <= v <= 1 for v in values):
            raise DataError(f"{where}: box is not in 0 to 1 (got {values}); bbox_type norm1 says so, or use real")
        values = [v * side for v, side in zip(values, (size[1], size[0]) * 2, strict=True)]
    return readers.box(values, size, where)
