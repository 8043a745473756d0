"""Pictures with their objects as a memory-mapped table: what every dataset of boxes and instance masks is read into.

    pictures = read("coco", make, sources=[annotations], code=[__file__])
    pictures[7].things[0].box

``make`` gives class names and an iterator of ``Picture``; it runs once per content of the sources. Segmentations are
kept as the files have them (JSON) and are understood on access, where a fault can name the sample.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ufo_tune.core.lazy import Lazy
from ufo_tune.datasets import _table
from ufo_tune.errors import DataError

if TYPE_CHECKING:
    from datasets import Features


@dataclass(frozen=True, slots=True)
class Thing:
    """One object as the files have it. ``box`` is xyxy and unchecked; ``segmentation`` is read later."""

    category: str
    box: tuple[float, float, float, float]
    area: float
    segmentation: Any
    crowd: bool
    name: str  # "annotation 12", for messages


@dataclass(frozen=True, slots=True)
class Picture:
    """One image and its objects.

    ``file`` lies below the folder of images, ``ids`` (a PNG of segment ids, where masks are in one) below the folder
    of annotations. ``absent`` are class names that somebody looked for in vain; None: every class not here is absent.
    ``partial`` are those of which not every object is here.
    """

    file: str
    size: tuple[int, int]
    id: str
    things: tuple[Thing, ...]
    ids: str = ""
    absent: tuple[str, ...] | None = None
    partial: tuple[str, ...] = ()


class Read(NamedTuple):
    """Class names, pictures in the order of their ids, and the group of each class where the file sorts them."""

    classes: tuple[str, ...]
    pictures: Iterable[Picture]
    groups: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Pictures(Lazy[Picture]):
    """All pictures of one table, made on access."""

    table: _table.Table

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in the order of their ids."""
        return tuple(self.table.meta["classes"])

    @property
    def groups(self) -> Mapping[str, str]:
        """The group of each class by name; the same object every time, empty where there are none."""
        found: Mapping[str, str] = self.table.meta["groups"]
        return found

    def __len__(self) -> int:
        return len(self.table)

    def _make(self, number: int) -> Picture:
        row, names = self.table[number], self.table.meta["classes"]
        boxes = zip(*(iter(row["boxes"]),) * 4, strict=True)  # N x 4
        columns = zip(row["labels"], boxes, row["areas"], row["segmentations"], row["crowd"], row["names"], strict=True)
        things = tuple(Thing(names[k], box, area, json.loads(s), c, n) for k, box, area, s, c, n in columns)
        absent = tuple(names[k] for k in row["absent"]) if row["verified"] else None
        partial = tuple(names[k] for k in row["partial"])
        return Picture(row["file"], (row["height"], row["width"]), row["id"], things, row["ids"], absent, partial)

    def strings(self, column: str) -> list[str]:
        """A column of texts, one per picture."""
        found: list[str] = self.table.column(column).to_pylist()
        return found

    def objects(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """All objects of all pictures: class numbers [N], shorter sides [N], areas [N], and ends [pictures].

        ``ends`` are where each picture's objects end among the N.
        """
        labels = self.table.column("labels").combine_chunks()
        boxes = self.table.column("boxes").combine_chunks().flatten().to_numpy().reshape(-1, 4)  # [N, 4]
        areas = self.table.column("areas").combine_chunks().flatten().to_numpy()
        ends = np.cumsum(labels.value_lengths().to_numpy())
        return labels.flatten().to_numpy(), (boxes[:, 2:] - boxes[:, :2]).min(1), areas, ends


def read(
    name: str,
    make: Callable[[], Read],
    *,
    sources: Sequence[Path],
    code: Sequence[str | Path],
    options: Mapping[str, Any] | None = None,
) -> Pictures:
    """The pictures that ``make`` gives; see ``_table.table`` for the other arguments.

    Raises:
        DataError: a source is missing or ``make`` finds fault with it.
    """

    def rows() -> _table.Made:
        classes, pictures, groups = make()
        numbers = {c: i for i, c in enumerate(classes)}
        if len(numbers) != len(classes):
            raise DataError(f"{sources[0]}: class names are not unique (got {list(classes)!r:.200}); rename them")
        return {"classes": list(classes), "groups": dict(groups)}, (_record(p, numbers) for p in pictures)

    found = _table.table(name, rows, features=_features, sources=sources, code=[*code, __file__], options=options)
    return Pictures(found)


def _record(picture: Picture, numbers: Mapping[str, int]) -> dict[str, Any]:
    things = picture.things
    return {
        "file": picture.file,
        "height": picture.size[0],
        "width": picture.size[1],
        "id": picture.id,
        "ids": picture.ids,
        "boxes": [v for t in things for v in t.box],
        "labels": [numbers[t.category] for t in things],
        "areas": [t.area for t in things],
        "crowd": [t.crowd for t in things],
        "segmentations": [json.dumps(t.segmentation).encode() for t in things],
        "names": [t.name for t in things],
        "absent": [numbers[c] for c in picture.absent or ()],
        "verified": picture.absent is not None,
        "partial": [numbers[c] for c in picture.partial],
    }


def _features() -> Features:
    from datasets import Features, Value

    return Features(
        {
            "file": Value("string"),
            "height": Value("int32"),
            "width": Value("int32"),
            "id": Value("string"),
            "ids": Value("string"),
            "boxes": [Value("float64")],
            "labels": [Value("int32")],
            "areas": [Value("float64")],
            "crowd": [Value("bool")],
            "segmentations": [Value("binary")],
            "names": [Value("string")],
            "absent": [Value("int32")],
            "verified": Value("bool"),
            "partial": [Value("int32")],
        }
    )
