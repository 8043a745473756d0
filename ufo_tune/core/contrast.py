"""Local contrast: every pixel relative to its neighbourhood, for pictures in which brightness says little."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

FLOOR = 6 / 255
"""Added (squared) to the local deviation, so that noise of flat places stays small; in units of white."""


def local_contrast(pixels: Tensor, radius: int) -> Tensor:
    """Pixels minus their local mean, by their local deviation: ``d / sqrt(mean(d^2) + FLOOR^2)``, ``d = x - mean(x)``.

    Both means are over squares of side 2 * radius + 1, their edge pixels repeated beyond the picture.

    Args:
        pixels: [n, C, H, W] in [0, 1].
        radius: in pixels, at least 1.

    Returns:
        [n, C, H, W], about unit variance where there is structure.

    Source:
        Jarrett et al., "What is the best multi-stage architecture for object recognition?" (ICCV 2009), sec. 2, with
        squares in place of Gaussians and channels on their own.
    """
    difference = pixels - _box_mean(pixels, radius)
    return difference / (_box_mean(difference**2, radius) + FLOOR**2).sqrt()


def _box_mean(values: Tensor, radius: int) -> Tensor:
    """Means over squares, rows first, then columns."""
    side = 2 * radius + 1
    across = F.avg_pool2d(F.pad(values, (radius, radius, 0, 0), mode="replicate"), (1, side), stride=1)
    return F.avg_pool2d(F.pad(across, (0, 0, radius, radius), mode="replicate"), (side, 1), stride=1)
