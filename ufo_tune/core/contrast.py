"""Local contrast: every pixel relative to its neighbourhood, for pictures in which brightness says little."""

from __future__ import annotations

from functools import lru_cache

import torch
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
    """Means over squares, as products with the two banded matrices: much faster than pooling at such sizes."""
    height, width = values.shape[-2:]
    return _means(height, radius).to(values) @ values @ _means(width, radius).to(values).T  # [n, C, H, W]


@lru_cache(maxsize=8)
def _means(length: int, radius: int) -> Tensor:
    """[length, length]: row i has the mean of the places within ``radius`` of i, each beyond the edge at the edge."""
    near = torch.arange(length)[:, None] + torch.arange(-radius, radius + 1)  # [length, 2 * radius + 1]
    shares = torch.full(near.shape, 1 / near.shape[1], dtype=torch.float64)
    return torch.zeros(length, length, dtype=torch.float64).scatter_add_(1, near.clamp(0, length - 1), shares)
