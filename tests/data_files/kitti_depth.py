"""KITTI's depth maps (1/256 metre, mostly unknown) with Eigen's index, where some images have none."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.data_files import SIZE, Call, picture
from tests.data_files.depth_folder import depth_map

_DRIVE = "2011_09_26_drive_0002_sync"


def sparse() -> np.ndarray:
    """[H, W] u16: every third pixel is known, from 2 to 100 metres."""
    stored = np.zeros(SIZE, dtype=np.uint16)
    stored[::3, ::3] = np.linspace(2 * 256, 100 * 256, stored[::3, ::3].size).reshape(14, 20).astype(np.uint16)
    return stored


def make(folder: Path) -> Call:
    """``kitti_eigen_test.txt``, ``input/`` and ``gt_depth/``."""
    lines = []
    for number in (69, 75):
        image = f"2011_09_26/{_DRIVE}/image_02/data/{number:010}.png"
        depth = f"{_DRIVE}/proj_depth/groundtruth/image_02/{number:010}.png" if number == 69 else "None"
        picture(folder / "input" / image, number)
        lines.append(f"{image} {depth} 721.5377\n")
    depth_map(folder / "gt_depth" / f"{_DRIVE}/proj_depth/groundtruth/image_02/0000000069.png", sparse())
    (folder / "kitti_eigen_test.txt").write_text("".join(lines))
    return str(folder), "test", {}
