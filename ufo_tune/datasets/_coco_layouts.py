"""Readers of ``coco``'s layouts: each turns files into pictures with things, without opening the images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

import numpy as np
import yaml

from ufo_tune.core.images import FORMATS, image_size
from ufo_tune.datasets import _readers as readers
from ufo_tune.datasets._pictures import Picture, Read, Thing
from ufo_tune.errors import DataError

ANNOTATIONS = {
    "instances": "annotations/instances_{split}.json",
    "panoptic": "annotations/panoptic_{split}.json",
    "yolo": "data.yaml",
}
_Key = int | float | str
_Value = TypeVar("_Value")
_SUFFIXES = {".jpg", ".jpeg", *(f".{f.lower()}" for f in FORMATS)}


@dataclass(frozen=True, slots=True)
class Places:
    """Where the files are."""

    annotations: Path
    images: Path
    labels: Path


def instances(places: Places) -> Read:
    """COCO's instances JSON.

    Raises:
        DataError: see ``_tables``.
    """
    path = places.annotations
    data = readers.read_json(path)
    names, shown = _tables(data, path)
    things: dict[_Key, list[Thing]] = {key: [] for key in shown}
    for number, row in enumerate(_rows(data, "annotations", path)):
        where = f"annotation {row.get('id', number)}"
        key = row.get("image_id")
        if not _known(key, things):
            raise DataError(f"{path}: {where}: its image is not listed (got image_id {key!r}); mend the file")
        things[key].append(_thing(row, names, row.get("segmentation"), f"{path}: ", where))
    return Read(tuple(names.values()), (_picture(row, key, things[key], path) for key, row in shown.items()))


def panoptic(places: Places) -> Read:
    """COCO's panoptic JSON: the segments of countable classes, whose masks are in the id PNGs.

    Raises:
        DataError: see ``_tables``.
    """
    path = places.annotations
    data = readers.read_json(path)
    names, shown = _tables(data, path)
    stuff = {c["id"] for c in data["categories"] if not c.get("isthing", 1)}
    order = {key: number for number, key in enumerate(shown)}
    pictures = []
    for row in _rows(data, "annotations", path):
        key = row.get("image_id")
        if not _known(key, shown) or "file_name" not in row:
            raise DataError(f"{path}: an annotation's image is not listed (got image_id {key!r}); mend the file")
        things = [
            _thing(s, names, _key(s, f"{path}: image {key}: segment"), f"{path}: image {key}: ", f"segment {s['id']}")
            for s in _rows(row, "segments_info", path, ("id", "category_id"))
            if not _known(s["category_id"], stuff)
        ]
        picture = _picture(shown[key], key, things, path, f"{path.stem}/{row['file_name']}")
        pictures.append((order[key], picture))
    countable = tuple(name for number, name in names.items() if number not in stuff)
    return Read(countable, [picture for _, picture in sorted(pictures, key=lambda numbered: numbered[0])])


def yolo(places: Places) -> Read:
    """YOLO's text files: ``class cx cy w h`` or ``class x1 y1 x2 y2 x3 y3 ...``, in parts of the image's sides.

    Raises:
        DataError: no class names, a line that is no row of numbers, a class number without name, no images, two images
            of one file of labels.
    """
    names = _yolo_names(places.annotations)
    pictures: dict[str, Picture] = {}
    for path in sorted(p for p in places.images.iterdir() if p.suffix.lower() in _SUFFIXES and p.name[0] != "."):
        size, file = image_size(path), places.labels / f"{path.stem}.txt"
        if path.stem in pictures:
            other = pictures[path.stem].file
            raise DataError(f"{path}: has the labels of another image (got {file.name} for {other} too); rename one")
        things = [_yolo_thing(t, names, size, f"{file}:{n}") for n, t in enumerate(_lines(file), 1) if t.strip()]
        pictures[path.stem] = Picture(path.name, size, path.stem, tuple(things))
    if not pictures:
        raise DataError(f"{places.images}: has no images (got none that ends with .jpg, .png, ..); check image_dir")
    return Read(tuple(names.values()), pictures.values())


READERS: Mapping[str, Callable[[Places], Read]] = {"instances": instances, "panoptic": panoptic, "yolo": yolo}


def sources(layout: str, places: Places) -> list[Path]:
    """What the pictures of a layout are made from.

    Raises:
        DataError: YOLO's folder of labels is missing: every image would silently be empty.
    """
    if layout != "yolo":
        return [places.annotations]
    if not places.labels.is_dir():
        raise DataError(f"{places.labels}: no such folder of label files (got nothing); check root, split and labels")
    return [places.annotations, places.labels, places.images]


def _tables(data: dict[str, Any], path: Path) -> tuple[dict[_Key, str], dict[_Key, dict[str, Any]]]:
    """Category names and image rows by id, in the order of ids.

    Raises:
        DataError: a list is missing, a row lacks a key, an id is none or there twice, a name is no text.
    """
    names: dict[_Key, str] = {}
    shown: dict[_Key, dict[str, Any]] = {}
    for number, row in enumerate(_rows(data, "categories", path, ("id", "name"))):
        names[_key(row, f"{path}: categories[{number}]")] = _name(row["name"], f"{path}: categories[{number}]")
    for number, row in enumerate(_rows(data, "images", path, ("id", "file_name", "height", "width"))):
        shown[_key(row, f"{path}: images[{number}]")] = row
    for what, table in (("categories", names), ("images", shown)):
        if len(table) != len(data[what]):
            raise DataError(
                f"{path}: {what}: ids are not unique (got {len(data[what])} rows, {len(table)} ids); mend it"
            )
    if len(set(names.values())) != len(names):
        raise DataError(f"{path}: categories: names are not unique (got {list(names.values())}); rename them")
    return _in_order(names), _in_order(shown)


def _in_order(table: dict[_Key, _Value]) -> dict[_Key, _Value]:
    """By id: numbers first, then texts."""
    return {key: table[key] for key in sorted(table, key=lambda key: (isinstance(key, str), key))}


def _key(row: dict[str, Any], where: str) -> _Key:
    """An id; pandas writes whole numbers as 1.0."""
    value = row["id"]
    if isinstance(value, bool) or not isinstance(value, int | float | str) or value != value:
        raise DataError(f"{where}: id is neither a number nor a text (got {value!r:.80}); mend the file")
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _known(key: Any, table: Container[Any]) -> TypeGuard[_Key]:
    """Whether an id is in a table; a list or an object, which Python could not look up, is not."""
    return isinstance(key, int | float | str) and key in table


def _name(value: Any, where: str) -> str:
    """What a class is called. YAML reads ``no`` and an empty place as false and nothing: these are no names."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise DataError(f"{where}: the name of a class is no text (got {value!r:.80}); write it in quotes")
    return str(value)


def _rows(data: dict[str, Any], key: str, path: Path, needed: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    rows = data.get(key)
    if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
        raise DataError(f"{path}: has no list {key!r} (got {', '.join(data) or 'nothing'}); is this the right file?")
    for number, row in enumerate(rows):
        for name in needed:
            if name not in row:
                raise DataError(f"{path}: {key}[{number}] lacks {name!r} (got {', '.join(row)}); mend the file")
    return rows


def _picture(row: dict[str, Any], key: _Key, things: list[Thing], path: Path, ids: str = "") -> Picture:
    sides = []
    for name in ("height", "width"):
        side = row[name]
        if isinstance(side, bool) or not isinstance(side, int | float) or not 0 < side < 2**31 or side % 1:
            raise DataError(f"{path}: image {key}: {name} is no number of pixels (got {side!r:.80}); mend it")
        sides.append(int(side))
    return Picture(str(row["file_name"]), (sides[0], sides[1]), str(key), tuple(things), ids)


def _thing(row: dict[str, Any], names: dict[_Key, str], segmentation: Any, place: str, name: str) -> Thing:
    x, y, width, height = readers.numbers(row.get("bbox"), 4, f"{place}{name}: bbox")
    category, crowd = row.get("category_id"), row.get("iscrowd")
    if not _known(category, names):
        raise DataError(f"{place}{name}: no such category (got {category!r}); ids are {', '.join(map(str, names))}")
    if crowd not in (None, 0, 1):
        raise DataError(f"{place}{name}: iscrowd is neither 0 nor 1 (got {crowd!r:.80}); mend the file")
    area = row.get("area")
    if area is None:
        area = max(0.0, width) * max(0.0, height)
    elif isinstance(area, bool) or not isinstance(area, int | float) or not 0 <= area <= sys.float_info.max:
        raise DataError(f"{place}{name}: area is no number of pixels (got {area!r:.80}); mend it, or leave it out")
    box = (x, y, x + width, y + height)
    return Thing(names[category], box, float(area), segmentation, bool(crowd), name)


def _yolo_names(path: Path) -> dict[int, str]:
    """Class names by number, in their order."""
    try:
        data = yaml.safe_load(readers.existing(path, "class list").read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is not valid YAML ({error}); mend it") from error
    names = data.get("names") if isinstance(data, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise DataError(f"{path}: has no 'names' (got {names!r:.80}); list the classes by number")
    found: dict[int, str] = {}
    for key, value in names.items():
        number = int(key) if isinstance(key, str) and key.isdecimal() else key
        if isinstance(number, bool) or not isinstance(number, int):
            raise DataError(f"{path}: names: is no number of a class (got {key!r:.80}); count from 0")
        found[number] = _name(value, f"{path}: names: {key}")
    return dict(sorted(found.items()))


def _lines(file: Path) -> list[str]:
    """Of an image's file of labels; none where there is no file, and hence no object."""
    try:
        return file.read_text(encoding="utf-8-sig").splitlines() if file.is_file() else []
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: is no text (got {error}); give lines: class cx cy w h") from error


def _yolo_thing(text: str, names: dict[int, str], size: tuple[int, int], where: str) -> Thing:
    height, width = size
    try:
        first, *rest = (float(part) for part in text.split())
    except ValueError as error:
        raise DataError(f"{where}: is not a row of numbers (got {text!r:.80}); give: class cx cy w h") from error
    if first not in names:  # 0.0 is 0 for Python, too
        raise DataError(f"{where}: no such class (got {first:g}); numbers are {', '.join(map(str, names))}")
    if not np.isfinite(rest).all() or (len(rest) == 4 and min(rest[2:]) < 0):
        raise DataError(f"{where}: is no box or polygon (got {text!r:.80}); give finite numbers, and no negative side")
    segmentation: list[list[float]] | None = None
    if len(rest) == 4:
        cx, cy, w, h = rest
        corners = np.array([[cx - w / 2, cy - h / 2], [cx + w / 2, cy + h / 2]]) * (width, height)  # [2, 2]
    elif len(rest) >= 6 and len(rest) % 2 == 0:
        corners = np.array(rest).reshape(-1, 2) * (width, height)  # [points, 2]
        segmentation = [corners.reshape(-1).tolist()]
    else:
        raise DataError(
            f"{where}: is neither a box nor a polygon (got {len(rest)} numbers); give 4, or 6 and more, even"
        )
    low, high = corners.min(0), corners.max(0)
    box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
    area = (box[2] - box[0]) * (box[3] - box[1])
    return Thing(names[int(first)], box, area, segmentation, False, where)
