"""Readers of ``coco``'s layouts: each turns files into pictures with things, without opening the images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    things: dict[int, list[Thing]] = {key: [] for key in shown}
    for number, row in enumerate(_rows(data, "annotations", path)):
        where = f"annotation {row.get('id', number)}"
        key = row.get("image_id")
        if key not in things:
            raise DataError(f"{path}: {where}: its image is not listed (got image_id {key!r}); mend the file")
        things[key].append(_thing(row, names, row.get("segmentation"), f"{path}: ", where))
    return Read(tuple(names.values()), (_picture(row, things[key]) for key, row in sorted(shown.items())))


def panoptic(places: Places) -> Read:
    """COCO's panoptic JSON: the segments of countable classes, whose masks are in the id PNGs.

    Raises:
        DataError: see ``_tables``.
    """
    path = places.annotations
    data = readers.read_json(path)
    names, shown = _tables(data, path)
    stuff = {c["id"] for c in data["categories"] if not c.get("isthing", 1)}
    pictures = []
    for row in _rows(data, "annotations", path):
        key = row.get("image_id")
        if key not in shown or "file_name" not in row:
            raise DataError(f"{path}: an annotation's image is not listed (got image_id {key!r}); mend the file")
        things = [
            _thing(s, names, s.get("id"), f"{path}: image {key}: ", f"segment {s.get('id')}")
            for s in row.get("segments_info", [])
            if s.get("category_id") not in stuff
        ]
        pictures.append(_picture(shown[key], things, f"{path.stem}/{row['file_name']}"))
    countable = tuple(name for number, name in names.items() if number not in stuff)
    return Read(countable, sorted(pictures, key=lambda p: int(p.id)))


def yolo(places: Places) -> Read:
    """YOLO's text files: ``class cx cy w h`` or ``class x1 y1 x2 y2 x3 y3 ...``, in parts of the image's sides.

    Raises:
        DataError: no class names, a line that is no row of numbers, a class number without name.
    """
    names = _yolo_names(places.annotations)
    pictures = []
    for path in sorted(p for p in places.images.iterdir() if p.suffix.lower() in _SUFFIXES):
        size, file = image_size(path), places.labels / f"{path.stem}.txt"
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []  # no file: no objects
        things = [_yolo_thing(t, names, size, f"{file}:{n}") for n, t in enumerate(lines, 1) if t.strip()]
        pictures.append(Picture(path.name, size, path.stem, tuple(things)))
    return Read(tuple(names.values()), pictures)


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


def _tables(data: dict[str, Any], path: Path) -> tuple[dict[int, str], dict[int, dict[str, Any]]]:
    """Category names by id in order, and image rows by id.

    Raises:
        DataError: a list is missing, a row lacks a key, an id is there twice.
    """
    names: dict[int, str] = {}
    shown: dict[int, dict[str, Any]] = {}
    for row in _rows(data, "categories", path, ("id", "name")):
        names[row["id"]] = str(row["name"])
    for row in _rows(data, "images", path, ("id", "file_name", "height", "width")):
        shown[row["id"]] = row
    for what, table in (("categories", names), ("images", shown)):
        if len(table) != len(data[what]):
            raise DataError(
                f"{path}: {what}: ids are not unique (got {len(data[what])} rows, {len(table)} ids); mend it"
            )
    if len(set(names.values())) != len(names):
        raise DataError(f"{path}: categories: names are not unique (got {list(names.values())}); rename them")
    return dict(sorted(names.items())), shown


def _rows(data: dict[str, Any], key: str, path: Path, needed: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    rows = data.get(key)
    if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
        raise DataError(f"{path}: has no list {key!r} (got {', '.join(data) or 'nothing'}); is this the right file?")
    for number, row in enumerate(rows):
        for name in needed:
            if name not in row:
                raise DataError(f"{path}: {key}[{number}] lacks {name!r} (got {', '.join(row)}); mend the file")
    return rows


def _picture(row: dict[str, Any], things: list[Thing], ids: str = "") -> Picture:
    return Picture(str(row["file_name"]), (int(row["height"]), int(row["width"])), str(row["id"]), tuple(things), ids)


def _thing(row: dict[str, Any], names: dict[int, str], segmentation: Any, place: str, name: str) -> Thing:
    x, y, width, height = readers.numbers(row.get("bbox"), 4, f"{place}{name}: bbox")
    category = row.get("category_id")
    if category not in names:
        raise DataError(f"{place}{name}: no such category (got {category!r}); ids are {', '.join(map(str, names))}")
    area = float(row.get("area", width * height))
    return Thing(names[category], (x, y, x + width, y + height), area, segmentation, bool(row.get("iscrowd", 0)), name)


def _yolo_names(path: Path) -> dict[int, str]:
    try:
        data = yaml.safe_load(readers.existing(path, "class list").read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is not valid YAML ({error}); mend it") from error
    names = data.get("names") if isinstance(data, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise DataError(f"{path}: has no 'names' (got {names!r:.80}); list the classes by number")
    return {int(k): str(v) for k, v in sorted(names.items())}


def _yolo_thing(text: str, names: dict[int, str], size: tuple[int, int], where: str) -> Thing:
    height, width = size
    try:
        first, *rest = (float(part) for part in text.split())
    except ValueError as error:
        raise DataError(f"{where}: is not a row of numbers (got {text!r:.80}); give: class cx cy w h") from error
    if int(first) not in names:
        raise DataError(f"{where}: no such class (got {int(first)}); numbers are {', '.join(map(str, names))}")
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
