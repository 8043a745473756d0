"""A user's own masks, in folders by class, which says what they are of to both tasks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.data_files import Call, picture, rectangle
from tests.data_files._maps import write_map

MASKS = {
    "blue_plate/a.png": (30, 10, 50, 30),
    "cup/a_1.png": (5, 6, 15, 18),
    "cup/a_2.png": (5, 20, 15, 32),
    "cup/b/1.png": (0, 0, 60, 20),
}


def make(folder: Path) -> Call:
    """Three images, one without masks."""
    for number, name in enumerate("abc"):
        picture(folder / "images" / "train" / f"{name}.jpg", number)
    for file, bounds in MASKS.items():
        write_map(folder / "masks" / "train" / file, (rectangle(*bounds) * 255).astype(np.uint8))
    return str(folder), "train", {}
