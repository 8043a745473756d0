"""``nuimages``: nuImages v1.0's own tables, boxes and masks of the 10 classes of nuScenes' detection.

    samples = load("/data/nuimages", "train", task="instance_segmentation")
    samples = load("/data/nuimages", "train", task="detection", annotations="annotations/nuimages_v1.0-{split}.json")

    <root>/v1.0-{split}/{category,sample,sample_data,object_ann}.json
    <root>/samples/CAM_FRONT/<name>.jpg             ``image_dir`` gives another folder that ``samples`` is in

Images are the camera key frames, the only ones with annotations; their ids are tokens of ``sample_data``. The 23
names of objects are mapped to 10 classes as MMDetection3D does; other objects (animals, strollers, debris, ...) and
objects without a mask are dropped. Boxes are the tables' own, drawn by people around the whole object. Masks are
COCO's run lengths, coded once more in base64. ``annotations`` is MMDetection3D's conversion to COCO's form, read in
place of the tables. Classes without an object are absent.

Images: train 67,279, val 16,445. Annotations and images are CC BY-NC-SA 4.0.

Source: github.com/nutonomy/nuscenes-devkit, docs/schema_nuimages.md; MMDetection3D, nuimage_converter.py (classes).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ufo_tune.datasets import _coco_rows as coco_rows
from ufo_tune.datasets import _json_rows as json_rows
from ufo_tune.datasets import _paths, _pictures
from ufo_tune.datasets import _readers as readers
from ufo_tune.datasets._json_rows import Row, field
from ufo_tune.datasets._objects import TASKS, Filters, Objects, choose
from ufo_tune.datasets._pictures import Picture, Read, Thing
from ufo_tune.errors import DataError

__all__ = ["CLASSES", "TASKS", "load"]

CLASSES = {
    "car": ("vehicle.car",),
    "truck": ("vehicle.truck",),
    "trailer": ("vehicle.trailer",),
    "bus": ("vehicle.bus.bendy", "vehicle.bus.rigid"),
    "construction_vehicle": ("vehicle.construction",),
    "bicycle": ("vehicle.bicycle",),
    "motorcycle": ("vehicle.motorcycle",),
    "pedestrian": (
        "human.pedestrian.adult",
        "human.pedestrian.child",
        "human.pedestrian.construction_worker",
        "human.pedestrian.police_officer",
    ),
    "traffic_cone": ("movable_object.trafficcone",),
    "barrier": ("movable_object.barrier",),
}
"""The classes, and the tables' names of each."""
_TABLES = ("category", "sample", "sample_data", "object_ann")
_Frame = tuple[str, str, tuple[int, int]]
"""Token, file, (H, W)."""


def load(
    root: str,
    split: str,
    *,
    task: str,
    annotations: str = "",
    image_dir: str = "",
    images: int | Sequence[int | str] = 0,
    classes: Sequence[str] | Literal["present"] = (),
    min_size: float = 1.0,
    min_area: float = 0.0,
    keep_empty: bool = True,
    with_masks: bool = False,
) -> Objects:
    """Detection or instance segmentation samples, one per camera key frame, in the order of ``sample_data``.

    Args:
        root: folder that all other paths are below.
        split: ``train``, ``val`` or ``mini``: what follows ``v1.0-``.
        task: one of ``TASKS``.
        annotations: path of a file in COCO's form, in place of the tables.
        image_dir: folder that ``samples`` is in.
        images: so many images from the start, or the ids or file names of those wanted; 0: all.
        classes: ask only for these and drop other objects; ``present``: those that the chosen images have.
        min_size: objects whose box is narrower or lower than this, in pixels, are dropped.
        min_area: objects whose mask has fewer pixels than this are dropped.
        keep_empty: whether images without objects stay in.
        with_masks: masks for ``detection`` too (copy-paste needs them).

    Raises:
        ConfigError: an unknown task, class or image.
        DataError: a file is missing or damaged.
    """
    folder = Path(root)
    if annotations:
        sources = [_paths.first_file(folder, annotations.format(split=split), option="annotations")]
    else:
        sources = [folder / f"v1.0-{split}" / f"{name}.json" for name in _TABLES]
    pictures = _pictures.read(
        "nuimages",
        lambda: coco_rows.read(sources[0], coco_rows.Style()) if annotations else _tables(*sources),
        sources=sources,
        code=[__file__, *coco_rows.CODE],
    )
    filters = Filters(images, classes, min_size, min_area, keep_empty, with_masks)
    where = folder / image_dir
    return choose(pictures, f"nuimages/{split}", task=task, images=where, annotations=where, filters=filters)


def _tables(category: Path, sample: Path, sample_data: Path, object_ann: Path) -> Read:
    """Joins the tables: a sample's key camera frame, and the objects of that frame."""
    mapped = {old: new for new, names in CLASSES.items() for old in names}
    names = {field(r, "token", str(category)): mapped.get(str(r.get("name"))) for *_, r in json_rows.rows(category)}
    keys = {field(row, "key_camera_token", str(sample)) for *_, row in json_rows.rows(sample)}
    frames: list[_Frame] = []
    numbers: dict[str, int] = {}
    for *_, row in json_rows.rows(sample_data):
        if field(row, "token", str(sample_data)) in keys:
            where = f"{sample_data}: {row['token']}"
            numbers[row["token"]] = len(frames)
            size = (int(field(row, "height", where)), int(field(row, "width", where)))
            frames.append((row["token"], str(field(row, "filename", where)), size))
    objects = json_rows.Places(object_ann)
    for _, begin, end, row in json_rows.rows(object_ann):
        where = f"{object_ann}: {row.get('token', f'byte {begin}')}"
        frame, kind = field(row, "sample_data_token", where), field(row, "category_token", where)
        if frame not in numbers or kind not in names:
            raise DataError(
                f"{where}: no such key frame or category (got {frame}, {kind}); are all tables of one split?"
            )
        if names[kind] is not None:
            objects.add(numbers[frame], begin, end)
    return Read(tuple(CLASSES), _frames(frames, objects, names, object_ann))


def _frames(
    frames: list[_Frame], objects: json_rows.Places, names: dict[str, str | None], path: Path
) -> Iterator[Picture]:
    for (token, file, size), rows in zip(frames, objects.read(np.arange(len(frames))), strict=True):
        things = [_thing(row, str(names[row["category_token"]]), size, path) for row in rows]
        yield Picture(file, size, token, tuple(thing for thing in things if thing is not None))


def _thing(row: Row, category: str, size: tuple[int, int], path: Path) -> Thing | None:
    name = f"object {row.get('token')}"
    where = f"{path}: {name}"
    x0, y0, x1, y1 = readers.numbers(row.get("bbox"), 4, f"{where}: bbox")
    box, segmentation = coco_rows.clip((x0, y0, x1, y1), size), _run_lengths(row.get("mask"), where)
    found = coco_rows.measure(segmentation, size, where) if segmentation else None
    if box is None or found is None:
        return None
    return Thing(category, box, found[1], segmentation, False, name)


def _run_lengths(mask: Any, where: str) -> dict[str, Any] | None:
    """COCO's compressed run lengths; None where there is no mask."""
    if mask is None:
        return None
    try:
        return {"size": mask["size"], "counts": base64.b64decode(mask["counts"], validate=True).decode("ascii")}
    except (KeyError, TypeError, binascii.Error, UnicodeDecodeError) as error:
        raise DataError(f"{where}: mask: is no size and base64 counts (got {mask!r:.80}); download it again") from error
