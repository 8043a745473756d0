"""``<LOCAL>`` sampling straight from token rows equals ``grid_sample`` on the stitched map, for all shapes of views."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ufo_tune.core.grid import grid_points
from ufo_tune.core.types import Batch, View
from ufo_tune.core.views import stitch
from ufo_tune.models.local import LocalSampler

WIDTH = 5


def views(rows, cols, h, w, side=10.0):
    return tuple(
        View((side * x, side * y, side * (x + 1), side * (y + 1)), (h, w)) for y in range(rows) for x in range(cols)
    )


SHAPES = {
    "one square": views(1, 1, 4, 4),
    "one wide": views(1, 1, 2, 5),
    "one row": views(1, 1, 1, 6),
    "one cell": views(1, 1, 1, 1),
    "tiles 2 x 2": views(2, 2, 3, 3),
    "tiles 1 x 3": views(1, 3, 2, 4),
    "tiles 3 x 2": views(3, 2, 2, 3),
}
CORNERS = [(0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.5, 0.0), (0.02, 0.98), (0.999, 0.5), (0.5, 0.5)]


def batch(rows, points):
    """Rows of text, image tokens in a permuted order of positions, and ``<LOCAL>`` tokens after them."""
    most = max(len(p) for p in points)
    cells = [sum(v.grid[0] * v.grid[1] for v in r) for r in rows]
    length = 3 + max(cells) + most
    generator = torch.Generator().manual_seed(0)
    image = torch.full((len(rows), max(cells)), -1)
    local = torch.full((len(rows), most), -1)
    at = torch.zeros(len(rows), most, 2)
    for i, (count, mine) in enumerate(zip(cells, points, strict=True)):
        image[i, :count] = 3 + torch.randperm(count, generator=generator)
        local[i, : len(mine)] = 3 + count + torch.arange(len(mine))
        at[i, : len(mine)] = torch.as_tensor(mine).reshape(-1, 2)
    empty = torch.zeros(len(rows), length, dtype=torch.long)
    return Batch(
        ids=empty, labels=empty, segment=empty, positions=empty[None], image_index=image, local_index=local, points=at,
        slot_index=torch.zeros(0, 4, dtype=torch.long), slot_owner=torch.zeros(0, dtype=torch.long), slot_targets=(),
        slot_kinds=(), phrase=empty.bool(), causal_image=torch.zeros(len(rows), dtype=torch.bool), views=tuple(rows),
        pixels={}, samples=((),) * len(rows), answer_counts=((),) * len(rows),
    )  # fmt: skip


def states(b, dtype=torch.float32):
    return torch.randn(*b.ids.shape, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def expected(b, hidden):
    """Q x D by ``F.grid_sample`` on the stitched map, row by row."""
    found = []
    for row, row_views in enumerate(b.views):
        index = b.image_index[row]
        features = stitch(hidden[row, index[index >= 0]], row_views)
        points = b.points[row, b.local_index[row] >= 0].float() * 2 - 1  # [Q, 2]
        maps = features.float().permute(2, 0, 1)[None]  # [1, D, h, w]
        sampled = F.grid_sample(maps, points[None, None], padding_mode="zeros", align_corners=False)  # [1, D, 1, Q]
        found.append(sampled[0, :, 0].T.to(features.dtype))  # [Q, D]
    return torch.cat(found)


def test_vectors_of_the_method():
    """A 16 x 16 map that holds its own x: index 5.1 inside, and 0.82 of the first cell near the border."""
    b = batch([views(1, 1, 16, 16)], [[(0.35, 0.5), (0.02, 0.5), (0.05, 0.05)]])
    hidden = torch.zeros(1, b.ids.shape[1], 1)
    hidden[0, b.image_index[0]] = torch.arange(16.0).repeat(16)[:, None]
    ones = hidden.clone()
    ones[0, b.image_index[0]] = 1.0
    sampler = LocalSampler.of(b)
    torch.testing.assert_close(sampler.sample(hidden)[:, 0], torch.tensor([5.1, 0.0, 0.3]), atol=1e-5, rtol=0)
    torch.testing.assert_close(sampler.sample(ones)[:, 0], torch.tensor([1.0, 0.82, 1.0]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_grid_sample_on_the_stitched_map(shape):
    points = [*CORNERS, *grid_points(3, 4).tolist(), *torch.rand(20, 2, generator=torch.Generator().manual_seed(2))]
    b = batch([SHAPES[shape]], [[tuple(map(float, p)) for p in points]])
    hidden = states(b)
    torch.testing.assert_close(LocalSampler.of(b).sample(hidden), expected(b, hidden), atol=1e-5, rtol=1e-5)


def test_rows_of_different_shape_and_number_of_points():
    """Rows of one shape are served together, wherever they stand, and a row may have no point at all."""
    rows = [SHAPES["tiles 2 x 2"], SHAPES["one wide"], SHAPES["one wide"], SHAPES["tiles 2 x 2"]]
    b = batch(rows, [CORNERS[:3], [], CORNERS, [(0.3, 0.7)]])
    hidden = states(b)
    sampler = LocalSampler.of(b)
    assert sampler.row.tolist() == [0] * 3 + [2] * 8 + [3]
    torch.testing.assert_close(sampler.sample(hidden), expected(b, hidden), atol=1e-5, rtol=1e-5)


def test_no_point_no_sampler():
    assert LocalSampler.of(batch([SHAPES["one square"]], [[]])) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fill_replaces_and_changes_nothing_else(dtype):
    b = batch([SHAPES["one square"], SHAPES["one row"]], [CORNERS, CORNERS[:2]])
    hidden = states(b, dtype)
    sampler = LocalSampler.of(b)
    filled = sampler.fill(hidden, b)
    assert filled.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(
        filled[sampler.row, sampler.position].float(), expected(b, hidden.float()), atol=tolerance, rtol=tolerance
    )
    others = torch.ones(b.ids.shape, dtype=torch.bool)
    others[sampler.row, sampler.position] = False
    assert torch.equal(filled[others], hidden[others])


def test_gradients_are_the_bilinear_weights():
    b = batch([SHAPES["one square"]], [[(0.5, 0.5)]])
    hidden = states(b).requires_grad_()
    LocalSampler.of(b).sample(hidden).sum().backward()
    grid = stitch(hidden.grad[0, b.image_index[0]], b.views[0])[..., 0]
    middle = torch.zeros(4, 4)
    middle[1:3, 1:3] = 0.25  # the point lies between the four middle cells
    torch.testing.assert_close(grid, middle)


class Layer(nn.Module):
    """Doubles its input, as decoder layers are called: by position or by name."""

    def forward(self, hidden_states):
        return 2 * hidden_states


@pytest.mark.parametrize("named", [False, True])
def test_every_layer_but_the_first_adds_the_current_interpolation(named):
    b = batch([SHAPES["tiles 1 x 3"], SHAPES["one square"]], [CORNERS, CORNERS[:2]])
    hidden = states(b)
    sampler = LocalSampler.of(b)
    layers = [Layer() for _ in range(3)]

    def run(x):
        for layer in layers:
            x = layer(hidden_states=x) if named else layer(x)
        return x

    with sampler.added_to(layers):
        inside = run(hidden)
    own, around = hidden[sampler.row, sampler.position], expected(b, hidden)
    # x -> 2x, then twice (x + i) with i doubling too: 2 (2 (2 o + 2 i) + 4 i) = 8 o + 16 i
    torch.testing.assert_close(inside[sampler.row, sampler.position], 8 * own + 16 * around, atol=1e-4, rtol=1e-4)
    assert torch.equal(run(hidden), 8 * hidden), "the hooks must be gone"
