"""The codec against the vectors of the method notes (18.1), closed forms and its own error bounds."""

import dataclasses
import json

import pytest
import torch

from ufo_tune.core.codec import Codec
from ufo_tune.errors import ModelError

BOX = torch.tensor([[100.0, 50.0, 200.0, 150.0]])
SIZE = (448, 448)
POINT = torch.tensor([[0.35, 0.25]])


@pytest.mark.parametrize(
    ("box_format", "expected"),
    [
        ("xyxy", [200, 100, 400, 300]),
        ("cxcywh", [300, 200, 200, 200]),
        ("cxcywh_local", [434, 424, 200, 200]),
    ],
)
def test_vectors_of_the_method(box_format, expected):
    assert Codec(num_bins=896, box_format=box_format).encode_boxes(BOX, SIZE, POINT).tolist() == [expected]


def test_decoded_vector_of_the_method():
    values = torch.tensor([[434, 424, 200, 200]])
    decoded = Codec(num_bins=896, box_format="cxcywh_local").decode_boxes(values, SIZE, POINT)
    # centre x = (434/896 - .5 + .35) * 448 = 149.8, width = 200/896 * 448 = 100
    assert torch.allclose(decoded, torch.tensor([[99.8, 50.0, 199.8, 150.0]]), atol=1e-4)
    assert decoded.dtype == torch.float32


def test_halves_round_to_even():
    # 4 bins on 8 pixels: x = 1, 3, 5, 7 fall on 0.5, 1.5, 2.5, 3.5
    boxes = torch.tensor([[1.0, 3.0, 5.0, 7.0]])
    assert Codec(num_bins=4).encode_boxes(boxes, (8, 8)).tolist() == [[0, 2, 2, 4]]
    assert Codec(num_bins=4).encode_boxes(boxes, (8, 8)).tolist() == [[round(v / 2) for v in (1, 3, 5, 7)]]


def test_a_tie_is_a_tie_where_the_quotient_is_no_exact_number():
    # On 427 pixels 6.91015625 is exactly 14.5 of 896 bins and 27.40234375 is 57.5; x / 427 * 896 gets both wrong.
    boxes = torch.tensor([[6.91015625, 27.40234375, 427.0, 427.0]])
    assert Codec(num_bins=896).encode_boxes(boxes, (427, 427)).tolist() == [[14, 58, 896, 896]]


@pytest.mark.parametrize("box_format", ["xyxy", "cxcywh", "cxcywh_local"])
@pytest.mark.parametrize("size", [(480, 640), (37, 1001), (1, 1)])
def test_round_trip_is_within_half_a_bin(box_format, size):
    generator = torch.Generator().manual_seed(3)
    height, width = size
    corners = torch.rand(200, 2, 2, generator=generator, dtype=torch.float64).sort(dim=1).values  # [N, corner, xy]
    boxes = (corners * torch.tensor([width, height])).reshape(200, 4)
    points = (boxes[:, :2] + boxes[:, 2:]) / 2 / torch.tensor([width, height])
    codec = Codec(num_bins=700, box_format=box_format)
    values = codec.encode_boxes(boxes, size, points)
    assert values.dtype == torch.int64
    assert values.min() >= 0 and values.max() <= 700
    error = (codec.decode_boxes(values, size, points) - boxes).abs()
    # Corners: half a bin. Centre and size: half a bin of the centre and a quarter of the side's.
    bound = (0.5 if box_format == "xyxy" else 0.75) / 700 + 1e-6
    assert (error <= bound * torch.tensor([width, height, width, height])).all()


def test_whole_image_and_nothing_around_it():
    codec = Codec(num_bins=10)
    full = codec.encode_boxes(torch.tensor([[-5.0, -5.0, 900.0, 900.0]]), (30, 60))
    assert full.tolist() == [[0, 0, 10, 10]]
    assert codec.decode_boxes(full, (30, 60)).tolist() == [[0, 0, 60, 30]]
    beyond = Codec(num_bins=10, box_format="cxcywh").decode_boxes(torch.tensor([[0, 10, 10, 10]]), (30, 60))
    assert beyond.tolist() == [[0, 15, 30, 30]]


def test_local_centre_saturates_beyond_half_the_image():
    codec = Codec(num_bins=100, box_format="cxcywh_local")
    box = torch.tensor([[90.0, 90.0, 100.0, 100.0]])
    assert codec.encode_boxes(box, (100, 100), torch.tensor([[0.05, 0.05]]))[0, :2].tolist() == [100, 100]


def test_swapped_corners_decode_to_an_empty_box():
    assert Codec(num_bins=10).decode_boxes(torch.tensor([[8, 2, 3, 9]]), (10, 10)).tolist() == [[8, 2, 8, 9]]


def test_no_boxes():
    for box_format in ("xyxy", "cxcywh_local"):
        codec = Codec(box_format=box_format)
        values = codec.encode_boxes(torch.zeros(0, 4), SIZE, torch.zeros(0, 2))
        assert values.shape == (0, 4)
        assert codec.decode_boxes(values, SIZE, torch.zeros(0, 2)).shape == (0, 4)


def test_local_format_without_points_is_absolute():
    """UFO's REC and its detection share a codec: without a grid point the centre counts from the middle, + 0.5."""
    local, absolute = Codec(box_format="cxcywh_local"), Codec(box_format="cxcywh")
    values = local.encode_boxes(BOX, SIZE)
    assert torch.equal(values, absolute.encode_boxes(BOX, SIZE))
    assert torch.equal(local.decode_boxes(values, SIZE), absolute.decode_boxes(values, SIZE))


def test_dictionary_round_trip_through_json():
    codec = Codec(num_bins=896, box_format="cxcywh_local", slot_side=2, depth_range=(0.5, 80.0), negative="end")
    assert Codec.from_dict(json.loads(json.dumps(codec.to_dict()))) == codec
    assert set(codec.to_dict()) == {f.name for f in dataclasses.fields(Codec)}


def test_slot_tokens_and_special_tokens():
    assert Codec().slot_tokens == 16
    assert Codec(slot_side=1).slot_tokens == 1
    assert Codec().special_tokens == ("<MASK>", "<DEPTH>", "<LOCAL>", "<box>", "</box>")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_bin": 10}, "codec.num_bin: no such field"),
        ({"num_bins": 0}, "codec.num_bins"),
        ({"num_bins": "1000"}, "codec.num_bins"),
        ({"num_bins": True}, "codec.num_bins"),
        ({"slot_side": -1}, "codec.slot_side"),
        ({"box_format": "xywh"}, "codec.box_format"),
        ({"negative": "nothing"}, "codec.negative"),
        ({"schema": 2}, "codec.schema"),
        ({"depth_range": [5.0, 1.0]}, "codec.depth_range"),
        ({"depth_range": [5.0, 5.0]}, "codec.depth_range"),
        ({"depth_range": [0.0]}, "codec.depth_range"),
        ({"depth_range": [0.5, "far"]}, "codec.depth_range"),
        ({"depth_range": 3.0}, "codec.depth_range"),
        ({"depth_range": [float("nan"), 1.0]}, "codec.depth_range"),
        ({"mask_token": "<box>"}, "distinct"),
        ({"mask_token": ""}, "distinct"),
        ({"mask_token": ["<MASK>"]}, "distinct"),
    ],
)
def test_a_wrong_dictionary_is_refused(changes, message):
    with pytest.raises(ModelError, match=message):
        Codec.from_dict({**Codec().to_dict(), **changes})


def test_a_missing_field_is_refused():
    data = Codec().to_dict()
    del data["negative"]
    with pytest.raises(ModelError, match="add negative"):
        Codec.from_dict(data)
