"""nuImages' label maps: the own car is 31, and nothing is 25 to 30."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.data_files import Call, picture, rectangle
from tests.data_files._maps import write_map


def make(folder: Path) -> Call:
    """One image with a car on a street, seen from a car."""
    name = "n003-2018-01-02-11-48-43+0800__CAM_FRONT__1514864927549111"
    picture(folder / "images" / "training" / f"{name}.jpg")
    values = np.where(rectangle(0, 20, 60, 40), 24, 0)
    values[rectangle(20, 10, 40, 25)] = 17
    values[rectangle(0, 36, 60, 40)] = 31
    write_map(folder / "annotations" / "training" / f"{name}.png", values.astype(np.uint8))
    return str(folder), "training", {}
