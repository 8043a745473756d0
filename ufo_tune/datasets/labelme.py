"""``labelme``: a folder of LabelMe's JSON files, one per image, as its editor saves them.

    samples = load("my_data", "train", task="instance_segmentation")

Expected tree below ``root`` (subfolders are read too)::

    train/a.json  train/a.jpg    ``imagePath`` in the file says where the image is, from the file's folder
    labels.txt                   optional: the list given to ``labelme --labels``, named by option ``labels``

Polygons, rectangles, circles and the masks of its AI tools are objects; shapes of one label and one ``group_id`` are
one object. Points, lines and other shapes have no area and are refused unless ``ignore`` names them. Classes are the
labels of ``labels`` without ``__ignore__`` and ``_background_``, else all that occur, sorted; with ``labels``,
``__ignore__`` drops its shapes.
Options: see ``load``.

Licence: that of your data. Source: github.com/wkentaro/labelme, ``labelme/_label_file.py`` and ``utils/shape.py``.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image as pil

from ufo_tune.core import masks
from ufo_tune.core.images import image_size
from ufo_tune.core.types import Rle
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
    """One shape: what it is called, its group if it has one, and its outline [points, 2] in pixels, or its mask."""

    label: str
    group: Any
    form: np.ndarray | Rle
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
    return Picture(file, size, identity, tuple(_things(shapes, size)))


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
        form = _mask(row, corners, size, where) if kind == "mask" else _outline(corners, kind, size, where)
        yield _Shape(row["label"].strip(), row.get("group_id"), form, where)


def _mask(row: Mapping[str, Any], corners: np.ndarray, size: tuple[int, int], where: str) -> Rle:
    """What LabelMe's AI tools draw: a PNG of 0 and more, and its first and last pixel [2, 2] as points."""
    place = corners.astype(int)
    (left, top), (right, bottom) = place if len(place) == 2 else ((0, 0), (-1, -1))
    if not (0 <= left <= right < size[1] and 0 <= top <= bottom < size[0]):
        raise DataError(
            f"{where}: mask is not inside the image of {size[1]}x{size[0]} pixels (got points {corners.tolist()}); "
            "redraw or delete it"
        )
    try:
        with pil.open(io.BytesIO(base64.b64decode(row.get("mask") or "", validate=True)), formats=["PNG"]) as png:
            if png.size != (right + 1 - left, bottom + 1 - top):  # before its pixels are read
                raise ValueError(f"{png.size[0]}x{png.size[1]} pixels for points {corners.tolist()}")
            part = np.asarray(png.convert("L")) > 0  # [h, w]
    except (TypeError, ValueError, OSError, binascii.Error) as error:
        raise DataError(f"{where}: mask cannot be read (got {error}); redraw or delete it") from error
    if not part.any():
        raise DataError(f"{where}: mask has no pixel (got zeros alone); redraw or delete it")
    whole = np.zeros(size, dtype=bool)
    whole[top : bottom + 1, left : right + 1] = part
    return masks.encode(whole)


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


def _things(shapes: Sequence[_Shape], size: tuple[int, int]) -> Iterator[Thing]:
    """Objects: shapes of one label and one group together."""
    groups: dict[Any, list[_Shape]] = {}
    for number, shape in enumerate(shapes):
        alone = shape.group is None
        groups.setdefault(number if alone else (shape.label, str(shape.group)), []).append(shape)
    for parts in groups.values():
        outlines = [p.form for p in parts if isinstance(p.form, np.ndarray)]
        box, area, segmentation = (
            _drawn(outlines) if len(outlines) == len(parts) else _painted([p.form for p in parts], size)
        )
        yield Thing(
            category=parts[0].label,
            box=box,
            area=area,
            segmentation=segmentation,
            crowd=False,
            name=parts[0].name.rpartition(": ")[2],
        )


_Form = tuple[tuple[float, float, float, float], float, Any]
"""Box xyxy, area in pixels, COCO's segmentation."""


def _drawn(outlines: Sequence[np.ndarray]) -> _Form:
    corners = np.concatenate(outlines)  # [points, 2]
    (x0, y0), (x1, y1) = corners.min(0).tolist(), corners.max(0).tolist()
    return (x0, y0, x1, y1), sum(map(_area, outlines)), [o.reshape(-1).tolist() for o in outlines]  # x, y, x, y, ...


def _painted(forms: Sequence[np.ndarray | Rle], size: tuple[int, int]) -> _Form:
    """Of masks, and outlines beside them."""
    rle = masks.union(
        [masks.from_polygons([f.reshape(-1).tolist()], size) if isinstance(f, np.ndarray) else f for f in forms]
    )
    x0, y0, x1, y1 = masks.boxes_of([rle])[0].tolist()
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return (x0, y0, x1, y1), float(masks.area([rle])), {"size": list(size), "counts": text}


def _area(outline: np.ndarray) -> float:
    """Of a polygon [points, 2], by the shoelace formula."""
    x, y = outline.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)
