"""``lvis``: LVIS v1's own files, boxes and masks of 1,203 classes; v0.5's too.

    samples = load("/data/coco", "train", task="instance_segmentation")
    samples = load("/data/lvis", "val", task="detection", image_dir="/data/coco", min_size=32)

    <root>/annotations/lvis_v1_{split}.json     or directly in root; ``annotations`` gives another
    <root>/train2017/000000391895.jpg           COCO's folders, below ``image_dir``; LVIS's val has images of both

The annotation is federated: an image lists classes that somebody looked for in vain (``Sample.absent``), and nothing
is known of the other classes without an object. A class of which not every object has an annotation is never absent
(``Sample.partial``). ``Sample.groups`` says which classes are rare, common and frequent (r, c, f).
Names are LVIS's, with '_' and parentheses (``bow_(weapon)``); none has a comma, which answers could not hold.

Images: train 100,170, val 19,809 (1,270,141 and 244,707 objects). Annotations are CC BY 4.0, images have COCO's terms.

Source: lvisdataset.org, "Dataset"; github.com/lvis-dataset/lvis-api.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ufo_tune.datasets import _coco_rows as coco_rows
from ufo_tune.datasets import _paths
from ufo_tune.datasets._json_rows import Row
from ufo_tune.datasets._objects import TASKS, Filters, Objects

__all__ = ["TASKS", "load"]


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
    """Detection or instance segmentation samples, one per image, in the order of image ids.

    Args:
        root: folder that all other paths are below.
        split: ``train``, ``val``, or what stands for ``{split}`` in ``annotations``.
        task: one of ``TASKS``.
        annotations: path of the annotation file.
        image_dir: folder that ``train2017`` and ``val2017`` are in.
        images: so many images from the start, or the ids or file names of those wanted; 0: all.
        classes: ask only for these and drop other objects; ``present``: those that the chosen images have.
        min_size: objects whose box is narrower or lower than this, in pixels, are dropped.
        min_area: objects whose area is below this, in pixels, are dropped.
        keep_empty: whether images without objects stay in.
        with_masks: masks for ``detection`` too (copy-paste needs them).

    Raises:
        ConfigError: an unknown task, class or image.
        DataError: a file is missing or damaged.
    """
    folder, name = Path(root), f"lvis_v1_{split}.json"
    choices = [annotations.format(split=split)] if annotations else [f"annotations/{name}", name]
    file = _paths.first_file(folder, *choices, option="annotations")
    filters = Filters(images, classes, min_size, min_area, keep_empty, with_masks)
    where = folder / image_dir
    return coco_rows.samples(
        "lvis",
        split,
        file,
        coco_rows.Style(file=_file, federated=True),
        code=__file__,
        task=task,
        images=where,
        filters=filters,
    )


def _file(row: Row) -> str:
    """v1 has the place in ``coco_url`` only; v0.5's ``file_name`` is that of COCO 2014, its ``coco_url`` of 2017."""
    return "/".join(str(row["coco_url"]).split("/")[-2:]) if "coco_url" in row else str(row.get("file_name", ""))
