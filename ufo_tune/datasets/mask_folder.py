"""``mask_folder``: your own masks: a folder of images, and PNGs that are 0 outside and anything else inside.

    samples = load("my_data", "train", task="res")
    samples = load("my_data", "train", task="res", phrase="the crack")
    samples = load("my_data", "train", task="instance_segmentation")

Images lie in ``images/{split}``. Below ``masks/{split}`` (both can be given as options) the masks of ``0001.jpg`` are

    0001/the_red_cup.png    0001_the_red_cup.png           of what the rest of the name says ("_" is a blank)
    0001.png                                               of the option ``phrase``
    cup/0001/1.png          cup/0001_1.png   cup/0001.png  of what the first folder says

``res`` makes a sample of each phrase of an image; files of one phrase are joined to one mask. ``instance_segmentation``
makes a sample of each image, with a mask of each file; its classes are the first folders.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import torch

from ufo_tune.core import masks
from ufo_tune.core.images import image_size
from ufo_tune.core.lazy import Lazy
from ufo_tune.core.types import Sample, Targets
from ufo_tune.datasets import _label_maps, _table
from ufo_tune.datasets import _readers as readers
from ufo_tune.datasets._label_maps import IMAGES, check_task, files, folder_times
from ufo_tune.datasets._paths import first_folder
from ufo_tune.errors import DataError

if TYPE_CHECKING:
    from datasets import Features

TASKS = ("res", "instance_segmentation")


@dataclass(frozen=True, slots=True)
class MaskFolder(Lazy[Sample]):
    """Samples made on access."""

    name: str
    task: str
    table: _table.Table
    images: Path
    masks: Path

    @property
    def image_ids(self) -> tuple[str, ...]:
        """One per sample."""
        return tuple(self.table.column("id").to_pylist())

    def __len__(self) -> int:
        return len(self.table)

    def _make(self, number: int) -> Sample:
        """One sample.

        Raises:
            DataError: an image or mask cannot be read, or a mask is empty or of another size.
        """
        row, res = self.table[number], self.task == "res"
        image, words = self.images / row["image"], row["words"]
        source = f"{self.name}#{row['id']}" + (f"/{words[0]}" if res else "")
        size = image_size(image)
        rles = tuple(readers.mask(file, size, f"{source}: {file}", self.masks) for file in row["masks"])
        classes: tuple[str, ...] = () if res else tuple(self.table.meta["classes"])
        if res:
            rles = (masks.union(rles),)
        labels = [0] if res else [classes.index(word) for word in words]
        return Sample(
            image=image,
            size=size,
            task=self.task,
            text=words[0] if res else "",
            classes=classes,
            targets=Targets(masks.boxes_of(rles), rles, torch.tensor(labels, dtype=torch.long)),
            source=source,
            image_id=row["id"],
        )


def load(
    root: str,
    split: str,
    *,
    task: str,
    phrase: str = "",
    image_dir: str = "images/{split}",
    mask_dir: str = "masks/{split}",
) -> MaskFolder:
    """Samples in the order of the images' paths.

    Args:
        root: folder that the others are below.
        split: put where a path says ``{split}``.
        task: one of ``TASKS``.
        phrase: what all masks are of (``res``), whatever their names say.
        image_dir: folder of the images.
        mask_dir: folder of the masks.

    Raises:
        ConfigError: an unknown task.
        DataError: a folder is missing, a mask is of no image, or its name does not say what it is of.
    """
    check_task(task, TASKS, "mask_folder")
    images = first_folder(Path(root), image_dir.format(split=split), option="image_dir")
    folder = first_folder(Path(root), mask_dir.format(split=split), option="mask_dir")
    times = [*folder_times(images, nested=False), *folder_times(folder, nested=True)]
    table = _table.table(
        "mask_folder",
        lambda: _rows(images, folder, task, phrase.strip()),
        features=_features,
        sources=[],
        code=[__file__, _label_maps.__file__],
        options={"folders": times, "by": [task, phrase]},
    )
    return MaskFolder(f"mask_folder/{split}", task, table, images, folder)


def _rows(images: Path, folder: Path, task: str, phrase: str) -> _table.Made:
    shown = _images(images)
    found: dict[str, dict[str, list[str]]] = {stem: {} for stem in shown}
    for file in files(folder, nested=True):
        if not file.lower().endswith(".png"):
            continue
        stem, group, rest = _parts(file, shown.keys(), folder, images)
        word = group if task != "res" else phrase or (group or rest).replace("_", " ").strip()
        if not word:
            right = "give the option phrase" if task == "res" else "put it into a folder with the name of its class"
            raise DataError(f"{folder / file}: its name does not say what it is a mask of (got {file}); {right}")
        found[stem].setdefault(word, []).append(file)
    rows: list[dict[str, Any]] = []
    for stem, words in found.items():
        if task == "res":
            rows += [_row(shown[stem], stem, {word: listed}) for word, listed in words.items()]
        else:
            rows.append(_row(shown[stem], stem, words))
    classes = sorted({word for words in found.values() for word in words}) if task != "res" else []
    if not any(found.values()):
        raise DataError(f"{folder}: no masks (got no PNG files); check root and split")
    return {"classes": classes}, rows


def _images(folder: Path) -> dict[str, str]:
    """Files by their names without ending."""
    shown: dict[str, str] = {}
    for file in files(folder, nested=False):
        stem, ending = os.path.splitext(file)
        if ending.lower() in IMAGES:
            if stem in shown:
                raise DataError(f"{folder}: two images have one name (got {shown[stem]} and {file}); rename one")
            shown[stem] = file
    return shown


def _parts(file: str, stems: Collection[str], folder: Path, images: Path) -> tuple[str, str, str]:
    """The image that a mask is of, the first folder where that is not the image's, and the rest of the name."""
    parts = list(PurePosixPath(file).with_suffix("").parts)
    group = parts.pop(0) if len(parts) > 1 and parts[0] not in stems else ""
    if len(parts) == 2 and parts[0] in stems:
        return parts[0], group, parts[1]
    stem, rest = parts[-1], ""
    while len(parts) == 1 and stem:  # the longest name of an image that it begins with
        if stem in stems:
            return stem, group, rest
        stem, _, more = stem.rpartition("_")
        rest = f"{more}_{rest}" if rest else more
    raise DataError(f"{folder / file}: is the mask of no image (got none of that name in {images}); rename it")


def _row(image: str, stem: str, words: dict[str, list[str]]) -> dict[str, Any]:
    listed = [(file, word) for word, several in words.items() for file in several]
    return {"image": image, "id": stem, "masks": [file for file, _ in listed], "words": [word for _, word in listed]}


def _features() -> Features:
    from datasets import Features, Value

    return Features(
        {"image": Value("string"), "id": Value("string"), "masks": [Value("string")], "words": [Value("string")]}
    )
