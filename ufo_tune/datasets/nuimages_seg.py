"""``nuimages_seg``: nuImages as label maps, painted from its objects and surfaces.

    samples = load("/data/nuimages_seg", "training", task="semantic_segmentation")

    images/{training,validation}/<name>.jpg
    annotations/{training,validation}/<name>.png   0: not labelled, not scored; 1..31: classes

The PNGs are those that mmdetection3d's ``tools/dataset_converters/nuimage_converter.py`` paints with nuImages'
development kit, surfaces first and objects over them, put into flat folders. The kit numbers the 23 kinds of object
1..23 by the alphabet, the driveable surface 24 and the own car 31; 25..30 are classes of nuScenes-lidarseg that no
image of nuImages has (``annotated_only`` leaves them out). 31 names, as the released UFO weights were asked for them.
67,279 images in training, 16,445 in validation. CC BY-NC-SA 4.0, terms of use of nuScenes.

Source: github.com/nutonomy/nuscenes-devkit, ``nuimages/utils/utils.py`` (``name_to_index_mapping``); the names,
``NuimageSegDataset`` of UFO's code at 6976de9.
"""

from __future__ import annotations

from pathlib import Path

from ufo_tune.datasets._label_maps import TASKS, LabelMaps, check_task, class_numbers, pair_up
from ufo_tune.datasets._paths import first_folder

__all__ = ["TASKS", "load"]

CLASSES = (
    "animal", "adult pedestrian", "child pedestrian", "construction worker", "portable personal mobility vehicle",
    "police officer", "stroller", "wheelchair", "barrier", "debris", "pushable pullable objects", "traffic cone",
    "bicycle rack", "bicycle", "bendy bus", "rigid bus", "car", "construction vehicle", "ambulance", "police vehicle",
    "motorcycle", "trailer", "truck", "driveable_surface", "sidewalk", "terrain", "flat.other", "static.manmade",
    "static.vegetation", "static.other", "ego vehicle",
)  # fmt: skip
"""By number, from 1."""
_NEVER = range(25, 31)


def load(root: str, split: str, *, task: str, annotated_only: bool = False) -> LabelMaps:
    """Samples with a label map, one per image, in the order of file names.

    Args:
        root: folder of ``images`` and ``annotations``.
        split: ``training`` or ``validation``.
        task: ``semantic_segmentation``.
        annotated_only: leave out the six classes that no image has.

    Raises:
        ConfigError: another task.
        DataError: a folder is missing, or a label map has no image.
    """
    check_task(task, TASKS, "nuimages_seg")
    images = first_folder(Path(root), f"images/{split}")
    labels = first_folder(Path(root), f"annotations/{split}")
    values = [v for v in range(1, len(CLASSES) + 1) if not (annotated_only and v in _NEVER)]
    classes = tuple(CLASSES[v - 1] for v in values)
    numbers = class_numbers(values, ignored=[0])
    pairs = pair_up("nuimages_seg", images, labels)
    return LabelMaps(f"nuimages_seg/{split}", classes, pairs, images, labels, numbers)
