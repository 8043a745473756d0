"""Retrieval against the vectors of the method notes (18.2), F.pixel_shuffle and plain loops."""

import math

import pytest
import torch
import torch.nn.functional as F

from ufo_tune.core.retrieval import depth_from_logits, mask_logits, normals_from_logits, slot_queries
from ufo_tune.errors import ModelError

QUERIES = torch.arange(16.0).reshape(1, 16, 1)  # token k says k


def test_one_cell():
    assert mask_logits(QUERIES, torch.ones(1, 1, 1))[0].tolist() == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
        [12, 13, 14, 15],
    ]


def test_two_cells_side_by_side():
    result = mask_logits(QUERIES, torch.tensor([1.0, 10.0]).reshape(1, 2, 1))[0]
    for r in range(4):
        four = [4 * r + c for c in range(4)]
        assert result[r].tolist() == four + [10 * v for v in four]


def test_two_cells_one_above_the_other():
    result = mask_logits(QUERIES, torch.tensor([1.0, 10.0]).reshape(2, 1, 1))[0]
    one = mask_logits(QUERIES, torch.ones(1, 1, 1))[0]
    assert torch.equal(result, torch.cat([one, 10 * one]))


@pytest.mark.parametrize("side", [1, 2, 4, 5])
def test_equals_pixel_shuffle_and_a_plain_loop(side):
    generator = torch.Generator().manual_seed(side)
    m, h, w, d = 3, 2, 5, 8
    queries = torch.randn(m, side * side, d, generator=generator)
    features = torch.randn(h, w, d, generator=generator)
    result = mask_logits(queries, features)
    scores = (queries.reshape(-1, d) @ features.reshape(-1, d).T).reshape(m, side * side, h, w) / math.sqrt(d)
    assert torch.allclose(result, F.pixel_shuffle(scores, side)[:, 0], atol=1e-5)
    for i in range(m):
        for y in range(h * side):
            for x in range(w * side):
                k = (y % side) * side + x % side
                expected = sum(queries[i, k] * features[y // side, x // side]) / math.sqrt(d)
                assert float(result[i, y, x]) == pytest.approx(float(expected), abs=1e-5)


def test_no_masks():
    assert mask_logits(torch.zeros(0, 16, 8), torch.ones(3, 4, 8)).shape == (0, 12, 16)


def test_float32_even_under_autocast_and_from_half_precision():
    queries, features = torch.randn(2, 4, 64), torch.randn(3, 3, 64)
    exact = mask_logits(queries, features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mask_logits(queries, features), exact)
    low = mask_logits(queries.bfloat16(), features.bfloat16())
    assert low.dtype == torch.float32
    assert torch.equal(low, mask_logits(queries.bfloat16().float(), features.bfloat16().float()))


def test_gradient_reaches_both_sides():
    queries, features = torch.randn(1, 4, 8, requires_grad=True), torch.randn(2, 2, 8, requires_grad=True)
    mask_logits(queries, features).sum().backward()
    assert torch.allclose(queries.grad[0, 0], features.detach().sum((0, 1)) / math.sqrt(8))
    assert torch.allclose(features.grad[0, 0], queries.detach()[0].sum(0) / math.sqrt(8))


def test_wrong_shapes_are_refused():
    with pytest.raises(ModelError, match="square"):
        mask_logits(torch.zeros(1, 15, 8), torch.zeros(2, 2, 8))
    with pytest.raises(ModelError, match="wide"):
        mask_logits(torch.zeros(1, 16, 8), torch.zeros(2, 2, 9))


def test_slot_queries_pick_the_predicting_states_in_order():
    ids = torch.tensor([[5, 9, 9, 9, 9, -1], [9, 9, 9, 9, 7, 8], [1, 2, -1, -1, -1, -1], [9, 9, 3, 9, 9, 4]])
    hidden = torch.arange(4 * 6).reshape(4, 6, 1).float()  # answer * 6 + step
    queries, owner, incomplete = slot_queries(ids, hidden, slot_id=9, count=4)
    assert queries[..., 0].tolist() == [[1, 2, 3, 4], [6, 7, 8, 9], [18, 19, 21, 22]]
    assert owner.tolist() == [0, 1, 3]
    assert incomplete == 0


def test_slot_queries_use_whole_slots_and_count_the_wrong_answers():
    ids = torch.tensor([[9, 9, 9, 0, 0], [9, 0, 0, 0, 0], [9, 9, 9, 9, 0], [9, 9, 9, 9, 9], [0, 0, 0, 0, 0]])
    hidden = torch.arange(25.0).reshape(5, 5, 1)
    queries, owner, incomplete = slot_queries(ids, hidden, slot_id=9, count=2)
    assert owner.tolist() == [0, 2, 2, 3, 3]
    assert queries[..., 0].tolist() == [[0, 1], [10, 11], [12, 13], [15, 16], [17, 18]]
    assert incomplete == 3


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (2, 0), (2, 3)])
def test_slot_queries_of_nothing(shape):
    queries, owner, incomplete = slot_queries(torch.zeros(shape, dtype=torch.long), torch.zeros(*shape, 8), 9, 16)
    assert queries.shape == (0, 16, 8)
    assert owner.shape == (0,)
    assert incomplete == 0


def test_depth():
    logits = torch.tensor([[-100.0, 0.0, 100.0, math.log(3)]])
    assert torch.allclose(depth_from_logits(logits, (2.0, 10.0)), torch.tensor([[2.0, 6.0, 10.0, 8.0]]))


def test_normals_have_components_of_both_signs():
    logits = torch.tensor([-math.inf, -math.log(3), 0.0, math.log(3), math.inf])  # sigmoid 0, 1/4, 1/2, 3/4, 1
    assert torch.allclose(normals_from_logits(logits), torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]))
