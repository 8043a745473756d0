"""``jsonl``: your own data, one JSON object a line; a superset of ms-swift's ``objects``.

    samples = load("my_data", "train", task="rec")     # my_data/train.jsonl, images relative to my_data

    {"image": "a.jpg", "objects": {"ref": ["the red cup"], "bbox": [[10, 20, 90, 80]]}}
    {"image": "a.jpg", "objects": {"ref": ["cup", "cup"], "bbox": [[..], [..]]}, "classes": ["cup", "plate"]}
    {"image": "a.jpg", "question": "How many cups are there?", "answer": "two"}
    {"image": "a.jpg", "question": "Where is the cup?", "answer": "At <bbox>.", "objects": {"bbox": [[10, 20, 90, 80]]}}

===================  ===========================================================================================
key                  means
===================  ===========================================================================================
image, or images     path below the folder (or absolute); ``images`` is a list, as ms-swift has it; a question and
                     answer may do without
objects.ref          one text per object: its phrase, or its class where ``classes`` are given
objects.bbox         one ``[x1, y1, x2, y2]`` per object; may be left out where there are masks; ``[]`` is none, and a
                     phrase without box and mask names nothing in the image
objects.bbox_type    ``real`` (default): pixels of the original image as a viewer shows it; ``norm1``: 0 to 1
objects.image_id     number of each object's image in ``images`` (default 0)
objects.masks        one per object: COCO run lengths ``{"size": [H, W], "counts": ..}``, polygons
                     ``[[x, y, x, y, ..], ..]`` in pixels, or the path of a PNG (not 0: inside); ``[]`` is none
objects.crowd        one true or false per object: a crowd, not counted by COCO AP
classes              class names to ask for; ``ref`` then names classes (no ``objects``: an image without any).
                     A list, or the name of a file beside this one with one a line, which rows then share
absent               those of the classes that were looked for in vain, where not all objects of all classes are
                     marked; left out: whatever has no object is absent
partial              those of the classes of which not every object is marked (LVIS): what is found besides is not wrong
ignore               a mask of pixels that are not scored, as one of ``objects.masks``
question, answer     a question and its answer in words (a list: several true ones; without a question: a caption);
                     or ms-swift's ``messages``, whose last turn is asked after the others. ``<bbox>`` and, in
                     answers, ``<mask>`` stand for the objects in their order, ``<ref-object>`` for ``objects.ref``
depth, depth_scale   path of a 16-bit PNG, TIFF or PGM or an .npy [H, W], 0 where unknown, and metres per unit
                     (default 0.001)
task                 what the row is for; default: what it holds (below)
width, height        size of the image, checked where given
===================  ===========================================================================================

A row without ``task`` serves ``vqa`` if it has a question, ``caption`` if only an answer; ``detection`` (with masks
also ``instance_segmentation``) if it has classes; else ``rec`` (with masks also ``res``), one sample per object. Words
about one image that point by ``<bbox>`` or ``<mask>`` are a ``conversation``; where every object has its phrase the row
serves ``rec`` and ``res`` too. With a depth map it serves ``depth`` as well. Rows that do not serve the task are passed
over, so one file may hold several tasks. Other keys are ignored unless they look like a misspelt one.

Lines are parsed once, for their shape, and a memory-mapped table keeps where they are; images and masks are read on
access. ``ufo-tune data convert`` writes such a file from any other dataset, ``data validate`` lists all faults of one.

Source: swift.readthedocs.io, "Custom dataset", grounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from ufo_tune.core import masks
from ufo_tune.core.images import image_size
from ufo_tune.core.lazy import Lazy
from ufo_tune.core.types import NO_SIZE, Rle, Sample, Targets
from ufo_tune.datasets import _jsonl_rows, _jsonl_turns, _table
from ufo_tune.datasets import _readers as readers
from ufo_tune.datasets._depth_maps import Encoding, read_depth
from ufo_tune.datasets._jsonl_rows import IN_WORDS, PER_OBJECT, TASKS, Row, class_list, mask_value, read_row
from ufo_tune.errors import ConfigError, DataError
from ufo_tune.plugins import did_you_mean

if TYPE_CHECKING:
    from datasets import Features

__all__ = ["PER_OBJECT", "TASKS", "Jsonl", "load", "open_file", "read_row"]


@dataclass(frozen=True, slots=True)
class Jsonl(Lazy[Sample]):
    """Samples of one task of one file. ``ends`` [rows] counts the samples up to each row, itself included."""

    path: Path
    images: Path
    task: str
    classes: tuple[str, ...]
    table: _table.Table
    ends: np.ndarray

    @property
    def skipped(self) -> int:
        """How many rows are left out because they are bad."""
        return int(self.table.column("bad").to_numpy().sum())

    @property
    def served(self) -> dict[str, int]:
        """Samples of every task that the file has any for."""
        counts = {task: int(self.table.column(task).to_numpy().sum()) for task in TASKS}
        return {task: count for task, count in counts.items() if count}

    @property
    def image_ids(self) -> tuple[str, ...]:
        """One per sample."""
        columns = (self.table.column(name).to_pylist() for name in ("line", "images", "image_of"))
        counts = np.diff(self.ends, prepend=0).tolist()
        ids: list[str] = []
        for count, line, images, image_of in zip(counts, *columns, strict=True):
            if count and not images:
                ids.append(f"{self.path}:{line}")
            elif count:
                ids += [images[k] for k in image_of] if self.task in PER_OBJECT else images
        return tuple(ids)

    def faults(self) -> Iterator[str]:
        """What is wrong with each row that is left out, in the order of lines."""
        for number in np.flatnonzero(self.table.column("bad").to_numpy()).tolist():
            try:
                self._row(number)
            except DataError as error:
                yield str(error)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def _make(self, number: int) -> Sample:
        """One sample.

        Raises:
            DataError: the image is missing, a box is outside it, a mask has another size, a class is unknown, ...
        """
        place = int(np.searchsorted(self.ends, number, side="right"))
        row = self._row(place)
        part = number - (int(self.ends[place - 1]) if place else 0)
        source = row.where if row.parts(self.task) == 1 else f"{row.where}#{part}"
        shown = row.image_of[part] if self.task in PER_OBJECT else part
        image = self.images / row.images[shown] if row.images else None
        sample = Sample(
            image=image,
            size=NO_SIZE if image is None else self._size(row, image),
            task=self.task,
            source=source,
            image_id=row.images[shown] if row.images else row.where,
        )
        if self.task in IN_WORDS:
            pointed = range(len(row.image_of) if self.task == "conversation" else 0)
            targets = self._targets(row, pointed, (), sample.size)
            targets = replace(targets, text=row.answer, references=row.references)
            return sample.with_(text=row.question, history=row.history, targets=targets)
        if self.task in PER_OBJECT:
            named = [part] if row.has_box(part) or row.has_mask(part) else []
            return sample.with_(text=row.refs[part], targets=self._targets(row, named, (), sample.size))
        if self.task == "depth":
            return sample.with_(targets=Targets(depth=self._depth(row, sample.size)))
        classes = self._classes(row)
        targets = self._targets(row, row.objects_of(part), classes, sample.size)
        return sample.with_(classes=classes, targets=targets, absent=row.absent, partial=row.partial)

    def _row(self, number: int) -> Row:
        place = self.table[number]
        with self.path.open("rb") as file:
            file.seek(place["offset"])
            return read_row(file.readline(), f"{self.path}:{place['line']}", self.classes)

    def _classes(self, row: Row) -> tuple[str, ...]:
        classes = class_list(self.path.parent / row.classes_file) if row.classes_file else row.classes
        for key, names in (("absent", row.absent or ()), ("partial", row.partial)):
            for name in names:
                readers.class_number(name, classes, f"{row.where}: {key}")
        return classes

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

    def _targets(self, row: Row, numbers: Sequence[int], classes: tuple[str, ...], size: tuple[int, int]) -> Targets:
        talks = self.task in IN_WORDS
        with_masks = row.masks is not None if talks else self.task in ("res", "instance_segmentation")
        objects = [self._object(row, k, size, with_masks) for k in numbers]
        ignored = with_masks and row.ignore is not None
        labels = [0] * len(numbers)
        if not talks and self.task not in PER_OBJECT:
            labels = [readers.class_number(row.refs[k], classes, f"{row.where}: object {k}") for k in numbers]
        return Targets(
            boxes=readers.boxes_tensor([box for box, _ in objects]),
            masks=tuple(rle for _, rle in objects if rle is not None) if with_masks else None,
            labels=torch.tensor(labels, dtype=torch.long),
            crowd=torch.tensor([row.crowd[k] for k in numbers], dtype=torch.bool) if row.crowd else None,
            ignore=self._mask(row.ignore, f"{row.where}: ignore", size) if ignored else None,
        )

    def _object(self, row: Row, number: int, size: tuple[int, int], with_masks: bool) -> tuple[list[float], Rle | None]:
        """Box and mask of one object; a mask's bounds where it has no box."""
        rle = None
        if self.task in IN_WORDS and with_masks and not row.has_mask(number):  # the words point at its box
            rle = masks.encode(np.zeros(size, dtype=bool))
        elif row.masks is not None and (with_masks or not row.has_box(number)):
            rle = self._mask(row.masks[number], f"{row.where}: object {number}", size)
        if row.has_box(number) or rle is None:
            return _box(row, number, size), rle
        return masks.boxes_of([rle])[0].tolist(), rle

    def _depth(self, row: Row, size: tuple[int, int]) -> np.ndarray:
        try:
            return read_depth(self.images / row.depth, size, Encoding(scale=row.depth_scale))
        except DataError as error:
            raise DataError(f"{row.where}: {error}") from error

    def _mask(self, value: Any, where: str, size: tuple[int, int]) -> Rle:
        return readers.mask(mask_value(value, where), size, where, self.images)


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
        raise DataError(nothing_in(found))
    return found


def nothing_in(found: Jsonl) -> str:
    """What to say of a file that has nothing for a task."""
    has = ", ".join(f"{k} {v}" for k, v in sorted(found.served.items())) or "no good row"
    return (
        f"{found.path}: has no rows for task {found.task} (got {has}); detection needs classes in the rows or the "
        "option classes, res and instance_segmentation need masks"
    )


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
    if next(_lines(path), None) is None:
        raise DataError(f"{path}: holds no rows (got an empty file); write one JSON object per line")
    names = tuple(classes)
    table = _table.table(
        "jsonl",
        lambda: ({}, map(_indexed, _lines(path), repeat(names))),
        features=_features,
        sources=[path],
        code=[__file__, _jsonl_rows.__file__, _jsonl_turns.__file__],
        options={"classes": names},
    )
    ends = np.cumsum(table.column(task).to_numpy(), dtype=np.int64)
    found = Jsonl(path, Path(image_root) if image_root else path.parent, task, names, table, ends)
    if on_bad_sample == "error" and found.skipped:
        raise DataError(next(found.faults()))
    return found


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Offset, number from 1, and bytes of every line that is not blank."""
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield offset, number, line
            offset += len(line)


def _indexed(place: tuple[int, int, bytes], classes: tuple[str, ...]) -> dict[str, Any]:
    """Where a row is, how many samples of each task it gives, and what they show. Faults are told when it is read."""
    offset, number, line = place
    record: dict[str, Any] = {"offset": offset, "line": number, **dict.fromkeys(TASKS, 0)}
    try:
        row = read_row(line, f"line {number}", classes)
    except DataError:
        return record | {"bad": True, "images": [], "image_of": []}
    counts = {task: row.parts(task) for task in row.tasks}
    return record | counts | {"bad": False, "images": list(row.images), "image_of": list(row.image_of)}


def _features() -> Features:
    from datasets import Features, Value

    return Features(
        {
            "offset": Value("int64"),
            "line": Value("int64"),
            "bad": Value("bool"),
            **{task: Value("int32") for task in TASKS},
            "images": [Value("string")],
            "image_of": [Value("int32")],
        }
    )


def _box(row: Row, number: int, size: tuple[int, int]) -> list[float]:
    assert row.boxes is not None
    where = f"{row.where}: object {number}"
    values = readers.numbers(row.boxes[number], 4, f"{where}: bbox")
    if row.normalised:
        if not all(0 <= v <= 1 for v in values):
            raise DataError(f"{where}: box is not in 0 to 1 (got {values}); bbox_type norm1 says so, or use real")
        values = [v * side for v, side in zip(values, (size[1], size[0]) * 2, strict=True)]
    return readers.box(values, size, where)
