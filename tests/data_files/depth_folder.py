"""Two folders of images and 16-bit depth maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.data_files import SIZE, Call, picture


def millimetres(seed: int = 0) -> np.ndarray:
    """[H, W] u16: a slope from 3 metres on, a farther one to 9 metres beside it, a corner where nothing is known."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    depth = 3000 + 5 * rows + 10 * columns + 5000 * (columns > SIZE[1] // 2) + seed
    depth[:5, :5] = 0
    return depth.astype(np.uint16)


def depth_map(path: Path, stored: np.ndarray) -> Path:
    """A PNG of 16 bits, or an NPY file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, stored)
    else:
        Image.fromarray(stored).save(path)
    return path


def make(folder: Path) -> Call:
    """``train/rgb`` and ``train/depth``."""
    for number, name in enumerate("ab"):
        picture(folder / "train" / "rgb" / f"{name}.jpg", number)
        depth_map(folder / "train" / "depth" / f"{name}.png", millimetres(number))
    return str(folder), "train", {"max_depth": 10, "intrinsics": (50.0, 50.0, 29.5, 19.5)}
