"""COCO-Stuff 164k as its authors unpack it, with the label maps that mmsegmentation writes beside the original ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.data_files import Call, picture, rectangle
from tests.data_files._maps import write_map

ORIGINAL = (0, 12, 181)  # person, stop sign (11 is a gap before it), wood
TRAIN_IDS = (0, 11, 170)


def make(folder: Path) -> Call:
    """Two images with both kinds of label maps."""
    for number, name in enumerate(("000000000139", "000000000285")):
        picture(folder / "images" / "val2017" / f"{name}.jpg", number)
        for values, ending in ((ORIGINAL, ""), (TRAIN_IDS, "_labelTrainIds")):
            person, sign, wood = values
            painted = np.where(rectangle(0, 0, 20, 40), person, wood)
            painted[rectangle(40, 10, 50, 30)] = sign
            painted[:, -2:] = 255
            write_map(folder / "annotations" / "val2017" / f"{name}{ending}.png", painted.astype(np.uint8))
    return str(folder), "val2017", {}
