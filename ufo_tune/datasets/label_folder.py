"""``label_folder``: your own label maps: a folder of images, and one of PNGs with a number per pixel.

    samples = load("my_data", "train", task="semantic_segmentation", classes=["road", "kerb", "tree"])

    my_data/images/train/0001.jpg
    my_data/labels/train/0001.png   grey or palette, 8 or 16 bit; also in folders below, as the images are
    my_data/classes.txt             one name a line, the first is number 0; or the option ``classes``

Both folders can be given as options, ``{split}`` is replaced. Images without a label map are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ufo_tune.datasets._label_maps import TASKS, LabelMaps, check_task, class_numbers, pair_up, read_names
from ufo_tune.datasets._paths import first_folder
from ufo_tune.errors import ConfigError

__all__ = ["TASKS", "load"]


def load(
    root: str,
    split: str,
    *,
    task: str,
    classes: Sequence[str] | Mapping[int, str] = (),
    ignore: Sequence[int] = (255,),
    reduce_zero_label: bool = False,
    image_dir: str = "images/{split}",
    label_dir: str = "labels/{split}",
    suffix: str = ".png",
) -> LabelMaps:
    """Samples with a label map, one per label map, in the order of their paths.

    Args:
        root: folder that the others are below.
        split: put where a path says ``{split}``.
        task: ``semantic_segmentation``.
        classes: names in the order of their pixel values, from 0; or names by pixel value, where there are gaps. None
            given: the lines of ``classes.txt``.
        ignore: pixel values that stand for no class.
        reduce_zero_label: 0 stands for no class, and names count from 1.
        image_dir: folder of the images.
        label_dir: folder of the label maps.
        suffix: what label maps have after the image's name, such as ``_labels.png``.

    Raises:
        ConfigError: another task; names that are empty or not unique; a value that no pixel can have.
        DataError: a folder or the list of names is missing, or a label map has no image.
    """
    check_task(task, TASKS, "label_folder")
    images = first_folder(Path(root), image_dir.format(split=split), option="image_dir")
    labels = first_folder(Path(root), label_dir.format(split=split), option="label_dir")
    if isinstance(classes, Mapping):
        by_value = dict(sorted(classes.items()))
    else:
        by_value = dict(enumerate(classes or read_names(Path(root) / "classes.txt"), start=int(reduce_zero_label)))
    names = tuple(name.strip() for name in by_value.values())
    if not names or not all(names) or len(set(names)) != len(names):
        raise ConfigError(f"datasets/label_folder.classes: names are empty or not unique (got {names}); mend the list")
    ignored = {*ignore, 0} if reduce_zero_label else set(ignore)
    if shared := sorted(ignored & set(by_value)):
        raise ConfigError(
            f"datasets/label_folder: {by_value[shared[0]]!r} has a value that is ignored (got {shared[0]}); "
            "leave it out of the classes, or mend ignore and reduce_zero_label"
        )
    numbers = class_numbers(tuple(by_value), ignored)
    pairs = pair_up("label_folder", images, labels, suffix=suffix, nested=True)
    return LabelMaps(f"label_folder/{split}", names, pairs, images, labels, numbers)
