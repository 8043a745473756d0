"""Boxes against pycocotools, torchvision-free closed forms, and a plain loop for soft-NMS."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from ufo_tune.core import boxes


def random_boxes(count, seed, extent=100.0):
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed)).sort(dim=1).values
    return (corners * extent).reshape(count, 4)  # [N, corner, xy] -> [N, 4]


def test_formats():
    xyxy = torch.tensor([[0.0, 10.0, 4.0, 30.0]])
    assert boxes.xyxy_to_cxcywh(xyxy).tolist() == [[2, 20, 4, 20]]
    assert boxes.cxcywh_to_xyxy(torch.tensor([[2.0, 20, 4, 20]])).tolist() == xyxy.tolist()


def test_formats_are_inverse_of_each_other():
    a = random_boxes(50, 1)
    assert torch.allclose(boxes.cxcywh_to_xyxy(boxes.xyxy_to_cxcywh(a)), a, atol=1e-4)
    assert boxes.cxcywh_to_xyxy(torch.zeros(0, 4)).shape == (0, 4)


def test_iou_equals_pycocotools():
    a, b = random_boxes(20, 2).double(), random_boxes(30, 3).double()

    def xywh(x):
        return np.concatenate([x[:, :2], x[:, 2:] - x[:, :2]], axis=1)

    expected = coco.iou(xywh(a.numpy()), xywh(b.numpy()), [0] * len(b))
    assert np.allclose(boxes.iou(a, b).numpy(), expected, atol=1e-12)


def test_iou_by_hand():
    a = torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1], [5, 5, 5, 5], [3, 3, 1, 1]])
    b = torch.tensor([[1.0, 1, 3, 3], [0, 0, 2, 2], [1, 0, 2, 1]])
    expected = [[1 / 7, 1.0, 1 / 4], [0.0, 1 / 4, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert torch.allclose(boxes.iou(a, b), torch.tensor(expected))


def test_iou_of_empty_boxes_is_zero_not_nan():
    empty = torch.tensor([[5.0, 5, 5, 5]])
    assert boxes.iou(empty, empty).tolist() == [[0.0]]
    assert boxes.iou(torch.zeros(0, 4), empty).shape == (0, 1)
    assert boxes.iou(empty, torch.zeros(0, 4)).shape == (1, 0)


def test_area_and_clip():
    a = torch.tensor([[-5.0, -5, 3, 2], [8, 1, 20, 20], [4, 4, 2, 6]])
    assert boxes.area(a).tolist() == [56, 228, 0]
    assert boxes.clip(a, (10, 12)).tolist() == [[0, 0, 3, 2], [8, 1, 12, 10], [4, 4, 2, 6]]
    turned = torch.tensor([[4.0, 4, 2, 1], [4, 4, 6, 1]])  # both sides negative: not the product of two of them
    assert boxes.area(turned).tolist() == [0, 0]
    outside = torch.tensor([[-9.0, -8, -2, -1], [20, 30, 40, 50]])
    assert boxes.clip(outside, (10, 12)).tolist() == [[0, 0, 0, 0], [12, 10, 12, 10]]


def test_soft_nms_small_example():
    a = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 10], [50, 50, 60, 60]])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.3])
    keep, new = boxes.soft_nms(a, scores, torch.tensor([0, 0, 1, 0]))
    # Box 1 overlaps box 0 by 0.8 -> 0.8 * 0.2 = 0.16; box 2 is of another class; box 3 touches nothing.
    assert keep.tolist() == [0, 2, 3, 1]
    assert torch.allclose(new, torch.tensor([0.9, 0.7, 0.3, 0.16]))


def test_soft_nms_threshold_is_not_reached_at_equality():
    a = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])  # IoU exactly 0.5
    _, new = boxes.soft_nms(a, torch.tensor([0.9, 0.8]), torch.zeros(2))
    assert torch.allclose(new, torch.tensor([0.9, 0.8]))


def test_soft_nms_drops_duplicates_and_low_scores():
    a = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [30, 30, 40, 40]])
    keep, new = boxes.soft_nms(a, torch.tensor([0.9, 0.8, 1e-4]), torch.zeros(3))
    assert keep.tolist() == [0]
    assert new.tolist() == pytest.approx([0.9])


def test_soft_nms_keeps_a_score_at_the_limit():
    a = torch.tensor([[0.0, 0, 10, 10], [30, 30, 40, 40]])
    keep, _ = boxes.soft_nms(a, torch.tensor([0.5, 0.25]), torch.zeros(2), min_score=0.5)
    assert keep.tolist() == [0]


def test_soft_nms_of_nothing():
    keep, new = boxes.soft_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    assert keep.shape == new.shape == (0,)
    assert keep.dtype == torch.long


def plain_soft_nms(a, scores, labels, threshold, min_score):
    """Pick the best, let it decay the others of its class, drop the low ones; in plain Python."""

    def overlap(p, q):
        w = max(0.0, min(p[2], q[2]) - max(p[0], q[0]))
        h = max(0.0, min(p[3], q[3]) - max(p[1], q[1]))
        union = (p[2] - p[0]) * (p[3] - p[1]) + (q[2] - q[0]) * (q[3] - q[1]) - w * h
        return w * h / union if union else 0.0

    left = {i: s for i, s in enumerate(scores) if s >= min_score}
    result = []
    while left:
        best = max(left, key=left.get)
        result.append((best, left.pop(best)))
        for i in list(left):
            value = overlap(a[i], a[best])
            if labels[i] == labels[best] and value > threshold:
                left[i] *= 1 - value
            if left[i] < min_score:
                del left[i]
    return result


@pytest.mark.parametrize("min_score", [0.0, 0.2])
def test_soft_nms_names_a_box_once(min_score):
    """Equal boxes decay to a score of exactly 0: kept where that is enough, dropped where it is not."""
    a = torch.tensor([[0.0, 0, 10, 10]] * 3 + [[5, 5, 9, 9]])
    scores, labels = [0.9, 0.8, 0.7, 0.1], [0, 0, 0, 1]
    keep, new = boxes.soft_nms(a, torch.tensor(scores), torch.tensor(labels), min_score=min_score)
    expected = plain_soft_nms(a.tolist(), scores, labels, 0.5, min_score)
    assert keep.tolist() == [i for i, _ in expected] == ([0, 3, 1, 2] if min_score == 0 else [0])
    assert new.tolist() == pytest.approx([s for _, s in expected])


@pytest.mark.parametrize("min_score", [0.0, 0.05])
@pytest.mark.parametrize("seed", range(5))
def test_soft_nms_equals_a_plain_loop(seed, min_score):
    generator = torch.Generator().manual_seed(seed)
    a = random_boxes(60, seed, extent=20.0).double()
    scores = torch.rand(60, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (60,), generator=generator)
    keep, new = boxes.soft_nms(a, scores, labels, iou_threshold=0.3, min_score=min_score)
    expected = plain_soft_nms(a.tolist(), scores.tolist(), labels.tolist(), 0.3, min_score)
    assert keep.tolist() == [i for i, _ in expected]
    assert new.tolist() == pytest.approx([s for _, s in expected])
    assert (new.diff() <= 0).all()
