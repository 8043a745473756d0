"""Windows that depth is scored in: top, bottom, left and right in parts of the image's sides.

Source: Eigen et al. 2014 (arXiv 1406.2283); Garg et al. 2016 (arXiv 1603.04992); the numbers are those that
github.com/cleinc/bts ``eval_with_pngs.py`` writes into its masks.
"""

from __future__ import annotations

import numpy as np

Window = tuple[float, float, float, float]
EVERYWHERE: Window = (0.0, 1.0, 0.0, 1.0)
EIGEN_NYU: Window = (45 / 480, 471 / 480, 41 / 640, 601 / 640)
EIGEN_KITTI: Window = (0.3324324, 0.91351351, 0.0359477, 0.96405229)
GARG: Window = (0.40810811, 0.99189189, 0.03594771, 0.96405229)


def inside(size: tuple[int, int], window: Window) -> np.ndarray:
    """[H, W] bool: the pixels of an image (H, W) in the window.

    Edges are cut to whole numbers and never rounded, as published: of 370 rows Garg's window ends before number 366,
    because 0.99189189 x 370 is a little below 367.
    """
    height, width = size
    sides = zip(window, (height, height, width, width), strict=True)
    top, bottom, left, right = (int(part * side) for part, side in sides)
    found = np.zeros(size, dtype=bool)
    found[top:bottom, left:right] = True
    return found
