"""``openimages``: Open Images V4 to V7's own CSV files, boxes of 600 classes and masks of 350 of them.

    samples = load("/data/openimages", "train", task="detection")
    samples = load("/data/openimages", "validation", task="instance_segmentation", min_size=32)

    <root>/annotations/                                  or root itself; ``annotations`` gives another folder
        class-descriptions-boxable.csv                   or oidv7-...; ``descriptions`` gives another
        oidv6-train-annotations-bbox.csv                 validation and test have no prefix
        train-annotations-object-segmentation.csv        for masks
        train-annotations-human-imagelabels-boxable.csv  verified labels; may be missing
    <root>/train/0001eeaf4aed83f9.jpg                    or images/train; ``image_dir`` gives another
    <root>/masks/train/<MaskPath>                        or train-masks; ``mask_dir`` gives another

The labels are verified, not exhaustive: classes that people looked for in vain in an image (``Confidence`` 0) are its
``Sample.absent``, and nothing is known of the others; without the file of labels no class is known to be absent.
Boxes of groups (``IsGroupOf``) are crowds. Classes are as annotated: a "Man" is not a "Person" as well. Names are the
file's; none of the boxable ones has a comma. Masks have another resolution than their images and are scaled to them.

The files do not give sizes: the images' headers are read once, when the table is made, or ``sizes`` is a CSV file
with the columns ImageID, Height, Width.

Images: train 1,743,042, validation 41,620, test 125,436. Annotations are CC BY 4.0, images are listed as CC BY 2.0.

Source: storage.googleapis.com/openimages, "Download" (formats); github.com/openimages/dataset, issue 92 (resolutions).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from ufo_tune.datasets import _coco_rows as coco_rows
from ufo_tune.datasets import _openimages_csv as csv_files
from ufo_tune.datasets import _paths, _pictures
from ufo_tune.datasets._objects import TASKS, Filters, Objects, choose

__all__ = ["TASKS", "load"]

_PREFIXES = ("oidv6-", "", "oidv7-")
_LABELS = ("-annotations-human-imagelabels-boxable.csv", "-annotations-human-imagelabels.csv")


def load(
    root: str,
    split: str,
    *,
    task: str,
    annotations: str = "",
    descriptions: str = "",
    image_dir: str = "",
    mask_dir: str = "",
    sizes: str = "",
    depictions: bool = True,
    inside: bool = True,
    skip_missing: bool = False,
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
        split: ``train``, ``validation`` or ``test``.
        task: one of ``TASKS``.
        annotations: folder of the CSV files.
        descriptions: file of class names in it.
        image_dir: folder of the images.
        mask_dir: folder of the masks.
        sizes: CSV file of image sizes; without it the images' headers are read.
        depictions: whether depicted objects (drawings, statues) are kept; the CSV of masks does not say.
        inside: whether objects that are seen from the inside are kept; the CSV of masks does not say.
        skip_missing: leave out images that are not in the folder, where only a part was downloaded.
        images: so many images from the start, or the ids or file names of those wanted; 0: all.
        classes: ask only for these and drop other objects; ``present``: those that the chosen images have.
        min_size: objects whose box is narrower or lower than this, in pixels, are dropped.
        min_area: objects whose box has an area below this, in pixels, are dropped.
        keep_empty: whether images without objects stay in.
        with_masks: for ``detection`` too read the objects that have masks, and their masks (copy-paste needs them).

    Raises:
        ConfigError: an unknown task, class or image.
        DataError: a file is missing or damaged.
    """
    folder, masked = Path(root), with_masks or task == "instance_segmentation"
    choices = [annotations.format(split=split)] if annotations else ["annotations", ""]
    files = _paths.first_folder(folder, *choices, option="annotations")
    kind = "object-segmentation" if masked else "bbox"
    names = [descriptions] if descriptions else [f"{prefix}class-descriptions-boxable.csv" for prefix in _PREFIXES]
    objects = _paths.first_file(files, *(f"{p}{split}-annotations-{kind}.csv" for p in _PREFIXES), option="annotations")
    image_dirs = [image_dir.format(split=split)] if image_dir else [split, f"images/{split}"]
    mask_dirs = [mask_dir.format(split=split)] if mask_dir else [f"masks/{split}", f"{split}-masks"]
    places = csv_files.Places(
        classes=_paths.first_file(files, *names, option="descriptions"),
        objects=objects,
        labels=next((p for end in _LABELS for pre in _PREFIXES if (p := files / f"{pre}{split}{end}").is_file()), None),
        sizes=folder / sizes.format(split=split) if sizes else None,
        images=_paths.first_folder(folder, *image_dirs, option="image_dir"),
    )
    options: dict[str, Any] = {"depictions": depictions, "inside": inside, "skip_missing": skip_missing}
    # Sizes come from the images, but hashing two million files would take minutes at every start.
    seen = [str(places.images.resolve()), places.images.stat().st_mtime_ns if skip_missing else 0]
    pictures = _pictures.read(
        "openimages",
        lambda: csv_files.read(places, masks=masked, **options),
        sources=places.sources(),
        code=[__file__, csv_files.__file__, *coco_rows.CODE],
        options={**options, "images": seen},
    )
    filters = Filters(images, classes, min_size, min_area, keep_empty, with_masks)
    beside = _paths.first_folder(folder, *mask_dirs, option="mask_dir") if masked else files
    return choose(pictures, f"openimages/{split}", task=task, images=places.images, annotations=beside, filters=filters)
