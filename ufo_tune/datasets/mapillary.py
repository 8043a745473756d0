"""``mapillary``: Mapillary Vistas, v2.0 or v1.2.

    samples = load("/data/mapillary", "training", task="semantic_segmentation")
    samples = load("/data/mapillary", "validation", task="instance_segmentation", version="v1.2")

    config_v2.0.json                       names (``readable``) in the order of their numbers
    {training,validation}/images/*.jpg
    {training,validation}/v2.0/labels/*.png      8 bit with palette: the class
    {training,validation}/v2.0/instances/*.png   16 bit: class x 256 + object

Releases before 1.2 have neither ``v2.0/`` nor its name in ``config.json``. ``instance_segmentation`` has the masks of
classes that the file says have ``instances``. v2.0 has 124 classes (70 with instances), v1.2 has 66 (37); both have
18,000 images in training and 2,000 in validation. Among the classes are void ones such as "Unlabeled", which UFO
learns like the others; ``evaluated_only`` leaves them out. CC BY-NC-SA 4.0.

Source: mapillary.com/dataset/vistas, the README of the download.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ufo_tune.core import masks
from ufo_tune.core.types import Sample, Targets
from ufo_tune.datasets import _readers as readers
from ufo_tune.datasets._label_maps import (
    LabelMaps,
    check_task,
    class_numbers,
    pair_up,
    read_values,
    to_numbers,
)
from ufo_tune.datasets._paths import first_folder
from ufo_tune.errors import ConfigError, DataError
from ufo_tune.plugins import did_you_mean

TASKS = ("semantic_segmentation", "instance_segmentation")
_VERSIONS = ("v2.0", "v1.2")


@dataclass(frozen=True, slots=True)
class Instances(LabelMaps):
    """The same with objects instead of label maps: pixels are class x 256 + object."""

    def _make(self, number: int) -> Sample:
        """One sample.

        Raises:
            DataError: the PNG cannot be read, or has a class that is not in the file of names.
        """
        row = self.pairs[number]
        source, file = f"{self.name}#{row['id']}", self.labels / row["labels"]
        values = read_values(file)  # [H, W]
        regions = masks.encode_ids(values)  # objects, and what is not countable
        numbers = to_numbers(np.array(list(regions)) >> 8, self.numbers, f"{source}: {file}")
        rles = tuple(rle for rle, number in zip(regions.values(), numbers, strict=True) if number >= 0)
        return Sample(
            image=self.images / row["image"],
            size=(values.shape[0], values.shape[1]),
            task="instance_segmentation",
            classes=self.classes,
            targets=Targets(masks.boxes_of(rles), rles, torch.from_numpy(numbers[numbers >= 0]).long()),
            source=source,
            image_id=row["id"],
        )


def load(
    root: str, split: str, *, task: str, version: Literal["v2.0", "v1.2"] = "v2.0", evaluated_only: bool = False
) -> LabelMaps:
    """Samples with a label map or with masks, one per image, in the order of file names.

    Args:
        root: folder of the splits and of the file of names.
        split: ``training`` or ``validation``.
        task: one of ``TASKS``.
        version: of the labels.
        evaluated_only: leave out classes that the benchmark does not score; their pixels have no class then.

    Raises:
        ConfigError: an unknown task or version.
        DataError: a folder or file is missing, or the file of names does not hold any.
    """
    check_task(task, TASKS, "mapillary")
    if version not in _VERSIONS:
        raise ConfigError(f"datasets/mapillary.version: unknown (got {version!r}); {did_you_mean(version, _VERSIONS)}")
    folder = Path(root) / split
    kind = "labels" if task == "semantic_segmentation" else "instances"
    images = first_folder(folder, "images")
    labels = first_folder(folder, f"{version}/{kind}", kind)
    names = _names(Path(root), version)
    values = [
        value
        for value, (_, countable, evaluated) in enumerate(names)
        if (evaluated or not evaluated_only) and (countable or kind == "labels")
    ]
    classes = tuple(names[value][0] for value in values)
    numbers = class_numbers(values, ignored=range(len(names)))
    samples = LabelMaps if kind == "labels" else Instances
    return samples(f"mapillary/{split}", classes, pair_up("mapillary", images, labels), images, labels, numbers)


def _names(root: Path, version: str) -> list[tuple[str, bool, bool]]:
    """Name, whether it has instances, and whether it is evaluated, of each class."""
    named, older = root / f"config_{version}.json", root / "config.json"
    path = older if older.is_file() and not named.is_file() else named
    rows = readers.read_json(path).get("labels")
    needed = {"readable", "instances", "evaluate"}
    if not isinstance(rows, list) or not rows or not all(isinstance(r, dict) and needed <= set(r) for r in rows):
        raise DataError(f"{path}: has no list of labels (got {rows!r:.80}); download it again")
    return [(str(r["readable"]), bool(r["instances"]), bool(r["evaluate"])) for r in rows]
