"""DRIVE: TIFF photographs, GIF masks of vessels and of the field of view."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.data_files import Call, picture, rectangle
from tests.data_files._maps import write_map


def make(folder: Path) -> Call:
    """Two photographs of the training half."""
    for number in (21, 22):
        picture(folder / "training" / "images" / f"{number}_training.tif", number)
        view, vessels = rectangle(5, 5, 55, 35), rectangle(10, 18, 50, 22)
        write_map(folder / "training" / "mask" / f"{number}_training_mask.gif", (view * 255).astype(np.uint8))
        write_map(folder / "training" / "1st_manual" / f"{number}_manual1.gif", (vessels * 255).astype(np.uint8))
    return str(folder), "training", {}
