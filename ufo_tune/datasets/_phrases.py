"""Samples of ``rec`` and ``res`` out of a memory-mapped table of phrases: one row per sentence.

    samples = read("refcoco/val", "rec", make, images=folder, sources=[refs, instances], code=[__file__])
    samples[7].text, samples[7].targets.boxes

A phrase may name several regions. They are united into one object, because both tasks are about exactly one: its mask
is all their pixels, its box their bounds (``each`` keeps the boxes of ``rec`` apart). ``make`` runs once per content of
the sources. Boxes and masks are kept as the files have them and are understood on access, where a fault can name the
sample; so is a phrase without words.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ufo_tune.core import masks
from ufo_tune.core.lazy import Lazy
from ufo_tune.core.types import Rle, Sample, Targets
from ufo_tune.datasets import _readers as readers
from ufo_tune.datasets import _table
from ufo_tune.errors import ConfigError, DataError
from ufo_tune.plugins import did_you_mean

if TYPE_CHECKING:
    from datasets import Features

TASKS = ("rec", "res")
_KINDS = {str: "a text", int: "a whole number", list: "a list", bool: "true or false"}


@dataclass(frozen=True, slots=True)
class Phrase:
    """One sentence and the regions that it names, as the files have them.

    ``boxes`` are xyxy, ``masks`` whatever ``_readers.mask`` takes, a list of run lengths, or the path of a SAIAPR
    ``.mat`` file; one per region, or none at all where the dataset has none. Without either, nothing is named.
    """

    file: str  # below the folder of images
    size: tuple[int, int]  # (H, W)
    image_id: str
    text: str
    name: str  # of the row within its split, for messages
    boxes: Sequence[Sequence[float]] = ()
    masks: Sequence[Any] = ()
    ignore: Rle | None = None  # pixels that are not scored
    said: str = ""  # words that explain the regions


Make = Callable[[Counter[str]], Iterable[Phrase]]
"""Reads the sources; counts what it leaves out, by reason, in the counter that it is given."""


@dataclass(frozen=True, slots=True)
class Phrases(Lazy[Sample]):
    """Samples made on access; annotations stay on disk. ``name`` is dataset and split."""

    name: str
    task: str
    table: _table.Table
    images: Path
    masks: Path
    each: bool = False

    @property
    def image_ids(self) -> Sequence[str]:
        """One per sample."""
        return _Column(self.table, "image_id")

    @property
    def dropped(self) -> Mapping[str, int]:
        """Sentences of the split that were left out, by reason."""
        counts: dict[str, int] = self.table.meta["dropped"]
        return counts

    def __len__(self) -> int:
        return len(self.table)

    def _make(self, number: int) -> Sample:
        """One sample.

        Raises:
            DataError: no words, a box outside its image, a mask of another size, damaged or empty.
        """
        row = self.table[number]
        source = f"{self.name}#{row['name']}"
        if not row["text"].strip():
            raise DataError(f"{source}: the phrase is empty (got {row['text']!r}); mend the row or drop it")
        size = (row["height"], row["width"])
        return Sample(
            image=self.images / row["file"],
            size=size,
            task=self.task,
            text=row["text"],
            targets=self._targets(row, size, source),
            source=source,
            image_id=row["image_id"],
        )

    def _targets(self, row: dict[str, Any], size: tuple[int, int], source: str) -> Targets:
        quads = zip(*(iter(row["boxes"]),) * 4, strict=True)  # regions x 4
        boxes = readers.boxes_tensor([readers.box(list(q), size, source) for q in quads])
        parts = [] if self.task == "rec" and len(boxes) else [self._mask(m, size, source) for m in row["masks"]]
        if self.task == "res" and len(parts) < len(boxes):
            raise DataError(f"{source}: a region has no mask (got {len(parts)} of {len(boxes)}); check the annotations")
        united = (masks.union(parts),) if parts else ()
        if len(boxes) and not (self.each and self.task == "rec"):
            boxes = torch.cat([boxes[:, :2].amin(0), boxes[:, 2:].amax(0)])[None]  # [1, 4]
        elif not len(boxes):
            boxes = masks.boxes_of(united)
        ignore = json.loads(row["ignore"]) if row["ignore"] else None
        return Targets(
            boxes=boxes,
            masks=united if self.task == "res" else None,
            labels=torch.zeros(len(boxes), dtype=torch.long),
            ignore=None if ignore is None else readers.mask(ignore, size, f"{source}: ignored region", self.masks),
            text=row["said"],
        )

    def _mask(self, stored: bytes, size: tuple[int, int], source: str) -> Rle:
        value = json.loads(stored)
        if isinstance(value, str) and value.endswith(".mat"):
            return _saiapr_mask(self.masks / value, size, source)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return masks.union([readers.mask(v, size, source, self.masks) for v in value])
        return readers.mask(value, size, source, self.masks)


def read(
    name: str,
    task: str,
    make: Make,
    *,
    images: Path,
    sources: Sequence[Path],
    code: Sequence[str | Path],
    mask_folder: Path | None = None,
    options: Mapping[str, Any] | None = None,
    each: bool = False,
) -> Phrases:
    """The samples that ``make`` gives, from the cache where they have been read before.

    Args:
        name: dataset and split, such as ``refcoco/val``.
        task: one of ``TASKS``; the table serves both.
        make: reads the sources.
        images: folder that the phrases' files are below.
        sources: see ``_table.table``.
        code: likewise.
        mask_folder: folder that mask files are below; default the images'.
        options: what else the rows depend on.
        each: whether ``rec`` has a box for each region, instead of one around all.

    Raises:
        DataError: a source is missing, or ``make`` finds fault with it.
    """

    def rows() -> _table.Made:
        dropped: Counter[str] = Counter()  # complete once the rows are written, and only then is meta
        return {"dropped": dropped}, (_record(phrase) for phrase in make(dropped))

    found = _table.table(
        name.replace("/", "-"),
        rows,
        features=_features,
        sources=sources,
        code=[*code, __file__, readers.__file__],
        options={"name": name, **(options or {})},
    )
    return Phrases(name, task, found, images, mask_folder or images, each)


def chosen(option: str, value: str, known: Iterable[str]) -> str:
    """The value of an option, if it is one of those known.

    Raises:
        ConfigError: it is not.
    """
    choices = tuple(known)
    if value not in choices:
        raise ConfigError(f"datasets/{option}: no such choice (got {value!r}); {did_you_mean(str(value), choices)}")
    return value


def field(row: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """A field of an object, if it is of one of the given types; true and false are no numbers.

    Raises:
        DataError: it is missing, or of another type.
    """
    value = row.get(key) if isinstance(row, Mapping) else None
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join(_KINDS[k] for k in kinds)
        raise DataError(f"{where}: {key!r} is not {wanted} (got {value!r:.80}); mend the file")
    return value


@dataclass(frozen=True, slots=True)
class _Column(Lazy[str]):
    """A column of texts that stays on disk: five million strings would be memory for nothing."""

    table: _table.Table
    name: str

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[str]:
        for chunk in self.table.column(self.name).chunks:
            yield from chunk.to_pylist()

    def _make(self, number: int) -> str:
        found: str = self.table.column(self.name)[number].as_py()
        return found


def _saiapr_mask(path: Path, size: tuple[int, int], source: str) -> Rle:
    """A region of the segmented IAPR TC-12: MATLAB's ``segimg_t``, 0 inside."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        outside = np.asarray(loadmat(readers.existing(path, "mask file"), variable_names=["segimg_t"])["segimg_t"])
    except (MatReadError, OSError, ValueError, TypeError, KeyError, NotImplementedError) as error:
        raise DataError(f"{source}: {path}: cannot read the mask (got {error}); download it again") from error
    if outside.shape != size:
        raise DataError(f"{source}: mask is {outside.shape} but the image is {size}; check {path}")
    if outside.all():
        raise DataError(f"{source}: mask is empty (got 0 pixels); check {path}")
    return masks.encode(outside == 0)


def _record(phrase: Phrase) -> dict[str, Any]:
    return {
        "file": phrase.file,
        "height": phrase.size[0],
        "width": phrase.size[1],
        "image_id": phrase.image_id,
        "text": phrase.text,
        "name": phrase.name,
        "boxes": [v for box in phrase.boxes for v in box],
        "masks": [json.dumps(m).encode() for m in phrase.masks],
        "ignore": b"" if phrase.ignore is None else json.dumps(phrase.ignore).encode(),
        "said": phrase.said,
    }


def _features() -> Features:
    from datasets import Features, Value

    return Features(
        {
            "file": Value("string"),
            "height": Value("int32"),
            "width": Value("int32"),
            "image_id": Value("string"),
            "text": Value("string"),
            "name": Value("string"),
            "boxes": [Value("float64")],
            "masks": [Value("binary")],
            "ignore": Value("binary"),
            "said": Value("string"),
        }
    )
