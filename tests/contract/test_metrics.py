"""What every metric promises, for each file of ufo_tune/metrics."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ufo_tune import plugins
from ufo_tune.core import masks
from ufo_tune.core.types import Prediction, Sample, Targets

NAMES = plugins.names("metrics")
CLASSES = ("circle", "square")
SIZE = (40, 50)
BETTER_IS_LESS = {"RMSE", "AbsRel", "SqRel", "log10", "RMSElog", "SILog", "mean", "median"}

PERFECT = {"CIDEr": 10.0, "yes_ratio": 0.5}
"""What a perfect model has where that is not 1."""
TEXTS = {"pope": ("yes", "no")}
"""Answers by even and odd number, of metrics that take no others."""


def _pair(number: int, texts: tuple[str, str] | None = None) -> tuple[Sample, Prediction]:
    """A sample with truth of every kind, and what a perfect model would say of it."""
    bitmap = np.zeros((1, *SIZE), dtype=bool)
    bitmap[0, 3 : 20 + number, 4 : 30 - number] = True
    rles = masks.encode_many(bitmap)
    boxes, labels = masks.boxes_of(rles), torch.tensor([number % 2])
    label_map = np.where(bitmap[0], number % 2, 1 - number % 2).astype(np.int16)
    depth = np.where(bitmap[0], 1.0 + number, 5.0).astype(np.float32)
    normals = np.where(bitmap[0, ..., None], (0.0, 0.0, -1.0), (0.6, 0.0, -0.8)).astype(np.float32)  # [H, W, 3]
    text = texts[number % 2] if texts else f"a {CLASSES[number % 2]} on number {number}"
    targets = Targets(boxes, rles, labels, label_map=label_map, depth=depth, normals=normals, text=text)
    sample = Sample(
        np.zeros((*SIZE, 3), np.uint8), SIZE, "any", classes=CLASSES, targets=targets, source=f"made#{number}"
    )
    return sample, Prediction(boxes, rles, torch.tensor([0.5 + number / 20]), labels, label_map, depth, normals, text)


def _spoil(prediction: Prediction, number: int) -> Prediction:
    """Every third answer is shifted, every fourth is unreadable."""
    if number % 4 == 3:
        return Prediction(masks=(), invalid=1)
    if number % 3:
        return prediction
    maps = {name: np.roll(getattr(prediction, name), 2, axis=0) for name in ("label_map", "depth", "normals")}
    moved = masks.encode_many(np.roll(masks.decode_many(prediction.masks), 2, axis=1))
    return replace(prediction, boxes=prediction.boxes + 2, masks=moved, text=prediction.text + " or not", **maps)


def _build(name: str) -> object:
    return plugins.find("metrics", name).Metric()


def _run(name: str, numbers: list[int], change: Callable[[Prediction, int], Prediction] = lambda p, _: p) -> object:
    metric = _build(name)
    for number in numbers:
        sample, prediction = _pair(number, TEXTS.get(name))
        metric.update(sample, change(prediction, number))
    return metric


def _finite(values: dict[str, float]) -> bool:
    return all(math.isfinite(v) for v in values.values())


def test_there_are_metrics():
    assert {"rec_accuracy", "seg_iou", "coco_ap", "exact_match"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_perfect_is_one(name):
    values = _run(name, list(range(6))).compute()
    assert (values.pop("n"), values.pop("invalid")) == (6, 0)
    for key, value in values.items():
        if key.startswith("n_"):  # of classes, pixels, images: no score
            assert value >= 0
            continue
        wanted = 0.0 if key in BETTER_IS_LESS else PERFECT.get(key, 1.0)
        undefined = key in {"APm", "APl"} and value == plugins.find("metrics", name).UNDEFINED  # no such true object
        assert value == pytest.approx(wanted) or undefined, key


@pytest.mark.parametrize("name", NAMES)
def test_empty_is_numbers(name):
    values = _build(name).compute()
    assert (values["n"], values["invalid"]) == (0, 0)
    assert _finite(values)
    # No score of ours is below 0; a number that is stands for "not defined", and the metric says so.
    undefined = getattr(plugins.find("metrics", name), "UNDEFINED", None)
    assert {v for v in values.values() if v < 0} <= {undefined}


@pytest.mark.parametrize("name", NAMES)
def test_order_does_not_matter(name):
    numbers = list(range(9))
    forward, backward = (_run(name, order, _spoil).compute() for order in (numbers, numbers[::-1]))
    assert forward == backward
    assert forward["invalid"] == 2
    assert _finite(forward)


@pytest.mark.parametrize("name", NAMES)
def test_halves_merge_to_the_whole(name):
    numbers = list(range(9))
    left, right = _run(name, numbers[::2], _spoil), _run(name, numbers[1::2], _spoil)
    left.merge(right)
    left.merge(_build(name))
    assert left.compute() == _run(name, numbers, _spoil).compute()


@pytest.mark.parametrize("name", NAMES)
def test_spoilt_answers_score_less(name):
    perfect, spoilt = _run(name, list(range(9))).compute(), _run(name, list(range(9)), _spoil).compute()
    key = next(iter(perfect))
    assert (spoilt[key] > perfect[key]) if key in BETTER_IS_LESS else (spoilt[key] < perfect[key])


@pytest.mark.parametrize("name", [n for n in NAMES if hasattr(plugins.find("metrics", n).Metric, "curves")])
def test_curves_are_lines_of_numbers(name):
    curves = _run(name, list(range(9)), _spoil).curves()
    assert curves and not _build(name).curves()
    for x, y in curves.values():
        assert len(x) == len(y) > 1
        assert np.isfinite(x).all() and np.isfinite(y).all()
        assert (np.diff(x) > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_states_definition_and_source(name):
    text = plugins.find("metrics", name).__doc__
    assert "Definition:" in text or "Definition," in text
    assert "Source:" in text
