"""``coco_stuff``: COCO-Stuff 164k, every pixel of COCO's images as a thing or stuff.

    samples = load("/data/coco_stuff164k", "train2017", task="semantic_segmentation")
    samples = load("/data/cocostuff/dataset", "val2017", task="semantic_segmentation", labels="original")

    images/{split}/000000000009.jpg                      also below {split}/, COCO's own place
    annotations/{split}/000000000009.png                 ``original``: 0..181 with gaps, 255 unlabelled
    annotations/{split}/000000000009_labelTrainIds.png   ``train_ids``: 0..170, 255 unlabelled

Label maps are also looked for below ``stuffthingmaps/{split}`` and beside the images. 118,287 images in train2017,
5,000 in val2017, 171 classes (80 things, 91 stuff). Annotations CC BY 4.0; each image has its own licence.

Source: github.com/nightrome/cocostuff (``stuffthingmaps_trainval2017.zip``, ``labels.txt``); the numbers without gaps
are those that mmsegmentation converts to and UFO reads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ufo_tune.datasets._classes_coco_stuff import CLASSES, WITHOUT_MASKS
from ufo_tune.datasets._label_maps import TASKS, LabelMaps, check_task, class_numbers, pair_up
from ufo_tune.datasets._paths import first_folder
from ufo_tune.errors import ConfigError
from ufo_tune.plugins import did_you_mean

__all__ = ["TASKS", "load"]

_ORIGINAL = tuple(v for v in range(len(CLASSES) + len(WITHOUT_MASKS)) if v not in WITHOUT_MASKS)
_TRAIN_IDS = "_labelTrainIds.png"
_VALUES = {"train_ids": tuple(range(len(CLASSES))), "original": _ORIGINAL}


def load(
    root: str,
    split: str,
    *,
    task: str,
    labels: Literal["train_ids", "original"] = "train_ids",
    image_dir: str = "",
    label_dir: str = "",
) -> LabelMaps:
    """Samples with a label map, one per image, in the order of image ids.

    Args:
        root: folder that the others are below.
        split: ``train2017`` or ``val2017``.
        task: ``semantic_segmentation``.
        labels: which files; see the module.
        image_dir: folder of the images, ``{split}`` is replaced.
        label_dir: folder of the label maps, ``{split}`` is replaced.

    Raises:
        ConfigError: another task, or an unknown kind of labels.
        DataError: a folder is missing, or a label map has no image.
    """
    check_task(task, TASKS, "coco_stuff")
    if labels not in _VALUES:
        raise ConfigError(f"datasets/coco_stuff.labels: unknown (got {labels!r}); {did_you_mean(labels, _VALUES)}")

    def folder(given: str, usual: tuple[str, ...], option: str) -> Path:
        return first_folder(Path(root), *(c.format(split=split) for c in ([given] if given else usual)), option=option)

    images = folder(image_dir, ("images/{split}", "{split}"), "image_dir")
    maps = folder(label_dir, ("annotations/{split}", "stuffthingmaps/{split}", "{split}"), "label_dir")
    train_ids = labels == "train_ids"
    pairs = pair_up(
        "coco_stuff",
        images,
        maps,
        suffix=_TRAIN_IDS if train_ids else ".png",
        without="" if train_ids else _TRAIN_IDS,
        numbered=True,
    )
    numbers = class_numbers(_VALUES[labels], ignored=[255])
    return LabelMaps(f"coco_stuff/{split}", CLASSES, pairs, images, maps, numbers)
