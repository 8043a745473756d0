"""``objects365``: Objects365 v2's own files, boxes of 365 classes.

    samples = load("/data/Objects365/Obj365_v2", "train", task="detection", min_size=32, keep_empty=False)

    <root>/annotations/zhiyuan_objv2_{split}.json       or directly in root or {split}; ``annotations`` gives another
    <root>/{split}/patch16/objects365_v2_00900001.jpg   as the archives unpack; the JSON's ``images/v2/`` is dropped

The training file is read as a stream (it is several gigabytes large). Boxes marked ``isfake`` (drawn or reflected
things) are dropped, ``iscrowd`` is kept. Three training images that the archives lack are left out. Names are the
file's, without blanks at their ends, with its misspellings ("Bakset"); none has a comma.

Images: train 1,742,292 in the JSON, val 80,000. Annotations are CC BY 4.0, images have the terms of their sources.

Source: objects365.org, "Download"; the missing images are those that MMDetection's reader leaves out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ufo_tune.datasets import _coco_rows as coco_rows
from ufo_tune.datasets import _paths
from ufo_tune.datasets._json_rows import Row
from ufo_tune.datasets._objects import Filters, Objects
from ufo_tune.errors import ConfigError
from ufo_tune.plugins import did_you_mean

TASKS = ("detection",)
_LACKING = frozenset(
    {"patch6/objects365_v1_00320532.jpg", "patch6/objects365_v1_00320534.jpg", "patch16/objects365_v2_00908726.jpg"}
)


def load(
    root: str,
    split: str,
    *,
    task: str,
    annotations: str = "",
    image_dir: str = "{split}",
    images: int | Sequence[int | str] = 0,
    classes: Sequence[str] | Literal["present"] = (),
    min_size: float = 1.0,
    min_area: float = 0.0,
    keep_empty: bool = True,
) -> Objects:
    """Detection samples, one per image, in the order of image ids.

    Args:
        root: folder that all other paths are below.
        split: ``train`` or ``val``.
        task: ``detection``.
        annotations: path of the annotation file.
        image_dir: folder that ``patch0`` and the others are in.
        images: so many images from the start, or the ids or file names of those wanted; 0: all.
        classes: ask only for these and drop other objects; ``present``: those that the chosen images have.
        min_size: objects whose box is narrower or lower than this, in pixels, are dropped.
        min_area: objects whose box has an area below this, in pixels, are dropped.
        keep_empty: whether images without objects stay in.

    Raises:
        ConfigError: an unknown task, class or image.
        DataError: a file is missing or damaged.
    """
    if task not in TASKS:
        raise ConfigError(f"datasets/objects365: no such task (got {task!r}); {did_you_mean(task, TASKS)}")
    folder, name = Path(root), f"zhiyuan_objv2_{split}.json"
    choices = [annotations.format(split=split)] if annotations else [f"annotations/{name}", name, f"{split}/{name}"]
    file = _paths.first_file(folder, *choices, option="annotations")
    filters = Filters(images, classes, min_size, min_area, keep_empty)
    where = folder / image_dir.format(split=split)
    return coco_rows.samples(
        "objects365",
        split,
        file,
        coco_rows.Style(file=_file, keep=_real),
        code=__file__,
        task=task,
        images=where,
        filters=filters,
    )


def _file(row: Row) -> str:
    """``patch16/<name>``; empty where the archives lack it."""
    found = "/".join(str(row.get("file_name", "")).split("/")[-2:])
    return "" if found in _LACKING else found


def _real(row: Row) -> bool:
    return not row.get("isfake", 0)
