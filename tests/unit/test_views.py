"""Tokens to maps and back to pixels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ufo_tune import _torchvision
from ufo_tune.core import views
from ufo_tune.core.types import View
from ufo_tune.errors import ModelError


def _tiles(rows, cols, side=10.0, grid=(2, 3)):
    return tuple(
        View((c * side, r * side, (c + 1) * side, (r + 1) * side), grid) for r in range(rows) for c in range(cols)
    )


def test_stitch_places_every_cell():
    tiles = _tiles(2, 3)
    h, w = views.grid_of(tiles)
    assert (h, w) == (4, 9)
    tokens = []  # the value of a cell is where it lies, written tile by tile
    for r in range(2):
        for c in range(3):
            tokens += [[(r * 2 + y) * 100 + c * 3 + x] for y in range(2) for x in range(3)]
    stitched = views.stitch(torch.tensor(tokens), tiles)[..., 0]
    assert stitched.tolist() == [[y * 100 + x for x in range(9)] for y in range(4)]


def test_wrong_token_count_and_order_are_refused():
    with pytest.raises(ModelError, match="5 image tokens"):
        views.stitch(torch.zeros(5, 1), _tiles(1, 1))
    with pytest.raises(ModelError, match="raster"):
        views.stitch(torch.zeros(12, 1), _tiles(1, 2)[::-1])
    with pytest.raises(ModelError, match="raster"):
        views.grid_of(_tiles(2, 2)[:3])
    with pytest.raises(ModelError, match="raster"):
        views.grid_of((*_tiles(1, 1), View((10.0, 0.0, 20.0, 10.0), (3, 2))))


def test_thumbnails_and_line_ends_are_no_cells():
    """Tokens of LLaVA-OneVision's order: the whole image, then a map whose rows end with a token that shows nothing."""
    whole = View((0.0, 0.0, 30.0, 20.0), (2, 2), thumbnail=True)
    seen = (whole, View((0.0, 0.0, 30.0, 20.0), (2, 3), newline=True))
    assert views.tokens_of(seen) == 4 + 2 * (3 + 1)
    assert views.cells(seen).tolist() == [[4, 5, 6], [8, 9, 10]]
    assert views.canvas(seen) == (0.0, 0.0, 30.0, 20.0) and views.grid_of(seen) == (2, 3)
    last = (*_tiles(1, 2), View((0.0, 0.0, 9.0, 9.0), (2, 3), thumbnail=True))  # InternVL's order
    assert views.cells(last).tolist() == [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]]


def test_no_image_has_no_cells():
    assert views.grid_of(()) == (0, 0) and views.stitch(torch.zeros(0, 5), ()).shape == (0, 0, 5)


def test_cells_found_while_generating_can_index_states_that_train():
    seen = _tiles(3, 2)
    with torch.inference_mode():
        views.cells(seen)
    states = torch.ones(36, 1, requires_grad=True)
    views.stitch(states, seen).sum().backward()
    assert states.grad is not None and states.grad.sum() == 36


@pytest.mark.parametrize("most", [1, 6, 12])
def test_tiling_is_that_of_hugging_face(most):
    _torchvision.available()  # transformers imports it
    from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

    sizes = [(448, 448), (896, 896), (1344, 1344), (480, 640), (1080, 1920), (100, 3000), (997, 613), (60, 60)]
    for size in (*sizes, (3000, 100), (600, 1200)):  # the last has 0.45 of the pixels of 2 x 4 tiles, 0.9 of 1 x 2
        cols, rows = get_optimal_tiled_canvas(size, (448, 448), 1, most)
        assert views.tiling(size, most, 448) == (rows, cols), size


def test_tiling_keeps_rows_and_columns_within_bounds():
    assert views.tiling((100, 3000), 12, 448) == (1, 12) and max(views.tiling((100, 3000), 12, 448, longest=6)) <= 6


def test_crops_fill_the_canvas_row_by_row():
    found = views.crops(views.letterbox((40, 80), 2, 3), 2, 3, (2, 2))
    assert views.canvas(found) == views.letterbox((40, 80), 2, 3) and views.grid_of(found) == (4, 6)
    found = views.crops((-10.0, 5.0, 20.0, 45.0), 2, 3, (2, 2))
    assert [v.box for v in found[:3]] == [(-10, 5, 0, 25), (0, 5, 10, 25), (10, 5, 20, 25)]
    assert [v.box for v in found[3:]] == [(-10, 25, 0, 45), (0, 25, 10, 45), (10, 25, 20, 45)]


@pytest.mark.parametrize("size", [(40, 80), (80, 40), (64, 64)])
def test_letterbox_is_centred_and_keeps_the_aspect(size):
    x0, y0, x1, y1 = views.letterbox(size)
    assert x1 - x0 == y1 - y0 == max(size)
    assert (x0 + x1) / 2 == size[1] / 2 and (y0 + y1) / 2 == size[0] / 2


@pytest.mark.parametrize(
    ("size", "tiles", "box"),
    [
        ((45, 90), (2, 3), (0, -7.5, 90, 52.5)),  # units of 30: the width decides
        ((80, 40), (2, 3), (-40, 0, 80, 80)),  # units of 40: the height does
        ((40, 90), (1, 2), (0, -2.5, 90, 42.5)),
        ((90, 40), (2, 1), (-2.5, 0, 42.5, 90)),
    ],
)
def test_letterbox_of_oblong_canvases_by_hand(size, tiles, box):
    assert views.letterbox(size, *tiles) == box


def test_points_move_to_the_canvas_and_back_by_hand():
    """In an image 20 wide and 40 high: pixels (10, 10) and (2, 24) on a canvas of 40 x 20 that starts at (-4, 2)."""
    view, points = (View((-4.0, 2.0, 36.0, 22.0), (4, 4)),), torch.tensor([[0.5, 0.25], [0.1, 0.6]])
    moved = views.to_canvas(points, (40, 20), view)
    torch.testing.assert_close(moved, torch.tensor([[14 / 40, 8 / 20], [6 / 40, 22 / 20]]))
    torch.testing.assert_close(views.from_canvas(moved, (40, 20), view), points)


def test_points_move_to_the_canvas():
    view = (View(views.letterbox((40, 80)), (4, 4)),)
    points = views.to_canvas(torch.tensor([[0.5, 0.5], [0.0, 0.0], [1.0, 1.0]]), (40, 80), view)
    assert torch.allclose(points, torch.tensor([[0.5, 0.5], [0.0, 0.25], [1.0, 0.75]]))


@pytest.mark.parametrize("size", [(37, 53), (8, 8), (1, 1)])
def test_crop_equals_interpolate_where_the_canvas_is_the_image(size):
    view = (View((0.0, 0.0, float(size[1]), float(size[0])), (4, 4)),)
    logits = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
    assert torch.allclose(views.crop_logits(logits, view, size), expected, atol=1e-5)


def test_crop_drops_the_padding():
    view = (View(views.letterbox((20, 40)), (4, 4)),)  # padded 10 pixels above and below
    logits = torch.zeros(1, 40, 40)
    logits[0, 10:30] = 1.0  # exactly the image
    out = views.crop_logits(logits, view, (20, 40))
    assert out.shape == (1, 20, 40) and torch.allclose(out, torch.ones_like(out))


@pytest.mark.parametrize("size", [(40, 20), (20, 40)])
def test_crop_takes_every_pixel_from_its_place_on_the_canvas(size):
    """One logit a pixel: on a ramp, a pixel of the image has that of the canvas, 10 pixels further."""
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    out = views.crop_logits((x + 100 * y)[None], (View(views.letterbox(size), (4, 4)),), size)
    inside = (slice(None), slice(10, 30)) if size[0] > size[1] else (slice(10, 30), slice(None))
    torch.testing.assert_close(out[0], (x + 100 * y)[inside], rtol=0, atol=0.05)


def test_known_target_is_the_mean_of_what_is_known_by_hand():
    """Cells of four pixels: half known, a quarter known, all known; the fourth lies beside the image."""
    values = torch.tensor([[2.0, 4.0, 0.0, 0.0, 0.0, 0.0, 0.0, 8.0, 1.0, 2.0, 3.0, 6.0]])
    found = views.to_known_target(values, (View((0.0, 0.0, 16.0, 1.0), (4, 4)),), (1, 4))
    assert found.tolist() == [[3.0, 0.0, 3.0, 0.0]]


def test_target_of_what_lies_beside_the_canvas_is_zero():
    mask = torch.zeros(20, 20)
    mask[15:, 15:] = 1
    assert not views.to_target(mask, (View((0.0, 0.0, 10.0, 10.0), (2, 2)),), (5, 5)).any()


@pytest.mark.parametrize(("size", "out"), [((32, 32), (16, 16)), ((30, 50), (7, 11)), ((5, 5), (20, 20))])
def test_target_is_the_area_mean(size, out):
    view = (View((0.0, 0.0, float(size[1]), float(size[0])), (4, 4)),)
    mask = torch.rand(size, generator=torch.Generator().manual_seed(1))
    got = views.to_target(mask, view, out)
    fine = mask.repeat_interleave(out[0], 0).repeat_interleave(out[1], 1)  # every cell is now whole pixels
    expected = F.avg_pool2d(fine[None], (size[0], size[1]))[0]
    assert torch.allclose(got, expected, atol=1e-5)


def test_target_of_padding_is_zero():
    view = (View(views.letterbox((20, 40)), (4, 4)),)
    target = views.to_target(torch.ones(20, 40), view, (8, 8))
    assert target[:2].eq(0).all() and target[6:].eq(0).all() and target[2:6].eq(1).all()


@pytest.mark.parametrize(
    ("box", "found", "size"),
    [
        ((2.0, 3.0, 6.0, 5.0), (2, 3), (2, 4)),
        ((2.9, 3.9, 4.1, 4.1), (2, 3), (2, 3)),  # pixels that it touches
        ((-3.0, -1.0, 90.0, 90.0), (0, 0), (10, 12)),
        ((5.0, 5.0, 5.0, 5.0), (5, 5), (1, 1)),
        ((12.0, 10.0, 12.0, 10.0), (11, 9), (1, 1)),
    ],
)
def test_cut_takes_the_pixels_under_a_box(box, found, size):
    image = np.arange(120).reshape(10, 12, 1).repeat(3, 2)
    part, (x, y) = views.cut(image, box)
    assert (x, y) == found and part.shape[:2] == size and part[0, 0, 0] == image[y, x, 0]


def test_views_of_a_part_lie_in_the_image_and_not_in_its_map():
    whole, part = _tiles(1, 1, side=40.0), _tiles(1, 2)
    moved = views.beside(part, (5, 7))
    assert [v.box for v in moved] == [(5, 7, 15, 17), (15, 7, 25, 17)] and all(v.thumbnail for v in moved)
    assert views.canvas(whole + moved) == views.canvas(whole) and views.grid_of(whole + moved) == (2, 3)
    assert views.tokens_of(whole + moved) == 18
