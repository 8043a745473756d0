"""One writer of our JSONL from the samples of any dataset: every reader in ``datasets/`` is a converter.

    convert(load("/data/coco", "val2017", task="instance_segmentation"), Path("my/val.jsonl"))

What is written is read back by ``jsonl`` as the same boxes, masks (as run lengths), classes and words. Paths of images
are relative to the new file's folder where they lie below it, else absolute. Samples of one image share a row where
the task is about one object (rec, res). Pixels that were only in memory become PNG files in ``<name>_images``, and a
long list of classes that samples share becomes ``<name>_classes.txt``; depth maps become metres in ``<name>_depths``.
Everything appears at the end or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image as pil
from torch import Tensor
from tqdm.auto import tqdm

from ufo_tune import outputs
from ufo_tune.core import masks, placeholders
from ufo_tune.core.types import Rle, Sample, Samples, Targets
from ufo_tune.data.inspect import kind_of
from ufo_tune.datasets.jsonl import IN_WORDS, PER_OBJECT, TASKS, read_row
from ufo_tune.errors import ConfigError, DataError

INLINE_CLASSES = 12
"""Class names that a row spells out; longer lists go to a file of their own."""
_MOST = 32
"""Objects of a row at most: a row is read whole for each of its samples."""
_LINE = "row"
"""Stands for the place of a row that is only tried; the sample's source names it in messages."""


@dataclass(slots=True)
class Converted:
    """What was written: rows, samples in them, and what was left out by kind of fault."""

    rows: int = 0
    samples: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def convert(samples: Samples, out: Path, *, limit: int = 0, skip_bad: bool = False, progress: bool = True) -> Converted:
    """Write samples as JSONL.

    Args:
        samples: of one task that the format knows.
        out: file to write; its folder is made where it is not there.
        limit: the first so many samples; 0: all.
        skip_bad: leave out samples that cannot be made or written, and count them, instead of stopping.
        progress: show a bar.

    Raises:
        ConfigError: ``out`` or what belongs to it exists, or ``limit`` is negative.
        DataError: a bad sample, a task that the format does not know, or nothing to write.
    """
    if limit < 0:
        raise ConfigError(f"limit: is negative (got {limit}); give how many samples, or 0 for all")
    count = min(limit or len(samples), len(samples))
    done = Converted()
    with _Writer.to(out) as writer, tqdm(total=count, desc="convert", unit="sample", disable=not progress) as bar:
        for group in _by_image(samples, count):
            good: list[Sample] = []
            for number in group:
                try:
                    sample = samples[number]
                    writer.row([sample])
                except DataError as error:
                    if not skip_bad:
                        raise
                    done.left_out[kind_of(str(error))] += 1
                else:
                    good.append(sample)
            for together in _alike(good):
                writer.write(together)
                done.rows += 1
                done.samples += len(together)
            bar.update(len(group))
        if not done.rows:
            raise DataError(
                f"{out}: there is nothing to write (got {count} samples, none of them good); check the data"
            )
    return done


def _by_image(samples: Samples, count: int) -> Iterator[list[int]]:
    """Numbers of the samples that may share a row, in the order of their first."""
    ids = getattr(samples, "image_ids", None)
    if ids is None or not count or samples[0].task not in PER_OBJECT:
        yield from ([number] for number in range(count))
        return
    groups: dict[str, list[int]] = {}
    for number, image in zip(range(count), ids, strict=False):
        groups.setdefault(image, []).append(number)
    for group in groups.values():
        yield from (group[start : start + _MOST] for start in range(0, len(group), _MOST))


def _alike(samples: Sequence[Sample]) -> Iterator[list[Sample]]:
    """Samples of one image cut where what a row says once changes: ignored pixels, or whether there are masks."""
    together: list[Sample] = []
    for sample in samples:
        if together and _shared(together[0]) != _shared(sample):
            yield together
            together = []
        together.append(sample)
    if together:
        yield together


def _shared(sample: Sample) -> tuple[Any, ...]:
    targets = sample.targets or Targets()
    ignore = None if targets.ignore is None else _run_lengths(targets.ignore)
    image = None if isinstance(sample.image, np.ndarray) else sample.image
    return (image, sample.size, targets.masks is None, targets.crowd is None, ignore)


class _Writer:
    """Rows into a temporary file, and what lies beside it. Use ``to``."""

    def __init__(self, out: Path, file: TextIO) -> None:
        self.out = out
        self.file = file
        self.images, self.depths, self.class_file = _beside(out)
        self.shared_classes: tuple[str, ...] = ()
        self.saved: dict[str, str] = {}  # image id -> path of the PNG, for pixels from memory
        self.written = 0  # rows, which number the depth maps

    @classmethod
    @contextmanager
    def to(cls, out: Path) -> Iterator[_Writer]:
        """A writer whose files are in place at the end, and gone if anything was wrong.

        Raises:
            ConfigError: one of the files exists, or none can be written there.
        """
        images, depths, class_file = _beside(out)
        part = out.with_name(f".{out.name}.part")
        outputs.file(out)
        for path in (out, images, depths, class_file):
            if path.exists():
                raise ConfigError(f"{path}: exists already (got it as a file to write); give another --out")
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("w", encoding="utf-8", errors="backslashreplace") as file:  # names of files in no UTF-8
                yield cls(out, file)
            part.replace(out)
        except BaseException:
            for folder in (images, depths):
                shutil.rmtree(folder, ignore_errors=True)
            for path in (class_file, part):
                path.unlink(missing_ok=True)
            raise

    def row(self, samples: Sequence[Sample]) -> str:
        """One line, tried by the reader's own check.

        Raises:
            DataError: the samples cannot be written, or not be read again.
        """
        first = samples[0]
        if first.task not in TASKS:
            raise DataError(f"{first.source}: task {first.task} has no rows (got it to write); use {', '.join(TASKS)}")
        if first.targets is None:
            raise DataError(f"{first.source}: has no targets to write (got None); use an annotated split")
        row: dict[str, Any] = {}
        if first.image is not None:
            row = {"image": self._image(first), "width": first.size[1], "height": first.size[0]}
        if first.task == "depth":
            row |= {"depth": self._depth_path(first), "depth_scale": 1}
        else:
            row |= _words(first, first.targets) if first.task in IN_WORDS else self._objects(samples)
        try:
            found = read_row(json.dumps(row).encode(), _LINE, ())
        except DataError as error:
            raise DataError(f"{first.source}: {str(error).removeprefix(f'{_LINE}: ')}") from error
        if first.task not in found.tasks:
            raise DataError(
                f"{first.source}: makes a row of {', '.join(found.tasks)} (got task {first.task}); check it"
            )
        return json.dumps(row, ensure_ascii=False)

    def write(self, samples: Sequence[Sample]) -> None:
        """One line of samples that show one image, and its image where there is no file of it."""
        first = samples[0]
        if isinstance(first.image, np.ndarray) and (key := _image_key(first)) not in self.saved:
            self.images.mkdir(exist_ok=True)
            self.saved[key] = f"{self.images.name}/{len(self.saved):06d}.png"
            pil.fromarray(first.image).save(self.out.parent / self.saved[key])
        if first.targets is not None and first.targets.depth is not None:
            self.depths.mkdir(exist_ok=True)
            np.save(self.out.parent / self._depth_path(first), first.targets.depth)
        self.file.write(self.row(samples) + "\n")
        self.written += 1

    def _image(self, sample: Sample) -> str:
        if isinstance(sample.image, np.ndarray):
            return self.saved.get(_image_key(sample), "not yet saved")
        path, folder = (Path(os.path.abspath(p)) for p in (str(sample.image), self.out.parent))
        return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()

    def _depth_path(self, sample: Sample) -> str:
        if sample.targets is None or sample.targets.depth is None:
            raise DataError(f"{sample.source}: has no depth map to write (got targets without); use another dataset")
        return f"{self.depths.name}/{self.written:06d}.npy"

    def _objects(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """``objects`` of a picture with all its samples, and what the picture's row says once."""
        first = samples[0]
        assert first.targets is not None
        row: dict[str, Any] = {}
        if first.task == "detection" and first.targets.masks is None:
            row["task"] = first.task  # else a picture without objects would serve instance segmentation too
        if first.task in PER_OBJECT:
            refs = [_phrase(sample) for sample in samples]
        else:
            refs = [first.classes[k] for k in first.targets.labels.tolist()]
            row["classes"] = self._classes(first)
            if first.absent is not None:
                row["absent"] = list(first.absent)
            if first.partial:
                row["partial"] = list(first.partial)
        truths = [sample.targets for sample in samples if sample.targets is not None]
        # A phrase has its place in the lists, also where it names nothing.
        none: list[Any] = [[]] if first.task in PER_OBJECT else []
        row["objects"] = {"ref": refs, "bbox": [b for t in truths for b in [*map(_numbers, t.boxes)] or none]}
        if first.targets.masks is not None:
            row["objects"]["masks"] = [m for t in truths for m in [*map(_run_lengths, t.masks or ())] or none]
        if any(t.crowd is not None and bool(t.crowd.any()) for t in truths):
            row["objects"]["crowd"] = [bool(c) for t in truths if t.crowd is not None for c in t.crowd]
        if first.targets.ignore is not None and int(masks.area([first.targets.ignore])[0]):
            row["ignore"] = _run_lengths(first.targets.ignore)
        return row

    def _classes(self, sample: Sample) -> list[str] | str:
        """The names, or the file that holds them: that of the first long list."""
        if len(sample.classes) <= INLINE_CLASSES:
            return list(sample.classes)
        if not self.shared_classes:
            self.shared_classes = sample.classes
            text = "".join(f"{name}\n" for name in sample.classes)
            self.class_file.write_text(text, encoding="utf-8", errors="surrogatepass")
        return self.class_file.name if sample.classes == self.shared_classes else list(sample.classes)


def _beside(out: Path) -> tuple[Path, Path, Path]:
    """The folders of images and depth maps and the file of class names that belong to a JSONL file."""
    return (
        out.with_name(f"{out.stem}_images"),
        out.with_name(f"{out.stem}_depths"),
        out.with_name(f"{out.stem}_classes.txt"),
    )


def _image_key(sample: Sample) -> str:
    return sample.image_id or sample.source


def _words(sample: Sample, targets: Targets) -> dict[str, Any]:
    """A question and its answer; with earlier turns as messages; a caption where nothing is asked."""
    said = [*sample.history, (sample.text, targets.text)]
    kinds = [kind for turn in said for text in turn for kind in placeholders.found(text)]
    row: dict[str, Any] = {}
    if kinds or sample.task == "conversation":
        row["task"] = sample.task  # else it would follow from whether the words point
    if sample.history:
        turns = [({"role": "user", "content": q}, {"role": "assistant", "content": a}) for q, a in said]
        row["messages"] = [message for turn in turns for message in turn]
    else:
        row |= {"question": sample.text} if sample.text else {}
        row["answer"] = list(targets.references) or targets.text
    if len(targets.boxes):
        row["objects"] = {"bbox": [_numbers(box) for box in targets.boxes]}
    if targets.masks and placeholders.MASK in kinds:
        drawn = zip(kinds, targets.masks, strict=False)  # the reader counts them
        row["objects"]["masks"] = [_run_lengths(m) if kind == placeholders.MASK else [] for kind, m in drawn]
    return row


def _phrase(sample: Sample) -> str:
    count = 0 if sample.targets is None else len(sample.targets.boxes)
    if count > 1:
        raise DataError(f"{sample.source}: a phrase has one object in a row (got {count}); such samples have no row")
    if sample.targets is not None and (said := sample.targets.text):
        raise DataError(f"{sample.source}: a phrase has no words that explain it (got {said!r:.40}); leave them out")
    return sample.text


def _numbers(box: Tensor) -> list[float]:
    """The shortest numbers that are read as the same float32."""
    shortest: Iterable[float] = (float(str(v)) for v in box.numpy())
    return [int(v) if v.is_integer() else v for v in shortest]


def _run_lengths(mask: Rle) -> dict[str, Any]:
    counts = mask["counts"]
    return {"size": [int(v) for v in mask["size"]], "counts": counts.decode() if isinstance(counts, bytes) else counts}
