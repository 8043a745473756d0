"""Local contrast against scipy's filters and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from ufo_tune.core.contrast import FLOOR, local_contrast


def test_equals_scipys_uniform_filters():
    pixels = np.random.default_rng(0).random((2, 3, 20, 31))
    mean = lambda values: ndimage.uniform_filter(values, size=(1, 1, 7, 7), mode="nearest")  # noqa: E731
    difference = pixels - mean(pixels)
    expected = difference / np.sqrt(mean(difference**2) + FLOOR**2)
    assert local_contrast(torch.from_numpy(pixels), 3).numpy() == pytest.approx(expected, abs=1e-9)


def test_light_and_its_strength_do_not_matter():
    """A slope of brightness leaves nothing in the middle; more contrast hardly anything beyond the floor."""
    slope = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    assert local_contrast(slope, 4)[..., 8:-8].abs().max() < 1e-4
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(local_contrast(noise, 4), local_contrast(0.5 * noise + 0.4, 4), atol=0.05)
    assert float(local_contrast(noise, 4).std()) == pytest.approx(1, abs=0.05)
