"""Pictures of the large published files in COCO's style, of which none is ever in memory as a whole.

    classes, pictures = read(path, Style(file=lambda row: row["file_name"]))

What users cannot mend in such files is dealt with here: boxes are clipped to their image, and objects are left out of
which nothing is in the image, or whose outline is so thin that it covers no pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ufo_tune.core import masks
from ufo_tune.datasets import _json_rows as json_rows
from ufo_tune.datasets import _paths as paths
from ufo_tune.datasets import _pictures
from ufo_tune.datasets import _readers as readers
from ufo_tune.datasets._json_rows import Row
from ufo_tune.datasets._objects import Filters, Objects, choose
from ufo_tune.datasets._pictures import Picture, Read, Thing
from ufo_tune.errors import DataError

CODE = (__file__, json_rows.__file__, paths.__file__)
"""Files whose change makes other pictures."""
Box = tuple[float, float, float, float]
"""xyxy, pixels."""


@dataclass(frozen=True, slots=True)
class Style:
    """In what a file differs from COCO's own.

    Args:
        file: path of an image below the folder of images, from its row; empty: the image is left out.
        name: the name to ask for, from a category's.
        keep: whether an annotation is wanted.
        federated: images list the classes looked for in vain (``neg_category_ids``) and those of which not every
            object has an annotation (``not_exhaustive_category_ids``); nothing is known of all others. Categories may
            say how frequent they are.
        measured: boxes and areas are taken from the masks, because the file's are not right.
    """

    file: Callable[[Row], str] = lambda row: str(row.get("file_name", ""))
    name: Callable[[str], str] = str.strip
    keep: Callable[[Row], bool] = lambda row: True
    federated: bool = False
    measured: bool = False


def read(path: Path, style: Style) -> Read:
    """Class names in the order of their ids, and pictures in the order of theirs.

    Raises:
        DataError: a list or a key is missing, an id is there twice, an annotation belongs to no image or class.
    """
    categories: list[Row] = []
    images, annotations = json_rows.Places(path), json_rows.Places(path)
    for name, begin, end, row in json_rows.rows(path, "categories", "images", "annotations"):
        if name == "categories":
            categories.append(row)
        elif name == "images":
            images.add(_integer(row, "id", f"{path}: images: byte {begin}"), begin, end)
        else:
            annotations.add(_integer(row, "image_id", f"{path}: annotations: byte {begin}"), begin, end)
    ids, counts = np.unique(images.groups(), return_counts=True)
    if (counts > 1).any():
        raise DataError(f"{path}: images: ids are not unique (got {ids[counts > 1][0]} twice); mend the file")
    lost = np.setdiff1d(annotations.groups(), ids)
    if len(lost):
        raise DataError(f"{path}: annotations of an image that is not listed (got image_id {lost[0]}); mend the file")
    names = _names(categories, style, path)
    groups = {names[row["id"]]: str(row["frequency"]) for row in categories if style.federated and "frequency" in row}
    pictures = _read_pictures(images.read(ids), annotations.read(ids), names, style, path)
    return Read(tuple(names.values()), pictures, groups)


def samples(
    name: str, split: str, file: Path, style: Style, *, code: str, task: str, images: Path, filters: Filters
) -> Objects:
    """The samples of one file of a dataset; masks that are files of their own lie beside it.

    Args:
        name: of the dataset.
        split: for messages.
        file: the annotations.
        style: in what they differ from COCO's own.
        code: the dataset's own file.
        task: detection or instance segmentation.
        images: folder that the images are below.
        filters: which of them are wanted.

    Raises:
        ConfigError: an unknown task, class or image.
        DataError: the file is missing or damaged.
    """
    pictures = _pictures.read(name, lambda: read(file, style), sources=[file], code=[code, *CODE])
    return choose(pictures, f"{name}/{split}", task=task, images=images, annotations=file.parent, filters=filters)


def clip(box: Box, size: tuple[int, int]) -> Box | None:
    """What of a box is in an image of ``size`` (H, W); None: nothing."""
    height, width = size
    x0, y0, x1, y1 = max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(width)), min(box[3], float(height))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def measure(segmentation: Any, size: tuple[int, int], where: str) -> tuple[Box, float] | None:
    """The tightest box and the number of pixels of a mask; None: it has none.

    Raises:
        DataError: it is no mask, or of another size than the image (H, W).
    """
    try:
        rle = masks.from_segmentation(segmentation, size)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    area = float(masks.area([rle])[0])
    x0, y0, x1, y1 = masks.boxes_of([rle])[0].tolist()
    return ((x0, y0, x1, y1), area) if area else None


def _read_pictures(
    images: Iterator[list[Row]], annotations: Iterator[list[Row]], names: dict[int, str], style: Style, path: Path
) -> Iterator[Picture]:
    for (image,), found in zip(images, annotations, strict=True):
        where = f"{path}: image {image['id']}"
        size = (_integer(image, "height", where), _integer(image, "width", where))
        file = style.file(image)
        if file:
            kept = [_thing(row, names, size, style, path) for row in found if style.keep(row)]
            things = tuple(thing for thing in kept if thing is not None)
            picture = Picture(file, size, str(image["id"]), things)
            yield _federated(image, picture, names, where) if style.federated else picture


def _thing(row: Row, names: dict[int, str], size: tuple[int, int], style: Style, path: Path) -> Thing | None:
    name = f"annotation {row.get('id')}"
    where = f"{path}: {name}"
    category, segmentation = row.get("category_id"), row.get("segmentation") or None
    if category not in names:
        raise DataError(f"{where}: no such category (got {category!r}); the file lists {len(names)}")
    if style.measured:
        found = measure(segmentation, size, where) if segmentation else None
    else:
        x, y, width, height = readers.numbers(row.get("bbox"), 4, f"{where}: bbox")
        box = clip((x, y, x + width, y + height), size)
        area = row.get("area")
        area = float(area) if isinstance(area, int | float) else width * height
        found = (box, area) if box is not None else None
        # On average thinner than a pixel: it may cover none. Only such outlines are drawn here, for this takes time.
        if found and segmentation and area < max(width, height) and not measure(segmentation, size, where):
            found = None
    if found is None:
        return None
    return Thing(names[category], *found, segmentation, bool(row.get("iscrowd", 0)), name)


def _federated(image: Row, picture: Picture, names: dict[int, str], where: str) -> Picture:
    """The picture with the classes that are certainly not there, and those not all marked, in the order of the file."""
    partial = tuple(names[key] for key in image.get("not_exhaustive_category_ids", ()) if key in names)
    unsure = {*partial, *(thing.category for thing in picture.things)}
    found = json_rows.field(image, "neg_category_ids", where)
    for key in found:
        if key not in names:
            raise DataError(f"{where}: neg_category_ids: no such category (got {key!r}); the file lists {len(names)}")
    absent = tuple(names[key] for key in found if names[key] not in unsure)
    return replace(picture, absent=absent, partial=partial)


def _names(rows: list[Row], style: Style, path: Path) -> dict[int, str]:
    """By id, in the order of the ids."""
    names: dict[int, str] = {}
    for number, row in enumerate(rows):
        where = f"{path}: categories[{number}]"
        names[_integer(row, "id", where)] = style.name(str(json_rows.field(row, "name", where)))
    if len(names) != len(rows):
        raise DataError(f"{path}: categories: ids are not unique (got {len(rows)} rows, {len(names)} ids); mend it")
    return dict(sorted(names.items()))


def _integer(row: Row, key: str, where: str) -> int:
    value = json_rows.field(row, key, where)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**63:
        raise DataError(f"{where}: {key} is no integer (got {value!r:.80}); mend the file")
    return value
