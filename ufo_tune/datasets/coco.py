"""``coco``: COCO's files as they are: instances JSON, panoptic JSON with id PNGs; also YOLO's text files.

    samples = load("/data/coco", "val2017", task="instance_segmentation")
    samples = load("/data/coco", "train2017", task="detection", layout="panoptic", images=16, classes="present")

Layouts below ``root`` (every path can be given as an option, ``{split}`` is replaced):

============ ======================================== =============================================
layout       ``annotations``                          masks and boxes
============ ======================================== =============================================
instances    ``annotations/instances_{split}.json``   polygons or run lengths; ``iscrowd`` is kept
panoptic     ``annotations/panoptic_{split}.json``    ``things`` of the id PNGs beside the JSON file
yolo         ``data.yaml`` (``names``)                ``{labels}/<image>.txt``: boxes, or polygons
============ ======================================== =============================================

Images lie in ``image_dir``: ``{split}`` (COCO's own), else ``images/{split}``. Classes are category names in the order
of their ids. Images without objects stay in, because evaluation counts false alarms on them. COCO has 118,287 images
in train2017, 5,000 in val2017, and 80 classes; its annotations are CC BY 4.0, each image has its own licence.

Source: cocodataset.org, "Data format"; docs.ultralytics.com, "Detection / segmentation datasets".
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ufo_tune.datasets import _coco_layouts as layouts
from ufo_tune.datasets import _pictures
from ufo_tune.datasets._objects import TASKS, Filters, Objects, choose
from ufo_tune.errors import ConfigError, DataError
from ufo_tune.plugins import did_you_mean

__all__ = ["TASKS", "load"]


def load(
    root: str,
    split: str,
    *,
    task: str,
    layout: Literal["instances", "panoptic", "yolo"] = "instances",
    annotations: str = "",
    image_dir: str = "",
    labels: str = "labels/{split}",
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
        split: such as ``train2017``.
        task: one of ``TASKS``.
        layout: which files; see the module.
        annotations: path of the annotation file.
        image_dir: folder of the images.
        labels: folder of YOLO's text files.
        images: so many images from the start, or the ids or file names of those wanted; 0: all.
        classes: ask only for these and drop other objects; ``present``: those that the chosen images have.
        min_size: objects whose box is narrower or lower than this, in pixels, are dropped.
        min_area: objects whose area (COCO's ``area``) is below this, in pixels, are dropped.
        keep_empty: whether images without objects stay in.
        with_masks: masks for ``detection`` too (copy-paste needs them).

    Raises:
        ConfigError: an unknown task, layout, class or image.
        DataError: a file is missing or does not hold what its layout asks for.
    """
    if layout not in layouts.READERS:
        raise ConfigError(f"datasets/coco.layout: unknown (got {layout!r}); {did_you_mean(layout, layouts.READERS)}")
    folder = Path(root)
    places = layouts.Places(
        annotations=folder / (annotations or layouts.ANNOTATIONS[layout]).format(split=split),
        images=_image_folder(folder, split, image_dir),
        labels=folder / labels.format(split=split),
    )
    pictures = _pictures.read(
        "coco",
        lambda: layouts.READERS[layout](places),
        sources=layouts.sources(layout, places),
        code=[layouts.__file__],
        options={"layout": layout},
    )
    filters = Filters(images, classes, min_size, min_area, keep_empty, with_masks)
    beside = places.annotations.parent
    return choose(pictures, f"coco/{split}", task=task, images=places.images, annotations=beside, filters=filters)


def _image_folder(root: Path, split: str, image_dir: str) -> Path:
    choices = [image_dir.format(split=split)] if image_dir else [split, f"images/{split}"]
    for choice in choices:
        if (root / choice).is_dir():
            return root / choice
    raise DataError(f"{root}: no folder of images (got none of {choices}); check root and split, or give image_dir")
