"""Real RGB-D frames and their real depth, from the files to the metric.

The recipe itself takes minutes and is marked slow: ``pytest -m slow tests/e2e/test_rgbd.py``.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ufo_tune.config import Recipe
from ufo_tune.core.codec import Codec
from ufo_tune.data.open import open_dataset
from ufo_tune.engine.predict import Predictor
from ufo_tune.engine.train import train
from ufo_tune.metrics.depth_error import Metric

REAL = Path(os.environ.get("UFO_TUNE_REAL_DATA", ""), "open3d_rgbd")
pytestmark = pytest.mark.skipif(
    not os.environ.get("UFO_TUNE_REAL_DATA") or not REAL.is_dir(), reason="UFO_TUNE_REAL_DATA has no open3d_rgbd"
)


def test_the_recipe_s_codec_can_say_the_frames_depth() -> None:
    recipe = Recipe.load("rgbd_overfit")
    (entry,) = recipe.data.mixture
    samples = open_dataset(entry.dataset, entry.root, entry.split, entry.task, entry.options)
    near, far = Codec.from_dict({**Codec().to_dict(), **recipe.model.codec}).depth_range
    assert len(samples) == 5
    for sample in samples:
        assert sample.targets is not None and sample.targets.depth is not None and sample.size == (480, 640)
        depth = sample.targets.depth[sample.targets.depth > 0]
        assert len(depth) > 0.8 * 480 * 640 and near < depth.min() < depth.max() < far


@pytest.mark.slow
def test_the_depth_of_real_frames_is_learnt_by_heart(tmp_path: Path) -> None:
    recipe = Recipe.load("rgbd_overfit")
    train(recipe, tmp_path / "run", progress=False)
    (entry,) = recipe.data.mixture
    samples = open_dataset(entry.dataset, entry.root, entry.split, entry.task, entry.options)
    predictor, learnt, constant = Predictor(tmp_path / "run"), Metric(), Metric()
    metres = np.concatenate([s.targets.depth[s.targets.depth > 0] for s in samples])
    for sample in samples:
        said = predictor(sample.image, "depth")
        learnt.update(sample, said)
        constant.update(sample, type(said)(depth=np.full(sample.size, np.median(metres), np.float32)))
    scores = learnt.compute()
    assert scores["invalid"] == 0 and scores["AbsRel"] < 0.08 < 0.2 < constant.compute()["AbsRel"]
