"""Pictures of Open Images' CSV files, grouped by image in columns of numbers: 14.6 million rows are no Python objects.

classes, pictures = read(Places(...), masks=False, depictions=True, inside=True, skip_missing=False)
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ufo_tune.core.images import image_size
from ufo_tune.datasets import _readers as readers
from ufo_tune.datasets._coco_rows import clip
from ufo_tune.datasets._pictures import Picture, Read, Thing
from ufo_tune.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

_SIDES = ("XMin", "YMin", "XMax", "YMax")
_FLAGS = ("IsGroupOf", "IsDepiction", "IsInside")


@dataclass(frozen=True, slots=True)
class Places:
    """Where the files are. ``objects`` is the CSV of boxes or that of segmentations; None: there is no such file."""

    classes: Path
    objects: Path
    labels: Path | None
    sizes: Path | None
    images: Path

    def sources(self) -> list[Path]:
        """What the pictures are made from, besides the headers of images."""
        return [p for p in (self.classes, self.objects, self.labels, self.sizes) if p is not None]


@dataclass(frozen=True, slots=True)
class _Groups:
    """The rows of one CSV, image by image."""

    order: np.ndarray  # [rows] numbers of rows, images one after the other
    ends: np.ndarray  # [images] where each image's end in ``order``

    def rows(self, image: int) -> np.ndarray:
        """Numbers of the rows of one image, in the order of the file."""
        return self.order[self.ends[image - 1] if image else 0 : self.ends[image]]


def read(places: Places, *, masks: bool, depictions: bool, inside: bool, skip_missing: bool) -> Read:
    """Class names in the order of their file, and pictures in the order of ids.

    Args:
        places: the files.
        masks: whether ``objects`` is the CSV of segmentations.
        depictions: whether depicted objects (drawings, statues) are kept. Segmentations do not say.
        inside: whether objects that are seen from the inside are kept. Segmentations do not say.
        skip_missing: whether images without a file are left out.

    Raises:
        DataError: a file is damaged, an object has a class without name, an image is missing.
    """
    names = _names(places.classes)
    sides = tuple(f"Box{side}" for side in _SIDES) if masks else _SIDES
    texts = ("ImageID", "LabelName", "MaskPath") if masks else ("ImageID", "LabelName")
    objects = _columns(places.objects, texts, (*sides, *(() if masks else _FLAGS)))
    labels = _columns(places.labels, ("ImageID", "LabelName"), ("Confidence",)) if places.labels else None
    columns = [table["ImageID"] for table in (objects, labels) if table is not None]
    ids = _distinct(columns)
    kinds = _codes(objects["LabelName"], list(names))
    if (kinds < 0).any():
        row = int(np.flatnonzero(kinds < 0)[0])
        raise DataError(
            f"{places.objects}: line {row + 2}: no such class (got {objects['LabelName'][row]}); is {places.classes} "
            "the file of the boxable classes?"
        )
    boxes = np.stack([objects[side].to_numpy() for side in sides], axis=1)  # [rows, 4] xyxy in parts of the sides
    if not np.isfinite(boxes).all():
        row = int(np.flatnonzero(~np.isfinite(boxes).all(1))[0])
        raise DataError(f"{places.objects}: line {row + 2}: box is not finite (got {boxes[row].tolist()}); mend it")
    found = _Objects(
        kinds,
        boxes,
        crowd=np.zeros(len(kinds), dtype=bool) if masks else objects["IsGroupOf"].to_numpy() == 1,
        kept=np.ones(len(kinds), dtype=bool) if masks else _kept(objects, depictions, inside),
        masks=objects["MaskPath"].combine_chunks() if masks else None,
        groups=_groups(objects["ImageID"], ids),
    )
    absent = _Absent(labels, list(names), ids)
    sizes = _sizes(places.sizes, ids)
    classes = tuple(names.values())
    return Read(classes, _pictures(places.images, ids, classes, found, absent, sizes, skip_missing))


@dataclass(frozen=True, slots=True)
class _Objects:
    kinds: np.ndarray  # [rows] class numbers
    boxes: np.ndarray  # [rows, 4] xyxy in parts of the sides
    crowd: np.ndarray  # [rows] bool
    kept: np.ndarray  # [rows] bool
    masks: Any  # [rows] paths of PNGs; None: boxes only
    groups: _Groups

    def of(self, image: int, size: tuple[int, int], classes: Sequence[str]) -> Iterator[Thing]:
        """Those of one image of ``size`` (H, W)."""
        height, width = size
        for row in self.groups.rows(image).tolist():
            x0, y0, x1, y1 = (self.boxes[row].astype(np.float64) * (width, height, width, height)).tolist()
            box = clip((x0, y0, x1, y1), size)
            if box is None or not self.kept[row]:
                continue
            area = (box[2] - box[0]) * (box[3] - box[1])
            segmentation = None if self.masks is None else {"png": self.masks[row].as_py()}
            # The first line names the columns.
            yield Thing(classes[self.kinds[row]], box, area, segmentation, bool(self.crowd[row]), f"line {row + 2}")


class _Absent:
    """Classes that people looked for in vain. Labels of classes that are not asked for are passed over."""

    def __init__(self, labels: pa.Table | None, mids: list[str], ids: pa.Array) -> None:
        self._groups = None if labels is None else _groups(labels["ImageID"], ids)
        if labels is not None:
            self._kinds = _codes(labels["LabelName"], mids)
            self._kinds[labels["Confidence"].to_numpy() != 0] = -1

    def of(self, image: int) -> list[int]:
        """Class numbers of one image, without repetition."""
        if self._groups is None:
            return []
        return [int(k) for k in np.unique(self._kinds[self._groups.rows(image)]) if k >= 0]


def _pictures(
    folder: Path,
    ids: pa.Array,
    classes: tuple[str, ...],
    objects: _Objects,
    absent: _Absent,
    sizes: np.ndarray,
    skip_missing: bool,
) -> Iterator[Picture]:
    for image, key in enumerate(ids):
        file = f"{key.as_py()}.jpg"
        if skip_missing and not (folder / file).is_file():
            continue
        height, width = sizes[image].tolist() if sizes[image].all() else image_size(folder / file)
        things = tuple(objects.of(image, (height, width), classes))
        present = {thing.category for thing in things}
        missed = tuple(classes[k] for k in absent.of(image) if classes[k] not in present)
        yield Picture(file, (height, width), key.as_py(), things, absent=missed)


def _names(path: Path) -> dict[str, str]:
    """Class names by their machine name (``/m/01g317``), in the order of the file, which may name its columns."""
    try:
        with readers.existing(path, "list of classes").open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.reader(file, strict=True) if row]
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is no CSV file in UTF-8 (got {error}); download it again") from error
    if rows and rows[0] == ["LabelName", "DisplayName"]:
        rows = rows[1:]
    for number, row in enumerate(rows, 1):
        if len(row) != 2:
            raise DataError(f"{path}: row {number}: is not a machine name and a name (got {row}); is this the file?")
    return {mid: name.strip() for mid, name in rows}


def _columns(path: Path, texts: Sequence[str], numbers: Sequence[str]) -> pa.Table:
    """Some columns of a CSV file; numbers are float32, exact to 0.0001 of a pixel."""
    import pyarrow as pa
    from pyarrow import csv as reader

    types = {name: pa.string() for name in texts} | {name: pa.float32() for name in numbers}
    options = reader.ConvertOptions(column_types=types, include_columns=list(types))
    try:
        return reader.read_csv(readers.existing(path, "CSV file"), convert_options=options)
    except (pa.ArrowInvalid, KeyError) as error:
        raise DataError(f"{path}: cannot be read (got {str(error)[:200]}); it must have {', '.join(types)}") from error


def _distinct(columns: Sequence[pa.ChunkedArray]) -> pa.Array:
    """All image ids, sorted."""
    import pyarrow as pa
    from pyarrow import compute

    ids = compute.unique(pa.chunked_array([compute.unique(column) for column in columns], pa.string()))
    return ids.take(compute.sort_indices(ids))


def _codes(column: pa.ChunkedArray, values: Sequence[str] | pa.Array) -> np.ndarray:
    """[rows] the place of each text among the values; -1: none."""
    import pyarrow as pa
    from pyarrow import compute

    found = compute.index_in(column, value_set=pa.array(values, pa.string()))
    return np.array(compute.fill_null(found, -1).to_numpy())


def _groups(column: pa.ChunkedArray, ids: pa.Array) -> _Groups:
    codes = _codes(column, ids)
    order = np.argsort(codes, kind="stable")
    return _Groups(order, np.searchsorted(codes[order], np.arange(len(ids)), side="right"))


def _kept(objects: pa.Table, depictions: bool, inside: bool) -> np.ndarray:
    """[rows] bool; the flags' -1 is "unknown"."""
    kept = np.ones(len(objects), dtype=bool)
    if not depictions:
        kept &= objects["IsDepiction"].to_numpy() != 1
    if not inside:
        kept &= objects["IsInside"].to_numpy() != 1
    return kept


def _sizes(path: Path | None, ids: pa.Array) -> np.ndarray:
    """[images, 2] int (H, W); zeros where the header of the image must tell."""
    if path is None:
        return np.zeros((len(ids), 2), dtype=np.int64)
    table = _columns(path, ("ImageID",), ("Height", "Width"))
    sizes = np.stack([table["Height"].to_numpy(), table["Width"].to_numpy()], axis=1)  # [rows, 2]
    if not (np.isfinite(sizes) & (sizes >= 1)).all():
        row = int(np.flatnonzero(~(np.isfinite(sizes) & (sizes >= 1)).all(1))[0])
        raise DataError(f"{path}: line {row + 2}: is no size (got {sizes[row].tolist()}); give whole pixels")
    places = _codes(ids, table["ImageID"].combine_chunks())
    return np.where(places[:, None] >= 0, sizes[np.maximum(places, 0)], 0).astype(np.int64)  # [images, 2]
