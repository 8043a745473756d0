"""Maps as pictures and as files: colours by hand, scales that are shared, files that our own readers read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ufo_tune import show
from ufo_tune.core.types import Prediction, Sample, Targets
from ufo_tune.datasets._depth_maps import Encoding, read_depth
from ufo_tune.engine.map_files import write_maps
from ufo_tune.show import maps, palette

FIRST, LAST, GREY = (68, 1, 84), (253, 231, 37), (128, 128, 128)  # the ends of viridis
SIZE = (40, 60)


def asked(**targets: Any) -> Sample:
    classes = ("sky", "road", "car")
    return Sample(np.zeros((*SIZE, 3), np.uint8), SIZE, "made", classes=classes, targets=Targets(**targets))


def halves(left: float, right: float) -> np.ndarray:
    found = np.full(SIZE, left, dtype=np.float32)
    found[:, 30:] = right
    return found


def at(picture: Image.Image, x: int, y: int = 20) -> tuple[int, ...]:
    colour: tuple[int, ...] = picture.getpixel((x, y))
    return colour


def test_depth_is_coloured_from_near_to_far_and_grey_where_unknown() -> None:
    metres = halves(2, 6)
    metres[:, 50:] = 0
    picture = maps.depth(metres, scale_to=None)
    assert (at(picture, 10), at(picture, 40), at(picture, 55)) == (FIRST, LAST, GREY)
    assert picture.height == SIZE[0] and picture.width > SIZE[1] + 40  # the scale
    assert at(maps.depth(metres, (2.0, 10.0), scale_to=None), 40) == tuple(palette.heat(np.array(0.5)))
    assert maps.depth(np.zeros(SIZE, np.float32), scale_to=None).size == picture.size


def test_the_legend_rises_and_has_its_values() -> None:
    bar = maps.legend(200, 1.0, 5.0, [3.0, 9.0], unit=" m")
    assert at(bar, 3, 0) == LAST and at(bar, 3, 199) == FIRST
    columns = np.asarray(bar)[:, 20:].min(axis=(1, 2)) < 200  # rows with letters
    starts = np.flatnonzero(columns[1:] & ~columns[:-1])
    assert len(starts) + int(columns[0]) == 3 and at(bar, 3, 100) == (255, 255, 255)  # ends and middle; 9 m is outside
    assert len(np.unique(np.asarray(maps.legend(200, 1.0, 1.0, [1.0])).reshape(-1, 3), axis=0)) > 2


def test_normals_are_coloured_by_their_components() -> None:
    vectors = np.zeros((*SIZE, 3), np.float32)
    vectors[:, :20], vectors[:, 20:40] = (1, 0, 0), (0, -1, 0)
    picture = show.draw_truth(asked(normals=vectors), scale_to=None)
    assert (at(picture, 5), at(picture, 30), at(picture, 50)) == ((255, 128, 128), (128, 0, 128), GREY)


def test_truth_and_prediction_share_their_colours() -> None:
    sample = asked(depth=halves(1, 3))
    truth, said = show.draw_truth(sample, scale_to=None), Prediction(depth=halves(3, 1))
    picture = show.draw_prediction(sample, said, scale_to=None)
    assert (at(picture, 10), at(picture, 40)) == (at(truth, 40), at(truth, 10)) == (LAST, FIRST)
    scaled = show.draw_prediction(sample, Prediction(depth=halves(2, 2)), scale_to=None)
    assert at(scaled, 10) == tuple(palette.heat(np.array(0.5)))  # the colours of the truth, not its own


def test_a_class_has_the_same_colour_in_every_picture() -> None:
    both = show.draw_truth(asked(label_map=halves(0, 2).astype(np.int16)), scale_to=None)
    one = show.draw_prediction(asked(), Prediction(label_map=halves(-1, 2).astype(np.int16)), scale_to=None)
    assert at(both, 45) == at(one, 45) != at(both, 15) and at(one, 15) == (0, 0, 0)
    for number, x in ((0, 15), (2, 45)):  # on black, the colour's own proportions
        wanted = np.array(palette.of_object(number))
        np.testing.assert_allclose(np.array(at(both, x)) / max(at(both, x)), wanted / wanted.max(), atol=0.05)


@pytest.mark.parametrize("targets", [{}, {"text": "two"}, {"boxes": torch.zeros(0, 4), "masks": ()}])
def test_words_and_nothing_are_no_picture(targets: dict[str, Any]) -> None:
    assert show.draw_truth(asked(**targets)) is None
    assert show.draw_truth(asked().with_(targets=None)) is None


def test_depth_files_are_read_by_the_depth_datasets(tmp_path: Path) -> None:
    near, far = halves(0.5, 9.4321), halves(3, 79.5)
    for depth, name, scale, step in ((near, "near", 0.001, 0.0005), (far, "far", 1 / 256, 1 / 512)):
        row = write_maps(Prediction(depth=depth), tmp_path, name)
        assert row == {"depth": str(tmp_path / f"{name}.depth.png"), "depth_scale": scale}
        np.testing.assert_allclose(read_depth(Path(row["depth"]), SIZE, Encoding(scale=scale)), depth, atol=step + 1e-6)


def test_label_files_hold_class_numbers(tmp_path: Path) -> None:
    for most, kind, nothing in ((2, np.uint8, 255), (254, np.uint8, 255), (255, np.uint16, 65535)):
        row = write_maps(Prediction(label_map=halves(-1, most).astype(np.int16)), tmp_path, f"a{most}")
        stored = np.array(Image.open(row["label_map"]))
        assert stored.dtype == kind and stored[0, 0] == nothing and stored[0, -1] == most
        assert row["label_map"] == str(tmp_path / f"a{most}.labels.png")


def test_normal_files_hold_components_as_bytes(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(*SIZE, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    stored = np.array(Image.open(write_maps(Prediction(normals=vectors), tmp_path, "n")["normals"]), np.float64)
    np.testing.assert_allclose(stored / 127.5 - 1, vectors, atol=0.5 / 127.5 + 1e-6)
    assert write_maps(Prediction(), tmp_path, "nothing") == {}
