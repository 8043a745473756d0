"""``labelme``: a folder of LabelMe's JSON files, one per image, as its editor saves them.

    samples = load("my_data", "train", task="instance_segmentation")

Expected tree below ``root`` (subfolders are read too)::

    train/a.json  train/a.jpg    ``imagePath`` in the file says where the image is, from the file's folder
    labels.txt                   optional: the list given to ``labelme --labels``, named by option ``labels``

Polygons, rectangles and circles are objects; shapes of one label and one ``group_id`` are one object. Points, lines and
other shapes have no area and are refused unless ``ignore`` names them. Classes are the labels of ``labels`` without
``__ignore__`` and ``_background_``, else all that occur, sorted; with ``labels``, ``__ignore__`` drops its shapes.
Options: see ``load``.

Licence: that of your data. Source: github.com/wkentaro/labelme, ``labelme/_label_file.py`` and ``utils/shape.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ufo_tune.core.images import image_size
from ufo_tune.datasets import _label_maps, _pictures
from ufo_tune.datasets import _readers as readers
from ufo_tune.datasets._label_maps import read_names
from ufo_tune.datasets._objects import TASKS, Filters, Objects, choose
from ufo_tune.datasets._pictures import Picture, Read, Thing
from ufo_tune.errors import DataError
from ufo_tune.plugins import did_you_mean

__all__ = ["TASKS", "load"]
_IGNORED = "__ignore__"
_UNNAMED = (_IGNORED, "_background_")
_CORNERS = 64
"""Of the polygon that stands for a circle: its area is 0.16 % smaller."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """One shape: what it is called, its group if it has one, and its outline [points, 2] in pixels."""

    label: str
    group: Any
    outline: np.ndarray
    name: str


def load(
    root: str,
    split: str,
    *,
    task: str,
    image_root: str = "",
    labels: str = "",
    ignore: Sequence[str] = (),
    images: int | Sequence[int | str] = 0,
    classes: Sequence[str] | Literal["present"] = (),
    min_size: float = 1.0,
    min_area: float = 0.0,
    keep_empty: bool = True,
    with_masks: bool = False,
) -> Objects:
    """Detection or instance segmentation samples, one per JSON file, sorted by path.

    Args:
        root: folder that all other paths are below.
        split: folder of the JSON files; empty: ``root`` itself.
        task: one of ``TASKS``.
        image_root: folder where images are looked for by name, instead of where the files say.
        labels: file of labels, one a line; another label is then an error.
        ignore: types of shape that are left out, such as ``point`` and ``line``.
        images: so many images from the start, or the names of those wanted; 0: all.
        classes: ask only for these and drop other objects; ``present``: those that the chosen images have.
        min_size: objects whose box is narrower or lower than this, in pixels, are dropped.
        min_area: objects whose area is below this, in pixels, are dropped.
        keep_empty: whether images without objects stay in.
        with_masks: masks for ``detection`` too (copy-paste needs them).

    Raises:
        ConfigError: an unknown task, class or image.
        DataError: no such folder, or a file is not LabelMe's, with the file and the shape.
    """
    folder = Path(root) / split
    files = sorted(folder.rglob("*.json"))
    if not files:
        raise DataError(f"{folder}: has no JSON files (got none below it); check root and split")
    listed = Path(root) / labels if labels else None
    pictures = _pictures.read(
        "labelme",
        lambda: _read(folder, files, listed, bool(image_root), tuple(ignore)),
        sources=[folder, *([listed] if listed else [])],
        code=[__file__, _label_maps.__file__],
        options={"by_name": bool(image_root), "ignore": list(ignore), "labels": labels},
    )
    shown = Path(root) / image_root if image_root else folder
    filters = Filters(images, classes, min_size, min_area, keep_empty, with_masks)
    return choose(pictures, f"labelme/{split}", task=task, images=shown, annotations=folder, filters=filters)


def _read(folder: Path, files: Sequence[Path], labels: Path | None, by_name: bool, ignore: Sequence[str]) -> Read:
    named = _names(labels) if labels else None
    pictures = [_picture(path, folder, named, by_name, ignore) for path in files]
    occurring = {thing.category for picture in pictures for thing in picture.things}
    return Read(named if named is not None else tuple(sorted(occurring)), pictures)


def _names(path: Path) -> tuple[str, ...]:
    return tuple(name for line in read_names(path) if (name := line.strip()) and name not in _UNNAMED)


def _picture(path: Path, folder: Path, named: Sequence[str] | None, by_name: bool, ignore: Sequence[str]) -> Picture:
    data = readers.read_json(path)
    shown = str(data.get("imagePath") or "").replace("\\", "/")  # Windows saves backslashes
    if not shown or not isinstance(data.get("shapes"), list):
        raise DataError(f"{path}: is no file of LabelMe (got {', '.join(data)[:80]}); it needs shapes and imagePath")
    file = Path(shown).name if by_name else str(path.parent.relative_to(folder) / shown)
    height, width = data.get("imageHeight"), data.get("imageWidth")
    if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0:
        size = (height, width)
    else:
        size = image_size(path.parent / shown)  # old versions did not write it
    shapes = [s for s in _shapes(data["shapes"], path, ignore, size) if named is None or s.label != _IGNORED]
    for shape in shapes:
        if named is not None and shape.label not in named:
            raise DataError(f"{shape.name}: unknown label (got {shape.label!r}); {did_you_mean(shape.label, named)}")
    identity = path.relative_to(folder).with_suffix("").as_posix()
    return Picture(file, size, identity, tuple(_things(shapes)))


def _shapes(rows: Sequence[Any], path: Path, ignore: Sequence[str], size: tuple[int, int]) -> Iterator[_Shape]:
    for number, row in enumerate(rows):
        where = f"{path}: shape {number}"
        if not isinstance(row, dict) or not isinstance(row.get("label"), str) or not row["label"].strip():
            raise DataError(f"{where}: has no label (got {row!r:.80}); mend the file")
        kind = row.get("shape_type") or "polygon"
        if kind in ignore:
            continue
        points = row.get("points")
        if not isinstance(points, list):
            raise DataError(f"{where}: has no points (got {points!r:.80}); mend the file")
        corners = np.array([readers.numbers(p, 2, f"{where}: point") for p in points]).reshape(-1, 2)  # [points, 2]
        yield _Shape(row["label"].strip(), row.get("group_id"), _outline(corners, kind, size, where), where)


def _outline(corners: np.ndarray, kind: str, size: tuple[int, int], where: str) -> np.ndarray:
    """[points, 2] of a shape that has an area."""
    if kind == "polygon" and len(corners) >= 3:
        return corners
    if kind == "rectangle" and len(corners) >= 2:
        (x0, y0), (x1, y1) = corners.min(0), corners.max(0)
        return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    if kind == "circle" and len(corners) == 2:  # the centre, and a point of the rim
        turns = np.linspace(0, 2 * math.pi, _CORNERS, endpoint=False)
        radius = float(np.linalg.norm(corners[1] - corners[0]))
        rim = corners[0] + radius * np.stack([np.cos(turns), np.sin(turns)], 1)  # [points, 2]
        return np.asarray(rim.clip(0, size[::-1]))  # its centre and rim may be inside and the rest not
    if kind in ("polygon", "rectangle", "circle"):
        raise DataError(f"{where}: {kind} of {len(corners)} points (got {corners.tolist()}); redraw or delete it")
    raise DataError(f"{where}: has no area (got shape_type {kind!r}); redraw it as polygon, or set ignore: [{kind}]")


def _things(shapes: Sequence[_Shape]) -> Iterator[Thing]:
    """Objects: shapes of one label and one group together."""
    groups: dict[Any, list[_Shape]] = {}
    for number, shape in enumerate(shapes):
        alone = shape.group is None
        groups.setdefault(number if alone else (shape.label, str(shape.group)), []).append(shape)
    for parts in groups.values():
        corners = np.concatenate([p.outline for p in parts])  # [points, 2]
        (x0, y0), (x1, y1) = corners.min(0).tolist(), corners.max(0).tolist()
        yield Thing(
            category=parts[0].label,
            box=(x0, y0, x1, y1),
            area=sum(_area(p.outline) for p in parts),
            segmentation=[p.outline.reshape(-1).tolist() for p in parts],  # x, y, x, y, ...
            crowd=False,
            name=parts[0].name.rpartition(": ")[2],
        )


def _area(outline: np.ndarray) -> float:
    """Of a polygon [points, 2], by the shoelace formula."""
    x, y = outline.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)
