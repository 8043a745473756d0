"""ADE20K's scene parsing benchmark: 0 is "other" and the numbers of classes start at 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.data_files import Call, picture, rectangle
from tests.data_files._maps import write_map


def make(folder: Path) -> Call:
    """Two images; the file of names is left out, as a copy is built in."""
    for number, name in enumerate(("ADE_val_00000001", "ADE_val_00000002")):
        picture(folder / "images" / "validation" / f"{name}.jpg", number)
        values = np.where(rectangle(0, 0, 30, 40), 3, 150)  # sky and flag
        values[:5] = 0
        write_map(folder / "annotations" / "validation" / f"{name}.png", values.astype(np.uint8))
    return str(folder), "validation", {}
