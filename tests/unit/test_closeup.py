"""Close-ups: the same answer as without looking on, and slot maps that are the dot products they should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny
from ufo_tune.config import DecodeSection
from ufo_tune.core import masks
from ufo_tune.core.codec import Codec
from ufo_tune.core.types import Generation, Prediction, View
from ufo_tune.engine.closeup import ask_closely, slot_maps
from ufo_tune.engine.predict import Predictor, to_sample
from ufo_tune.models.ufo import UfoModel

MASK, CODEC = 7, Codec(num_bins=64, slot_side=2)
DECODE = DecodeSection(max_new_tokens=24, constrained=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> UfoModel:
    return tiny.model("llava", tmp_path_factory.mktemp("model"))


def generation(answers: int = 2, grid: tuple[int, int] = (3, 5), width: int = 9) -> Generation:
    """Answers of one slot each over random features; the picture has a pixel for each cell."""
    torch.manual_seed(0)
    ids = torch.tensor([[1, *[MASK] * 4, 2]] * answers)
    return Generation(
        texts=("",) * answers,
        ids=ids,
        scores=torch.ones(ids.shape),
        hidden=torch.randn(*ids.shape, width),
        image_features=torch.randn(*grid, width),
        views=(View((0, 0, grid[1], grid[0]), grid),),
        points=(None,) * answers,
        slot_id=MASK,
        depth_id=8,
    )


def by_hand(made: Generation, answer: int) -> np.ndarray:
    """[S, h, w] dot products over the square root of the width, one loop after the other."""
    height, width, depth = made.image_features.shape
    maps = np.zeros((4, height, width))
    for s in range(4):
        for y in range(height):
            for x in range(width):
                dot = sum(float(made.hidden[answer, 1 + s, d] * made.image_features[y, x, d]) for d in range(depth))
                maps[s, y, x] = dot / depth**0.5
    return maps


def merged(maps: np.ndarray) -> np.ndarray:
    """The mask at the cells' size: token k is sub-row k // 2 and sub-column k % 2, and a pixel the mean of its four."""
    return maps.mean(axis=0) > 0


def test_slot_maps_are_dot_products_and_follow_the_masks_through_sorting() -> None:
    made = generation()
    maps = [by_hand(made, 0), by_hand(made, 1)]
    found = [masks.encode(merged(m)) for m in maps]
    assert all(masks.area(found) > 0) and float(masks.iou(found[:1], found[1:])) < 1
    empty = masks.encode(np.zeros((3, 5), dtype=bool))
    prediction = Prediction(torch.zeros(3, 4), (found[1], empty, found[0]))  # sorted otherwise than the answers
    second, none, first = slot_maps(made, prediction, CODEC, (3, 5))
    assert none is None
    np.testing.assert_allclose(first, maps[0], atol=1e-5)
    np.testing.assert_allclose(second, maps[1], atol=1e-5)


def test_slot_maps_cover_a_large_picture_in_few_pixels() -> None:
    made = generation(1, (2, 4))
    big = Generation(**{n: getattr(made, n) for n in made.__slots__} | {"views": (View((0, 0, 4000, 2000), (2, 4)),)})
    whole = masks.encode(np.ones((2000, 4000), dtype=bool))
    (alone,) = slot_maps(big, Prediction(torch.zeros(1, 4), (whole,)), CODEC, (2000, 4000), longest=4)
    np.testing.assert_allclose(alone, by_hand(made, 0), atol=1e-5)  # four pixels wide: a pixel for each cell again


def test_no_masks_and_no_slots_give_no_maps() -> None:
    made = generation(1)
    assert slot_maps(made, Prediction(torch.ones(2, 4)), CODEC, (3, 5)) == ()
    made.ids = torch.ones_like(made.ids)
    some = masks.encode(np.ones((3, 5), dtype=bool))
    assert slot_maps(made, Prediction(torch.zeros(1, 4), (some,)), CODEC, (3, 5)) == (None,)


@pytest.mark.parametrize("task", ["res", "rec", "instance_segmentation", "caption"])
def test_looking_on_changes_no_answer(model: UfoModel, task: str) -> None:
    asks = {"text": "the ball"} if task in ("res", "rec") else {}
    asks |= {"classes": ("red", "circle")} if task == "instance_segmentation" else {}
    predictor = Predictor(model, decode=DECODE)
    expected = predictor(tiny.image(), task, **asks)
    seen: list[tuple[str, ...]] = []
    sample = to_sample(tiny.image(), task, **asks)
    prediction, said = ask_closely(model, predictor.asked(task), DECODE, sample, seen.append)
    assert torch.equal(prediction.boxes, expected.boxes) and prediction.text == expected.text
    assert prediction.masks == expected.masks and torch.equal(prediction.scores, expected.scores)
    assert seen[-1] == said.texts and len(seen) > 1
    lengths = [sum(map(len, texts)) for texts in seen]
    assert lengths == sorted(lengths)  # a grammar may force a whole answer in the first pass
    assert len(slot_maps(said, prediction, model.codec, sample.size)) == len(prediction.masks or ())


def test_who_looks_on_may_stop_it(model: UfoModel) -> None:
    class Enough(Exception):
        pass

    calls: list[int] = []

    def stop(texts: tuple[str, ...]) -> None:
        calls.append(1)
        raise Enough

    sample = to_sample(tiny.image(), "caption")
    with pytest.raises(Enough):
        ask_closely(model, Predictor(model).asked("caption"), DECODE, sample, stop)
    assert len(calls) == 1


def test_the_folder_of_a_model_is_no_part_of_it(model: UfoModel, tmp_path: Path) -> None:
    """A saved model answers the same, maps included."""
    model.save(tmp_path / "saved")
    sample = to_sample(tiny.image(), "res", "the ball")
    maps = []
    for predictor in (Predictor(model), Predictor(tmp_path / "saved")):
        prediction, said = ask_closely(predictor.model, predictor.asked("res"), DECODE, sample)
        maps.append(slot_maps(said, prediction, model.codec, sample.size)[0])
    assert (maps[0] is None) == (maps[1] is None) and (maps[0] is None or torch.allclose(maps[0], maps[1], atol=1e-5))
