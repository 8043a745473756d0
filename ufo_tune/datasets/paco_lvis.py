"""``paco_lvis``: PACO-LVIS v1's own files, boxes and masks of 75 classes of objects and 456 of their parts.

    samples = load("/data/coco", "train", task="instance_segmentation")

    <root>/annotations/paco_lvis_v1_{split}.json    or directly in root; ``annotations`` gives another
    <root>/train2017/000000391895.jpg               COCO's folders, below ``image_dir``

Names are plain words: '_' becomes a blank, LVIS's remark in parentheses goes, and a part has its object before a
colon: ``car_(automobile):door_handle`` is asked for as ``car:door handle``. How a part is spoken of is the mixture's
affair. The annotation is federated as LVIS's: ``Sample.absent`` are the classes that somebody looked for in vain.

Images: train 45,790, val 2,410, test 9,443. For the annotations' terms see PACO's site; images have COCO's.

Source: github.com/facebookresearch/paco, docs/PACO_DATASET.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ufo_tune.datasets import _coco_rows as coco_rows
from ufo_tune.datasets import _paths
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
        split: ``train``, ``val`` or ``test``.
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
    folder, name = Path(root), f"paco_lvis_v1_{split}.json"
    choices = [annotations.format(split=split)] if annotations else [f"annotations/{name}", name]
    file = _paths.first_file(folder, *choices, option="annotations")
    filters = Filters(images, classes, min_size, min_area, keep_empty, with_masks)
    where = folder / image_dir
    return coco_rows.samples(
        "paco_lvis",
        split,
        file,
        coco_rows.Style(name=_plain, federated=True),
        code=__file__,
        task=task,
        images=where,
        filters=filters,
    )


def _plain(name: str) -> str:
    return ":".join(part.split("_(")[0].replace("_", " ").strip() for part in name.split(":"))
