"""Tiles cover the image, and their blend gives back what they were cut from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ufo_tune.core.tiles import TURNS, Blend, Tile, boxes, hann, turned_back
from ufo_tune.data.windows import turn_map

SIZES = [(584, 565), (96, 96), (97, 200), (40, 300), (7, 5)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("side", "stride"), [(96, 96), (96, 48), (50, 7)])
def test_every_pixel_is_covered_by_tiles_inside(size, side, stride):
    count = np.zeros(size, dtype=int)
    for x0, y0, x1, y1 in boxes(size, side, stride):
        assert 0 <= x0 < x1 <= size[1] and 0 <= y0 < y1 <= size[0]
        assert (y1 - y0, x1 - x0) == (min(side, size[0]), min(side, size[1]))
        count[y0:y1, x0:x1] += 1
    assert count.min() >= 1
    assert len(set(boxes(size, side, stride))) == len(boxes(size, side, stride))


def test_last_tiles_end_with_the_image():
    assert boxes((10, 7), 4, 3) == [
        (0, 0, 4, 4), (3, 0, 7, 4), (0, 3, 4, 7), (3, 3, 7, 7), (0, 6, 4, 10), (3, 6, 7, 10),
    ]  # fmt: skip
    assert boxes((4, 9), 4, 3) == [(0, 0, 4, 4), (3, 0, 7, 4), (5, 0, 9, 4)]


def test_a_small_image_is_one_tile():
    assert boxes((30, 20), 96, 48) == [(0, 0, 20, 30)]


def test_weights_are_a_hann_window_at_pixel_centres():
    outer, inner = math.sin(math.pi / 8) ** 2, math.cos(math.pi / 8) ** 2
    assert hann(4).tolist() == pytest.approx([outer, inner, inner, outer])
    for length in (1, 2, 5, 96):
        weights = hann(length)
        assert (weights > 0).all() and torch.allclose(weights, weights.flip(0))
        assert float(weights.sum()) == pytest.approx(length / 2 if length > 1 else 1)  # the mean of sin^2


@pytest.mark.parametrize("size", SIZES)
def test_blending_what_was_cut_gives_it_back(size):
    """The weighted mean of tiles that agree is what they agree on: of a linear map, and of noise."""
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    maps = torch.stack([0.25 + 0.01 * x - 0.02 * y, torch.rand(size, generator=torch.Generator().manual_seed(0))])
    blend = Blend(2, size)
    for x0, y0, x1, y1 in boxes(size, 32, 13):
        blend.add(Tile((x0, y0, x1, y1)), maps[:, y0:y1, x0:x1])
    assert torch.allclose(blend.result(), maps, atol=1e-5)


def test_two_tiles_that_disagree_are_weighed_by_their_distance_to_the_edge():
    blend = Blend(1, (1, 6))
    blend.add(Tile((0, 0, 4, 1)), torch.ones(1, 1, 4))
    blend.add(Tile((2, 0, 6, 1)), torch.zeros(1, 1, 4))
    near, far = math.sin(math.pi / 8) ** 2, math.sin(3 * math.pi / 8) ** 2  # of a window of 4, outer and inner pixel
    expected = [1, 1, far / (far + near), near / (far + near), 0, 0]
    assert blend.result()[0, 0].tolist() == pytest.approx(expected)


def test_no_tile_gives_zero():
    blend = Blend(1, (2, 4))
    blend.add(Tile((0, 0, 2, 2)), torch.ones(1, 2, 2))
    assert blend.result()[0].tolist() == [[1, 1, 0, 0]] * 2


@pytest.mark.parametrize("turn", TURNS)
def test_turning_back_undoes_what_was_done_to_the_picture(turn):
    values = np.arange(2 * 3 * 5).reshape(3, 5, 2)  # no two pixels alike
    shown = turn_map(values, *turn)
    back = turned_back(torch.from_numpy(shown.copy()).permute(2, 0, 1), turn)  # [2, 3, 5]
    assert torch.equal(back, torch.from_numpy(values).permute(2, 0, 1))
    assert Tile((10, 20, 15, 23), turn).size == shown.shape[:2]
    assert len(set(TURNS)) == 8
