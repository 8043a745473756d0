"""``ade20k``: ADE20K's scene parsing benchmark (SceneParsing150, ADEChallengeData2016).

    samples = load("/data/ADEChallengeData2016", "validation", task="semantic_segmentation")

    images/{training,validation}/ADE_train_00000001.jpg
    annotations/{training,validation}/ADE_train_00000001.png   0: other, not scored; 1..150: classes
    objectInfo150.txt                                          names; a copy of them is built in

Both folders can be given as options, ``{split}`` is replaced. A class is called by the first of its synonyms.
20,210 images in training, 2,000 in validation, 150 classes. Terms of use of ADE20K (research, no commerce; the
annotations BSD-3).

Source: sceneparsing.csail.mit.edu; github.com/CSAILVision/sceneparsing.
"""

from __future__ import annotations

from pathlib import Path

from ufo_tune.datasets._classes_ade20k import CLASSES
from ufo_tune.datasets._label_maps import TASKS, LabelMaps, check_task, class_numbers, pair_up, read_names
from ufo_tune.datasets._paths import first_folder
from ufo_tune.errors import DataError

__all__ = ["TASKS", "load"]


def load(
    root: str, split: str, *, task: str, image_dir: str = "images/{split}", label_dir: str = "annotations/{split}"
) -> LabelMaps:
    """Samples with a label map, one per image, in the order of file names.

    Args:
        root: folder that the others are below.
        split: ``training`` or ``validation``.
        task: ``semantic_segmentation``.
        image_dir: folder of the images.
        label_dir: folder of the label maps.

    Raises:
        ConfigError: another task.
        DataError: a folder or file is missing, or the list of names is not one of 150.
    """
    check_task(task, TASKS, "ade20k")
    images = first_folder(Path(root), image_dir.format(split=split), option="image_dir")
    labels = first_folder(Path(root), label_dir.format(split=split), option="label_dir")
    names = Path(root) / "objectInfo150.txt"
    classes = _names(names) if names.is_file() else CLASSES
    numbers = class_numbers(range(1, len(classes) + 1), ignored=[0])
    return LabelMaps(f"ade20k/{split}", classes, pair_up("ade20k", images, labels), images, labels, numbers)


def _names(path: Path) -> tuple[str, ...]:
    """The first synonym of each line's last column (Idx, Ratio, Train, Val, Name)."""
    lines = read_names(path)[1:]
    names = tuple(line.split("\t")[-1].split(",")[0].strip() for line in lines if line.strip())
    if len(names) != len(CLASSES) or len(set(names)) != len(names) or not all(names):
        raise DataError(f"{path}: is not the list of 150 names (got {len(set(names))}); download or delete it")
    return names
