"""Grid points, their assignment and their features: vectors (18.3, 18.11 f), brute force and plain loops."""

import itertools

import numpy as np
import pytest
import torch

from ufo_tune.core.grid import assign, grid_points, keep_points


def test_points_are_cell_centres_row_by_row():
    expected = [[0.25, 1 / 6], [0.75, 1 / 6], [0.25, 0.5], [0.75, 0.5], [0.25, 5 / 6], [0.75, 5 / 6]]
    assert torch.allclose(grid_points(3, 2), torch.tensor(expected))
    assert grid_points(1, 1).tolist() == [[0.5, 0.5]]
    assert grid_points(10, 10)[23].tolist() == pytest.approx([0.35, 0.25])


def centred(*centres, side=0.1):
    """Boxes of one size around centres."""
    c = torch.tensor(centres)
    return torch.cat([c - side / 2, c + side / 2], dim=1)


def test_three_objects_on_a_toy_grid():
    points = grid_points(4, 4)  # centres .125, .375, .625, .875
    boxes = centred((0.12, 0.12), (0.9, 0.1), (0.4, 0.6))
    once = assign(points, boxes, repeat=1)
    assert once.tolist() == [0, -1, -1, 1] + [-1] * 5 + [2] + [-1] * 6
    thrice = assign(points, boxes)  # three times unless told otherwise, as UFO's code
    assert [(thrice == g).sum().item() for g in range(3)] == [3, 3, 3]
    # The two next points of the corner objects are their neighbours right and below.
    assert thrice[[0, 1, 4]].tolist() == [0, 0, 0]
    assert thrice[[3, 2, 7]].tolist() == [1, 1, 1]
    assert thrice[9] == 2


def brute_force(cost, times):
    """Least cost of giving every object ``times`` distinct points."""
    columns = [g for g in range(cost.shape[1]) for _ in range(times)]
    return min(
        sum(cost[p, g] for p, g in zip(chosen, columns, strict=True))
        for chosen in itertools.permutations(range(len(cost)), len(columns))
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("times", [1, 2])
def test_assignment_is_the_cheapest_of_all(seed, times):
    rng = np.random.default_rng(seed)
    points = torch.from_numpy(rng.random((6, 2)))
    corners = np.sort(rng.random((3, 2, 2)), axis=1)
    masks = rng.random((3, 8, 10)) > 0.5
    cost = np.zeros((6, 3))
    for (n, (x, y)), (g, ((x1, y1), (x2, y2))) in itertools.product(enumerate(points.tolist()), enumerate(corners)):
        off = not masks[g, int(y * 8), int(x * 10)]
        cost[n, g] = 5 * (abs(x - (x1 + x2) / 2) + abs(y - (y1 + y2) / 2)) + 100 * off
    result = assign(points, torch.from_numpy(corners.reshape(3, 4)), torch.from_numpy(masks), repeat=times)
    assert [(result == g).sum().item() for g in range(3)] == [times] * 3
    total = sum(cost[n, g] for n, g in enumerate(result.tolist()) if g >= 0)
    assert total == pytest.approx(brute_force(cost, times))


def test_masks_keep_points_off_the_hole_of_a_ring():
    points = grid_points(5, 5)
    ring = torch.ones(1, 50, 50, dtype=torch.bool)
    ring[:, 15:35, 15:35] = False
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    assert assign(points, boxes, repeat=1)[12] == 0  # the centre
    on_ring = assign(points, boxes, ring, repeat=3)
    assert on_ring[12] == -1
    assert (on_ring == 0).sum() == 3
    x, y = (points[on_ring == 0] * 50).long().T
    assert ring[0, y, x].all()


def test_few_points_still_serve_every_object():
    points = grid_points(2, 3)
    boxes = centred(*[(0.1 + 0.2 * i, 0.5) for i in range(4)])
    result = assign(points, boxes, repeat=3)  # 12 copies for 6 points: each once
    assert sorted(result[result >= 0].tolist()) == [0, 1, 2, 3]
    two = assign(points, boxes[:3], repeat=3)  # 9 copies for 6 points: each twice
    assert sorted(two.tolist()) == [0, 0, 1, 1, 2, 2]


def test_more_objects_than_points():
    result = assign(grid_points(1, 2), centred(*[(0.1 + 0.2 * i, 0.5) for i in range(5)]), repeat=3)
    assert len(set(result.tolist())) == 2
    assert (result >= 0).all()


def test_no_objects_and_points_on_the_edge():
    assert assign(grid_points(2, 2), torch.zeros(0, 4)).tolist() == [-1] * 4
    assert assign(torch.zeros(0, 2), centred((0.5, 0.5))).shape == (0,)
    corners = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 3, 3] = True
    assert assign(corners, centred((0.0, 0.0)), mask, repeat=1).tolist() == [-1, 0]
    for shape, last in (((6, 2), (5, 1)), ((2, 6), (1, 5))):
        mask = torch.zeros(1, *shape, dtype=torch.bool)
        mask[0, last[0], last[1]] = True
        assert assign(corners, centred((0.0, 0.0)), mask, repeat=1).tolist() == [-1, 0], "oblong, either way"
    one_pixel = torch.ones(1, 1, 1, dtype=torch.bool)
    assert assign(corners, centred((0.0, 0.0)), one_pixel, repeat=1).tolist() == [0, -1]


def test_keep_points_takes_positives_first():
    assigned = torch.full((100,), -1)
    assigned[[3, 50, 97]] = torch.tensor([0, 1, 0])
    for seed in range(10):
        kept = keep_points(assigned, 10, np.random.default_rng(seed)).tolist()
        assert kept == sorted(set(kept))
        assert len(kept) == 10
        assert {3, 50, 97} <= set(kept)


def test_keep_points_subsamples_positives_evenly():
    assigned = torch.tensor([0, 1, 2, 3, -1, -1])
    rng = np.random.default_rng(0)
    counts = np.zeros(6)
    for _ in range(2000):
        kept = keep_points(assigned, 2, rng)
        assert len(kept) == 2
        counts[kept.numpy()] += 1
    assert (counts[4:] == 0).all()
    assert np.allclose(counts[:4] / 2000, 0.5, atol=0.05)


def test_keep_points_at_the_ends():
    assigned = torch.tensor([-1, 0, -1])
    rng = np.random.default_rng(0)
    assert keep_points(assigned, 9, rng).tolist() == [0, 1, 2]
    assert keep_points(assigned, 0, rng).tolist() == []
    assert keep_points(torch.zeros(0, dtype=torch.long), 5, rng).shape == (0,)
    first = keep_points(torch.full((50,), -1), 5, np.random.default_rng(7))
    assert torch.equal(first, keep_points(torch.full((50,), -1), 5, np.random.default_rng(7)))
