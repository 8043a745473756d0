"""A user's own label maps, one of them in a folder below, and an image that has none."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.data_files import Call, picture, rectangle
from tests.data_files._maps import write_map


def make(folder: Path) -> Call:
    """Three images, two label maps and the list of classes."""
    for number, name in enumerate(("a", "more/b", "unlabelled")):
        picture(folder / "images" / "train" / f"{name}.png", number)
    values = np.where(rectangle(0, 0, 30, 40), 0, 1)
    values[rectangle(20, 10, 40, 30)] = 2
    values[0] = 255
    for name in ("a", "more/b"):
        write_map(folder / "labels" / "train" / f"{name}.png", values.astype(np.uint8))
    (folder / "classes.txt").write_text("background\nroad\ntree\n", encoding="utf-8")
    return str(folder), "train", {}
