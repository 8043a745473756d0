"""Pictures: where pixels change and where they must not, tags that stay inside, curves that say what they show."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from ufo_tune import show
from ufo_tune.core import masks
from ufo_tune.core.types import Prediction, Sample
from ufo_tune.errors import ConfigError, DataError
from ufo_tune.show import palette, tags, text

SVG = "{http://www.w3.org/2000/svg}"


def grey(height: int = 100, width: int = 120) -> np.ndarray:
    return np.full((height, width, 3), 128, dtype=np.uint8)


def changed(picture: Image.Image, before: np.ndarray) -> np.ndarray:
    return (np.asarray(picture) != before).any(axis=2)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (7, 5), (480, 640)])
@pytest.mark.parametrize("scale_to", [None, 64, 512])
def test_size_follows_the_long_side(size: tuple[int, int], scale_to: int | None) -> None:
    picture = show.draw(grey(*size), [[0, 0, *size[::-1]]], None, ["a long label " * 9], [0.5], scale_to=scale_to)
    ratio = 1 if scale_to is None else scale_to / max(size)
    assert picture.size == (max(1, round(size[1] * ratio)), max(1, round(size[0] * ratio)))
    assert picture.mode == "RGB"


def test_nothing_found_changes_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    for nothing in ({}, {"boxes": torch.zeros(0, 4), "labels": [], "scores": []}, {"masks": ()}):
        assert np.array_equal(np.asarray(show.draw(image, **nothing, scale_to=None)), image)


def test_the_image_given_is_left_alone() -> None:
    image = grey()
    show.draw(image, [[10, 10, 50, 50]], masks.encode_many(np.ones((1, 100, 120), bool)), ["x"], [1.0], scale_to=None)
    assert (image == 128).all()


def test_a_box_changes_its_border_only() -> None:
    x0, y0, x1, y1 = 30, 20, 90, 80
    where = changed(show.draw(grey(), [[x0, y0, x1, y1]], scale_to=None), grey())
    # The border's pixels, and one of dark rim around them.
    assert where[[y0, y1 - 1], x0:x1].all() and where[y0:y1, [x0, x1 - 1]].all()
    assert not where[y0 + 3 : y1 - 3, x0 + 3 : x1 - 3].any()
    where[y0 - 1 : y1 + 1, x0 - 1 : x1 + 1] = False
    assert not where.any()


def test_a_mask_changes_its_pixels_and_a_thin_rim() -> None:
    bitmap = np.zeros((100, 120), bool)
    bitmap[30:70, 40:90] = True
    picture = np.asarray(show.draw(grey(), masks=bitmap[None], scale_to=None)).astype(int)
    assert ((picture != 128).any(axis=2) | ~bitmap).all()
    middle = picture[50, 65]  # fill alone: 42 % of the colour, 58 % of the photograph
    assert np.abs(middle - (0.42 * np.array(palette.OBJECTS[0]) + 0.58 * 128)).max() <= 1
    near = np.zeros_like(bitmap)
    near[28:72, 38:92] = True
    assert (picture[~near] == 128).all()
    # The outline is the colour itself.
    assert np.abs(picture[50, 40] - palette.OBJECTS[0]).max() <= 40


def test_masks_may_be_run_lengths_or_bitmaps() -> None:
    bitmaps = np.random.default_rng(1).random((3, 60, 60)) > 0.5
    ways = [bitmaps, torch.from_numpy(bitmaps), masks.encode_many(bitmaps)]
    first, *others = [np.asarray(show.draw(grey(60, 60), masks=m)) for m in ways]
    assert all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize("scale_to", [32, 512])
def test_a_mask_of_one_pixel_is_seen(scale_to: int) -> None:
    bitmap = np.zeros((1, 100, 120), bool)
    bitmap[0, 40, 50] = True
    with_mask = show.draw(grey(), masks=bitmap, scale_to=scale_to)
    assert changed(with_mask, np.asarray(show.draw(grey(), scale_to=scale_to))).any()


def test_a_mask_that_fills_the_picture_has_no_edge() -> None:
    picture = np.asarray(show.draw(grey(), masks=np.ones((1, 100, 120), bool), scale_to=None))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 1


def test_boxes_beyond_the_picture_are_cut_off() -> None:
    where = changed(show.draw(grey(), [[-50, -50, 999, 40]], scale_to=None), grey())
    assert where[0].all() and where[39].all() and not where[41:].any()


def test_labels_decide_colours_only_where_they_differ() -> None:
    boxes = [[5, 30, 35, 90], [45, 30, 75, 90], [85, 30, 115, 90]]

    def borders(labels: list[str]) -> list[tuple[int, ...]]:
        picture = np.asarray(show.draw(grey(), boxes, None, labels, scale_to=None))
        return [tuple(picture[60, box[0]]) for box in boxes]

    assert len(set(borders(["cat"] * 3))) == 3
    cat, dog, other_cat = borders(["cat", "dog", "cat"])
    assert cat == other_cat != dog


@pytest.mark.parametrize("count", [1, 12, 40])
def test_tags_stay_inside_and_clear_of_each_other(count: int) -> None:
    rng = np.random.default_rng(count)
    low = rng.uniform(0, 400, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(2, 112, (count, 2))], axis=1)
    boxes[: count // 4] = [508, 508, 512, 512]  # a crowd in the corner
    placed = tags.attach(
        Image.new("RGB", (512, 512)), boxes, [("potted plant", "0.87")] * count, [palette.of_object(0)] * count
    )
    assert len(placed) == count and (placed >= 0).all() and (placed <= 512).all()
    low = np.maximum(placed[:, None, :2], placed[None, :, :2])
    shared = np.maximum(np.minimum(placed[:, None, 2:], placed[None, :, 2:]) - low, 0).prod(axis=2)
    assert (shared[~np.eye(count, dtype=bool)] == 0).all()


def test_a_tag_stands_on_its_box_where_there_is_room() -> None:
    (placed,) = tags.attach(
        Image.new("RGB", (512, 512)), np.array([[100.0, 200, 300, 400]]), [("cat", "")], [(0, 0, 0)]
    )
    assert (placed[0], placed[3]) == (100, 200)


def test_a_label_is_shortened_and_its_score_is_not() -> None:
    face = text.font(14)
    short = text.shorten("a very long label", face, 90, " 0.87")
    assert short.endswith("... 0.87") and "a very long label".startswith(short.removesuffix("... 0.87"))
    assert text.width(short, face) <= 90
    assert text.shorten("abc", face, 3) == ""


@pytest.mark.parametrize(
    "words", ["", "   ", "one", "one two three " * 30, "unbreakable" * 30, "a\nb\tc\x00d", "\u05e9\u6f22"]
)
def test_wrapped_lines_fit(words: str) -> None:
    face = text.font(14)
    lines = text.wrap(words, face, 100, 3)
    assert len(lines) <= 3 and all(text.width(line, face) <= 100 and "\n" not in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"boxes": [[0, 0, 1, 1]], "labels": ["a", "b"]}, "counts differ"),
        ({"boxes": [[0, 0, float("nan"), 1]]}, "not finite"),
        ({"masks": np.zeros((1, 5, 5), bool)}, "masks are"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        show.draw(grey(), **arguments)  # type: ignore[arg-type]


def test_pixels_that_are_not_rgb_are_refused() -> None:
    with pytest.raises(DataError, match="not RGB"):
        show.draw(np.zeros((5, 5), np.uint8))


def test_every_colour_of_the_palette_can_be_read_on() -> None:
    for number in range(20):
        colour = palette.of_object(number)

        def luminance(c: tuple[int, ...]) -> float:
            s = np.array(c) / 255
            return float(np.where(s <= 0.04045, s / 12.92, ((s + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])

        low, high = sorted([luminance(colour), luminance(palette.ink_on(colour))])
        assert (high + 0.05) / (low + 0.05) >= 4.5  # WCAG AA for text


def test_the_colour_map_grows_lighter() -> None:
    lightness = palette.heat(np.linspace(0, 1, 64)).astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > 0).all()
    assert np.array_equal(palette.heat(np.array([-5.0, 9.0])), palette.heat(np.array([0.0, 1.0])))


def test_predictions_are_named_by_class_or_phrase() -> None:
    one = Prediction(torch.tensor([[1.0, 1, 9, 9]]), labels=torch.tensor([1]), scores=torch.tensor([0.5]))
    sample = Sample(grey(), (100, 120), "detection", classes=("cat", "dog"))
    assert show.names(sample, one) == ["dog"]
    assert show.names(sample.with_(classes=(), text="the dog"), one) == ["the dog"]


def test_an_answer_without_extent_is_written_not_drawn() -> None:
    unreadable = Prediction(torch.zeros(1, 4), scores=torch.zeros(1), text="no idea", invalid=1)
    sample = Sample(grey(), (100, 120), "rec", text="the dog")
    picture = show.draw_prediction(sample, unreadable, scale_to=None)
    assert picture.height > 100 and picture.width >= 120  # the words stand below the picture
    assert show.draw_prediction(sample, Prediction(), scale_to=None).size == (120, 100)


def test_sheet_places_pictures_in_rows() -> None:
    red, blue = Image.new("RGB", (200, 50), (255, 0, 0)), np.full((80, 100, 3), (0, 0, 255), np.uint8)
    page = np.asarray(show.sheet([red, blue, red], ["", "a caption", "x" * 500], 2))
    gap = 12
    assert page.shape[1] == gap + 2 * (200 + gap)
    assert (page == (255, 0, 0)).all(axis=2).sum() == 2 * 200 * 50
    assert (page == (0, 0, 255)).all(axis=2).sum() == 80 * 100
    assert (page[:, -gap:] == 255).all() and (page[:gap] == 255).all()


def test_sheet_refuses_what_it_cannot_lay_out() -> None:
    with pytest.raises(ConfigError, match="columns"):
        show.sheet([grey()], [""], 0)
    for images, captions in (([], []), ([grey()], [])):
        with pytest.raises(DataError, match="captions for"):
            show.sheet(images, captions, 1)


def test_slot_maps_show_every_token_in_its_place() -> None:
    logits = np.zeros((4, 6, 8), np.float32)
    logits[2] = 5.0  # the third of four: bottom left
    picture = np.asarray(show.slot_maps(grey(), logits, np.zeros((100, 120), bool), height=120)).astype(int)
    low, high = palette.heat(np.array([0.0, 1.0])).astype(int)
    bright = np.abs(picture - high).max(axis=2) <= 2
    dark = np.abs(picture - low).max(axis=2) <= 2
    rows, columns = np.nonzero(dark[:, : picture.shape[1] - 80])
    middle_y, middle_x = (rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2
    rows, columns = np.nonzero(bright[:, : picture.shape[1] - 80])
    assert rows.mean() > middle_y and columns.mean() < middle_x


@pytest.mark.parametrize("shape", [(0, 4, 4), (3, 4, 4), (4, 4)])
def test_slot_maps_need_a_square(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="square"):
        show.slot_maps(grey(), np.zeros(shape, np.float32), np.zeros((100, 120), bool))


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3)])
def test_slot_maps_of_odd_pictures(size: tuple[int, int]) -> None:
    picture = show.slot_maps(grey(*size), torch.randn(16, 3, 3), masks.encode(np.ones(size, bool)), height=64)
    assert picture.height > 64


def test_curves_are_well_formed_and_escaped() -> None:
    svg = show.curves({'<b> & "c"': [(0, 1.0), (1, 2.0)]}, title="a < b", x="<x>", y="&")
    root = ET.fromstring(svg)
    said = [t.text for t in root.iter(f"{SVG}text")]
    assert root.tag == f"{SVG}svg" and root.get("role") == "img"
    assert {"a < b", '<b> & "c"', "<x>", "&"} <= set(said)
    assert "ends at 2" in (root.get("aria-label") or "")


def points(svg: str) -> list[tuple[float, float]]:
    (path,) = [p.get("d") or "" for p in ET.fromstring(svg).iter(f"{SVG}path")]
    numbers = [float(n) for n in re.findall(r"-?[\d.]+", path)]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def test_curves_are_to_scale() -> None:
    straight = points(show.curves({"a": [(0, 0.0), (5, 5.0), (10, 10.0)]}))
    assert straight[1] == pytest.approx(np.mean([straight[0], straight[2]], axis=0), abs=0.11)
    assert straight[0][1] > straight[2][1]  # up is more
    powers = points(show.curves({"a": [(0, 1.0), (1, 10.0), (2, 100.0)]}, log=True))
    assert powers[1] == pytest.approx(np.mean([powers[0], powers[2]], axis=0), abs=0.11)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    "values", [[], [1.0], [2.0] * 5, [float("nan"), float("inf")], [-1.0, 0.0, 3.0], [1e-9, 1e9], [1e-3] * 200]
)
def test_curves_of_odd_values(values: list[float], log: bool) -> None:
    svg = show.curves({"a": list(enumerate(values)), "b": []}, log=log)
    ET.fromstring(svg)
    assert "nan" not in svg and "inf" not in svg


def test_a_gap_where_a_value_is_not_finite() -> None:
    svg = show.curves({"a": [(0, 1.0), (1, 2.0), (2, float("nan")), (3, 1.0), (4, 2.0)]})
    assert svg.count("<path") == 2


def test_many_values_are_smoothed_over_their_raw_ones() -> None:
    rng = np.random.default_rng(0)
    svg = show.curves({"a": [(i, float(v)) for i, v in enumerate(rng.normal(size=400))]})
    raw, smooth = [p.get("d") or "" for p in ET.fromstring(svg).iter(f"{SVG}path")]
    heights = [np.std([float(n.split()[1]) for n in re.split("[ML]", d) if n]) for d in (raw, smooth)]
    assert heights[1] < 0.5 * heights[0]


def test_curves_need_room() -> None:
    with pytest.raises(ConfigError, match="no room"):
        show.curves({"a": [(0, 1.0)]}, size=(100, 50))


def test_pictures_can_be_written(tmp_path: Path) -> None:
    picture = show.draw(grey(), [[1, 1, 50, 50]], None, ["\u4e2d <b>&\n"], [0.25])
    picture.save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").size == picture.size
    assert ImageDraw.Draw(picture) is not None


def test_unsure_objects_of_a_grid_are_not_drawn() -> None:
    image = np.full((80, 400, 3), 200, dtype=np.uint8)
    sample = Sample(image, (80, 400), "detection", classes=("cup",))
    boxes = torch.tensor([[5.0, 25, 50, 60], [300, 25, 350, 60]])
    sure, unsure = torch.tensor([0.9, 0.8]), torch.tensor([0.9, 0.1])
    labels = torch.zeros(2, dtype=torch.long)

    def right_half(scores: torch.Tensor, **options: float) -> np.ndarray:
        drawn = show.draw_prediction(sample, Prediction(boxes, None, scores, labels), scale_to=None, **options)
        return np.asarray(drawn)[:, 200:]

    assert (right_half(unsure) == 200).all(), "nothing is drawn there"
    assert not (right_half(sure) == 200).all()
    assert not (right_half(unsure, min_score=0.0) == 200).all()
