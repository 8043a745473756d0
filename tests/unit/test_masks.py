"""Masks against pycocotools, scipy, plain loops and real annotations."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from scipy import ndimage

from ufo_tune.core import masks
from ufo_tune.errors import DataError


def blobs(count, size, seed):
    """Connected and ragged masks: thresholded smooth noise."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(count, *size)), (0, 2, 2))
    return noise > 0.02


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (13, 21)])
def test_round_trip(size):
    bitmaps = np.random.default_rng(0).random((6, *size)) > 0.5
    bitmaps[0], bitmaps[1] = False, True
    rles = masks.encode_many(bitmaps)
    assert len(rles) == 6
    assert all(r["size"] == list(size) and isinstance(r["counts"], bytes) for r in rles)
    assert np.array_equal(masks.decode_many(rles), bitmaps)
    assert masks.decode(rles[2]).dtype == bool
    assert np.array_equal(masks.decode(masks.encode(torch.from_numpy(bitmaps[2]))), bitmaps[2])
    assert masks.area(rles).tolist() == bitmaps.sum((1, 2)).tolist()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_union_is_every_pixel_of_any(count):
    bitmaps = blobs(count, (17, 23), count)
    assert np.array_equal(masks.decode(masks.union(masks.encode_many(bitmaps))), np.logical_or.reduce(bitmaps))


def test_no_masks():
    assert masks.encode_many(np.zeros((0, 3, 4), dtype=bool)) == ()
    assert masks.decode_many([]).shape == (0, 0, 0)
    assert masks.decode_many([], size=(3, 4)).shape == (0, 3, 4)
    assert masks.area([]).shape == (0,)
    assert masks.boxes_of([]).shape == (0, 4)
    one = masks.encode(np.ones((3, 4), dtype=bool))
    assert masks.iou([], [one]).shape == (0, 1)
    assert masks.iou([one], []).shape == (1, 0)


def test_boxes_are_tight():
    bitmaps = np.zeros((4, 8, 10), dtype=bool)
    bitmaps[0, 2:5, 3:7] = True
    bitmaps[1, 7, 9] = True  # one pixel in the corner
    bitmaps[2] = True
    boxes = masks.boxes_of(masks.encode_many(bitmaps))  # the last is empty
    assert boxes.tolist() == [[3, 2, 7, 5], [9, 7, 10, 8], [0, 0, 10, 8], [0, 0, 0, 0]]
    assert boxes.dtype == torch.float32


def test_boxes_equal_the_extent_of_the_pixels():
    bitmaps = blobs(10, (31, 17), seed=4)
    for bitmap, box in zip(bitmaps, masks.boxes_of(masks.encode_many(bitmaps)).tolist(), strict=True):
        ys, xs = np.nonzero(bitmap)
        assert box == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_iou_equals_counting_pixels():
    a, b = blobs(5, (20, 24), seed=1), blobs(7, (20, 24), seed=2)
    result = masks.iou(masks.encode_many(a), masks.encode_many(b))
    for i in range(5):
        for j in range(7):
            both, either = int((a[i] & b[j]).sum()), int((a[i] | b[j]).sum())
            assert float(result[i, j]) == pytest.approx(both / either)


def test_iou_of_empty_masks_is_zero():
    empty = masks.encode(np.zeros((4, 4), dtype=bool))
    assert masks.iou([empty], [empty]).tolist() == [[0.0]]


def test_polygons():
    square = [2.0, 3.0, 7.0, 3.0, 7.0, 5.0, 2.0, 5.0]
    triangle = [10.0, 0.0, 14.0, 0.0, 10.0, 4.0]
    bitmap = masks.decode(masks.from_polygons([square], (8, 16)))
    expected = np.zeros((8, 16), dtype=bool)
    expected[3:5, 2:7] = True
    assert np.array_equal(bitmap, expected)
    both = masks.decode(masks.from_polygons([square, triangle, square], (8, 16)))
    assert np.array_equal(both & expected, expected)
    assert 6 <= (both & ~expected).sum() <= 10  # a triangle of 8 square pixels, outlined by whole ones
    assert masks.decode(masks.from_polygons([], (8, 16))).sum() == 0


def test_polygon_beyond_the_image_is_cut():
    big = masks.decode(masks.from_polygons([[-5, -5, 50, -5, 50, 50, -5, 50]], (8, 16)))
    assert big.all()


@pytest.mark.parametrize(
    "polygon",
    [
        [0, 0, 5, 5],  # pycocotools would read four numbers as a box
        [0, 0, 5, 5, 3, 3, 1],
        [0, 0, 5, float("nan"), 3, 3],
        [0, 0, 1e9, 5, 3, 3],
        [0, 0, "x", 5, 3, 3],
        [[0, 0], [1, 1], [2, 2]],
        {"counts": 1},
        3.0,
    ],
)
def test_bad_polygons_are_refused(polygon):
    with pytest.raises(DataError, match="polygon"):
        masks.from_polygons([polygon], (8, 16))


def test_segmentations_of_every_form():
    bitmap = blobs(1, (12, 9), seed=5)[0]
    rle = masks.encode(bitmap)
    flat = bitmap.flatten(order="F").astype(int)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    runs = runs if flat[0] == 0 else [0, *runs]
    forms = [rle, {**rle, "counts": rle["counts"].decode()}, {"size": [12, 9], "counts": runs}]
    for form in forms:
        assert np.array_equal(masks.decode(masks.from_segmentation(form, (12, 9))), bitmap)
    assert masks.run_lengths(rle["counts"]).tolist() == runs
    assert masks.decode(masks.from_segmentation([[0, 0, 4, 0, 4, 4, 0, 4]], (12, 9))).sum() == 16


def test_run_lengths_equal_pycocotools_on_random_masks():
    rng = np.random.default_rng(6)
    for density in (0.001, 0.1, 0.5, 0.9, 0.999):
        bitmap = rng.random((150, 210)) < density
        runs = masks.run_lengths(masks.encode(bitmap)["counts"])
        assert np.array_equal(np.repeat(np.arange(len(runs)) % 2 == 1, runs), bitmap.flatten(order="F"))
        again = coco.frPyObjects({"size": [150, 210], "counts": runs.tolist()}, 150, 210)
        assert again["counts"] == masks.encode(bitmap)["counts"]


def test_a_run_longer_than_two_to_the_24():
    """Twenty megapixels of background take a sixth byte."""
    rle = coco.frPyObjects({"size": [5000, 4000], "counts": [20_000_000]}, 5000, 4000)
    assert masks.run_lengths(rle["counts"]).tolist() == [20_000_000] and len(rle["counts"]) == 6


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [9, 12], "counts": b"S1"}, r"mask is \(9, 12\) but the image is \(12, 9\)"),
        ({"size": [12, 9], "counts": b""}, "runs fill 0 pixels"),
        ({"size": [12, 9], "counts": b"\xff\xff"}, "runs fill"),
        ({"size": [12, 9], "counts": "PPYo0"}, "runs fill"),
        ({"size": [12, 9], "counts": "ä"}, "runs fill"),
        ({"size": [12, 9], "counts": b"\x9c3"}, "runs fill"),  # 108 is b"\\3": here with a seventh bit
        ({"size": [12, 9], "counts": b"\x1c3"}, "runs fill"),  # and here below the first character
        ({"size": [12, 9], "counts": b"o" * 30 + b"0"}, "runs fill"),
        ({"size": [12, 9], "counts": [5, 5]}, "runs fill 10 pixels"),
        ({"size": [12, 9], "counts": [-8, 116]}, "runs fill 108 pixels"),
        ({"size": [12, 9], "counts": ["a"]}, "no run lengths"),
        ({"size": [12, 9], "counts": None}, "no run lengths"),
        ({"counts": b"S1"}, "no known form"),
        ("S1", "no known form"),
        (None, "no known form"),
    ],
)
def test_damaged_segmentations_are_refused(segmentation, message):
    with pytest.raises(DataError, match=message):
        masks.from_segmentation(segmentation, (12, 9))


def test_truncated_run_lengths_never_pass():
    counts = masks.encode(blobs(1, (40, 50), seed=8)[0])["counts"]
    for end in range(len(counts)):
        with pytest.raises(DataError):
            masks.from_segmentation({"size": [40, 50], "counts": counts[:end]}, (40, 50))


@pytest.mark.parametrize("width", [1, 2, 5])
def test_boundary_equals_the_chessboard_distance(width):
    for bitmap in blobs(4, (33, 27), seed=9):
        padded = np.pad(bitmap, 1)  # what lies outside the image is background
        distance = ndimage.distance_transform_cdt(padded, metric="chessboard")[1:-1, 1:-1]
        assert np.array_equal(masks.boundary(bitmap, width), bitmap & (distance <= width))


def test_boundary_by_hand():
    full = np.ones((300, 400), dtype=bool)
    assert masks.boundary(full, 10).sum() == 300 * 400 - 280 * 380
    assert masks.boundary(np.ones((1, 1), dtype=bool), 1).sum() == 1
    assert masks.boundary(np.zeros((5, 5), dtype=bool), 1).sum() == 0


def test_sure_of_a_mask_is_the_mean_over_its_own_pixels():
    probabilities = torch.tensor([[[0.9, 0.8, 0.7], [0.1, 0.2, 0.3]]] * 2)
    found = probabilities > torch.tensor([0.5, 1.0])[:, None, None]
    assert masks.mean_inside(probabilities, found).tolist() == pytest.approx([0.8, 0.0])  # ufo.md 18.6; none


def rows(*spans):
    """Masks on one row of 20 pixels: (start, end) each."""
    bitmaps = np.zeros((len(spans), 1, 20), dtype=bool)
    for bitmap, (start, end) in zip(bitmaps, spans, strict=True):
        bitmap[0, start:end] = True
    return bitmaps


def test_matrix_nms_small_example():
    bitmaps = rows((0, 10), (0, 5), (5, 10), (0, 10))  # IoU of 1 and 2 with 0: 0.5; with each other: 0
    scores = torch.tensor([0.9, 0.8, 0.6, 0.5])
    new = masks.matrix_nms(bitmaps, scores, torch.tensor([0, 0, 0, 1]), sigma=2.0)
    half = math.exp(-2 * 0.25)
    assert torch.allclose(new, torch.tensor([0.9, 0.8 * half, 0.6 * half, 0.5]))


def test_matrix_nms_forgives_what_a_suppressed_mask_suppresses():
    bitmaps = rows((0, 10), (0, 10), (0, 10))
    new = masks.matrix_nms(bitmaps, torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3))
    # The third loses exp(-2) to the first; to the second, itself suppressed, it would lose nothing.
    assert torch.allclose(new, torch.tensor([0.9, 0.8 * math.exp(-2), 0.7 * math.exp(-2)]))


def plain_matrix_nms(bitmaps, scores, labels, sigma):
    """The formula of the method notes (18.6), pair by pair."""

    def iou(i, j):
        either = (bitmaps[i] | bitmaps[j]).sum()
        return (bitmaps[i] & bitmaps[j]).sum() / either if either else 0.0

    def better(i):
        return [j for j in range(len(scores)) if scores[j] > scores[i] and labels[j] == labels[i]]

    result = []
    for i, score in enumerate(scores):
        factors = [1.0]
        for j in better(i):
            worst = max((iou(j, k) for k in better(j)), default=0.0)
            factors.append(math.exp(-sigma * (iou(i, j) ** 2 - worst**2)))
        result.append(score * min(factors))
    return result


@pytest.mark.parametrize("seed", range(3))
def test_matrix_nms_equals_the_formula(seed):
    rng = np.random.default_rng(seed)
    bitmaps = blobs(12, (10, 12), seed)
    bitmaps[3], bitmaps[4] = False, False  # empty masks suppress nothing
    scores, labels = rng.permutation(12) / 12 + 0.01, rng.integers(0, 2, 12)
    expected = plain_matrix_nms(bitmaps, scores, labels, sigma=2.0)
    for form in (bitmaps, torch.from_numpy(bitmaps), masks.encode_many(bitmaps)):
        new = masks.matrix_nms(form, torch.from_numpy(scores), torch.from_numpy(labels))
        assert new.tolist() == pytest.approx(expected)
    assert masks.matrix_nms(bitmaps, torch.from_numpy(scores).float(), torch.from_numpy(labels)).dtype == torch.float32


def test_matrix_nms_of_equal_masks_of_one_pixel():
    pixel = np.zeros((2, 3, 4), dtype=bool)
    pixel[:, 1, 2] = True
    for form in (pixel, masks.encode_many(pixel)):
        new = masks.matrix_nms(form, torch.tensor([0.9, 0.8]), torch.zeros(2), sigma=2.0)
        assert new.tolist() == pytest.approx([0.9, 0.8 * np.exp(-2)])


def test_matrix_nms_ranks_equal_scores_in_the_order_given():
    bitmaps = np.repeat(rows((0, 10)), 40, axis=0)
    new = masks.matrix_nms(bitmaps, torch.full((40,), 0.5), torch.zeros(40))
    assert new.tolist() == pytest.approx([0.5] + [0.5 * math.exp(-2)] * 39)


def test_matrix_nms_of_nothing_and_of_one():
    assert masks.matrix_nms([], torch.zeros(0), torch.zeros(0)).shape == (0,)
    assert masks.matrix_nms(rows((0, 3)), torch.tensor([0.4]), torch.tensor([2])).tolist() == pytest.approx([0.4])


@pytest.fixture
def real_data():
    place = os.environ.get("UFO_TUNE_REAL_DATA", "")
    if not place or not Path(place).is_dir():
        pytest.skip("UFO_TUNE_REAL_DATA names no folder of real sample data")
    return Path(place)


def test_real_compressed_masks_are_accepted(real_data):
    data = json.loads((real_data / "sav_example/example/sav_000001_manual.json").read_text())
    size = (int(data["video_height"]), int(data["video_width"]))
    frame = data["masklet"][30]
    areas = masks.area([masks.from_segmentation(rle, size) for rle in frame])
    assert areas.tolist() == [
        int(coco.decode({"size": r["size"], "counts": r["counts"].encode()}).sum()) for r in frame
    ]


def test_real_polygons_agree_with_their_extent_and_area(real_data):
    """Against the points themselves: 13 of these boxes are wrong in the annotation file (rotated images)."""
    data = json.loads((real_data / "lvis_val_100/data/lvis_val_100.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in data["images"]}
    off, relative = [], []
    for row in data["annotations"]:
        if row["area"] < 20:
            continue
        rle = masks.from_segmentation(row["segmentation"], sizes[row["image_id"]])
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in row["segmentation"]])
        extent = torch.from_numpy(np.concatenate([points.min(0), points.max(0)]))
        off.append(float((masks.boxes_of([rle])[0] - extent).abs().max()))
        relative.append(abs(int(masks.area([rle])) - row["area"]) / row["area"])
    assert len(off) > 900
    # Whole pixels against real outlines; a thin tip may cover no pixel's centre.
    assert np.quantile(off, 0.95) < 1.5 and max(off) < 8
    assert np.quantile(relative, 0.95) < 0.05


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (40, 3)])
def test_regions_of_a_map_of_numbers(shape):
    ids = np.random.default_rng(0).integers(-1, 4, shape).astype(np.int16)
    found = masks.encode_ids(ids)
    assert list(found) == sorted(set(ids.ravel().tolist()))
    for number, rle in found.items():
        assert rle == masks.encode(ids == number)


def test_area_of_more_masks_than_a_byte_counts():
    bitmaps = np.zeros((600, 2, 600), dtype=bool)
    for i in range(600):
        bitmaps[i, 0, : i + 1] = True
    rles = masks.encode_many(bitmaps)
    assert masks.area(rles).tolist() == list(range(1, 601))
    assert masks.boxes_of(rles)[599].tolist() == [0, 0, 600, 1]
