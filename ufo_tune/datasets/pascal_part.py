"""``pascal_part``: PASCAL-Part as converted for VLPart and LISA, boxes and masks of 93 parts of 14 classes of objects.

    samples = load("/data/vlpart/pascal_part", "train", task="instance_segmentation")

    <root>/{split}.json                                   ``annotations`` gives another
    <root>/VOCdevkit/VOC2010/JPEGImages/2008_000002.jpg   ``image_dir`` gives another folder

Names are ``object:part`` (``aeroplane:wing``, ``bus:license plate``); how a part is spoken of is the mixture's affair.
The file's boxes end one pixel too early (last column minus first) and its areas are those of boxes, so both are
measured on the masks; annotations without a mask are left out. Classes without an object are absent.

Images are those of VOC 2010's lists ``train`` and ``val`` that have a part (of 4,998 and 5,105). For the annotations'
terms see PASCAL-Part's site; images have Flickr's.

Source: github.com/facebookresearch/VLPart, datasets/README.md; roozbehm.info/pascal-parts.
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
    annotations: str = "{split}.json",
    image_dir: str = "VOCdevkit/VOC2010/JPEGImages",
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
        split: ``train`` or ``val``.
        task: one of ``TASKS``.
        annotations: path of the annotation file.
        image_dir: folder of the images.
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
    file = _paths.first_file(folder, annotations.format(split=split), option="annotations")
    filters = Filters(images, classes, min_size, min_area, keep_empty, with_masks)
    where = folder / image_dir
    return coco_rows.samples(
        "pascal_part",
        split,
        file,
        coco_rows.Style(measured=True),
        code=__file__,
        task=task,
        images=where,
        filters=filters,
    )
