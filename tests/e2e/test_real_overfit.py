"""Real photographs and their real instance masks, from the files to the metric.

The recipe itself takes minutes and is marked slow: ``pytest -m slow tests/e2e/test_real_overfit.py``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from ufo_tune.config import Protocol, Recipe
from ufo_tune.core import masks
from ufo_tune.core.grid import assign, grid_points
from ufo_tune.data.open import open_dataset
from ufo_tune.engine.evaluate import evaluate_checkpoint
from ufo_tune.engine.train import train
from ufo_tune.models import tiny

PLACE = Path(os.environ.get("UFO_TUNE_REAL_DATA", ""), "coco128")
pytestmark = pytest.mark.skipif(
    not os.environ.get("UFO_TUNE_REAL_DATA") or not PLACE.is_dir(), reason="UFO_TUNE_REAL_DATA has no coco128"
)
PROTOCOLS = ("coco128_boxes", "coco128_masks")


def test_protocols_score_the_photographs_that_the_recipe_trains_on():
    recipe = Recipe.load("tiny_real_overfit")
    for entry, protocol in zip(recipe.data.mixture, map(Protocol.load, PROTOCOLS), strict=True):
        assert (entry.task, entry.template, entry.dataset) == (protocol.task, protocol.template, protocol.dataset)
        assert (entry.root, entry.options, (entry.split,)) == (protocol.root, protocol.options, protocol.splits)
        options = recipe.tasks[entry.task]
        assert all(options[name] == value for name, value in protocol.task_options.items())


def test_sixteen_photographs_whose_objects_all_have_a_grid_point_and_words():
    recipe = Recipe.load("tiny_real_overfit")
    entry = recipe.data.mixture[1]
    samples = open_dataset(entry.dataset, entry.root, entry.split, entry.task, entry.options)
    assert len(samples) == 16 and len(samples[0].classes) == 20
    options = recipe.tasks[entry.task]
    points = grid_points(options["rows"], options["cols"])
    found = 0
    for sample in samples:
        targets = sample.targets
        assert targets is not None and targets.masks is not None and (masks.area(targets.masks) >= 1024).all()
        height, width = sample.size
        boxes = targets.boxes / torch.tensor([width, height, width, height])
        bitmaps = torch.from_numpy(masks.decode_many(targets.masks, sample.size))
        answered = assign(points, boxes, bitmaps, repeat=options["repeat"])
        assert set(answered.tolist()) >= set(range(len(targets.boxes)))
        found += len(targets.boxes)
    assert found == 39
    model = recipe.model.options
    words = tiny.tokenizer(model["words"], model["integers"])
    asked = [*samples[0].classes, "background", "detect", "segment"]
    assert words.unk_token_id not in words(" ".join(asked))["input_ids"]


@pytest.mark.slow
def test_boxes_and_masks_of_real_photographs_are_learnt_by_heart(tmp_path):
    train(Recipe.load("tiny_real_overfit"), tmp_path / "run", progress=False)
    results = evaluate_checkpoint(tmp_path / "run", PROTOCOLS, progress=False)
    for name in PROTOCOLS:
        scores = results[name]["train2017"]
        assert scores["n"] == 16 and scores["invalid"] == 0
        assert scores["AP50"] >= 0.9, results
