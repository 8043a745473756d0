"""``drive``: DRIVE, the vessels in 40 photographs of the retina.

    samples = load("/data/DRIVE", "training", task="res")
    samples = load("/data/DRIVE", "training", task="semantic_segmentation", numbers=[21, 22, 23, 24, 25])

    training/images/21_training.tif   training/1st_manual/21_manual1.gif   training/mask/21_training_mask.gif
    test/images/01_test.tif           test/1st_manual/01_manual1.gif       test/mask/01_test_mask.gif

``mask`` is the round field of view; what lies outside is not scored. For ``res`` it is the mask of "the blood vessels",
and outside is ``Targets.ignore``. For ``semantic_segmentation`` every pixel inside is a vessel or, so that there is
something else, the retina between them; outside has no class. 20 photographs (21-40) to train, 20 (01-20) to test, of
565 x 584 pixels; downloads of late have no manual masks of the test half. For research, after registration.

Source: drive.grand-challenge.org; Staal et al. 2004, doi 10.1109/TMI.2004.825627.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ufo_tune.core import masks
from ufo_tune.core.images import open_image
from ufo_tune.core.lazy import Lazy
from ufo_tune.core.types import Sample, Targets
from ufo_tune.datasets import _readers as readers
from ufo_tune.datasets._label_maps import check_task
from ufo_tune.datasets._paths import first_folder
from ufo_tune.errors import ConfigError, DataError

TASKS = ("res", "semantic_segmentation")
PHRASE = "the blood vessels"
CLASSES = ("vessel", "retina")


@dataclass(frozen=True, slots=True)
class Drive(Lazy[Sample]):
    """Samples made on access. ``photographs`` are names such as ``21_training``."""

    folder: Path
    task: str
    photographs: tuple[str, ...]

    @property
    def image_ids(self) -> tuple[str, ...]:
        """One per sample."""
        return self.photographs

    def __len__(self) -> int:
        return len(self.photographs)

    def _make(self, number: int) -> Sample:
        """One sample.

        Raises:
            DataError: a mask cannot be read, or is of another size than the field of view.
        """
        name = self.photographs[number]
        source = f"drive/{self.folder.name}#{name}"
        view = _bitmap(self.folder / "mask" / f"{name}_mask.gif")  # [H, W]
        vessels = _bitmap(self.folder / "1st_manual" / f"{_number(name):02}_manual1.gif")  # [H, W]
        if view.shape != vessels.shape:
            raise DataError(
                f"{source}: the field of view is {view.shape} but the mask {vessels.shape}; check the files"
            )
        return Sample(
            image=self.folder / "images" / f"{name}.tif",
            size=(view.shape[0], view.shape[1]),
            task=self.task,
            text=PHRASE if self.task == "res" else "",
            classes=() if self.task == "res" else CLASSES,
            targets=_one_mask(vessels, view) if self.task == "res" else _map(vessels, view),
            source=source,
            image_id=name,
        )


def load(root: str, split: str, *, task: str, numbers: Sequence[int] = ()) -> Drive:
    """One sample per photograph, in the order of their numbers.

    Args:
        root: folder of ``training`` and ``test``.
        split: ``training`` or ``test``.
        task: one of ``TASKS``.
        numbers: only these photographs, such as 21 to 25; none given: all of the split.

    Raises:
        ConfigError: an unknown task or number.
        DataError: a file is missing.
    """
    check_task(task, TASKS, "drive")
    folder = Path(root) / split
    files = sorted(first_folder(folder, "images").glob("[0-9]*_*.tif"))
    known = {_number(path.stem): path.stem for path in files}
    if not known:
        raise DataError(f"{folder}/images: no photographs (got none such as 21_training.tif); check root and split")
    for number in numbers:
        if number not in known:
            raise ConfigError(f"datasets/drive.numbers: no such photograph (got {number}); known: {sorted(known)}")
    names = tuple(known[n] for n in sorted(set(numbers or known)))
    for name in names:
        readers.existing(folder / "1st_manual" / f"{_number(name):02}_manual1.gif", "manual mask")
        readers.existing(folder / "mask" / f"{name}_mask.gif", "field of view")
    return Drive(folder, task, names)


def _number(name: str) -> int:
    return int(name.partition("_")[0])


def _bitmap(path: Path) -> np.ndarray:
    """[H, W] bool: where it is white."""
    white: np.ndarray = open_image(path)[..., 0] > 127
    return white


def _one_mask(vessels: np.ndarray, view: np.ndarray) -> Targets:
    rles = (masks.encode(vessels),)
    labels = torch.zeros(1, dtype=torch.long)
    return Targets(boxes=masks.boxes_of(rles), masks=rles, labels=labels, ignore=masks.encode(~view))


def _map(vessels: np.ndarray, view: np.ndarray) -> Targets:
    label_map = np.where(vessels, CLASSES.index("vessel"), CLASSES.index("retina"))
    return Targets(label_map=np.where(view, label_map, -1).astype(np.int16))
