"""The quickstart from end to end, with two steps of training: everything it promises is there and belongs together."""

import json

import pytest

from ufo_tune import Predictor, quickstart
from ufo_tune.config import Recipe
from ufo_tune.errors import ConfigError

pytestmark = pytest.mark.slow  # a training in processes of its own, five evaluations twice
SHORT = {"train.max_steps": "2", "train.max_seconds": "0", "train.warmup_steps": "0", "eval.every": "0"}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart") / "out"
    patch = pytest.MonkeyPatch()
    patch.setattr(quickstart, "SAMPLES", dict.fromkeys(quickstart.TASKS, 2))
    patch.setattr(quickstart, "BEFORE", dict.fromkeys(quickstart.TASKS, 1))
    quickstart.quickstart(folder, SHORT)
    patch.undo()
    return folder


def test_everything_that_the_summary_names_is_there(out):
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["before"]) == set(summary["after"]) == set(quickstart.TASKS)
    for task, metrics in quickstart.TASKS.items():
        assert set(metrics) | {"invalid"} == set(summary["after"][task])
    missing = [path for path in summary["artifacts"].values() if not (out / path).exists()]
    assert not missing
    assert summary["seconds"] == pytest.approx(sum(summary["phases"].values()), abs=0.1)
    assert not (out / "base").exists() and not (out / "run.yaml").exists(), "what only it needed is gone"


def test_the_run_is_the_recipe_with_the_overrides(out):
    trained = Recipe.load(str(out / "run" / "recipe.yaml"))
    assert trained.train.max_steps == 2 and trained.eval.every == 0
    assert trained.data == Recipe.load("quickstart").data
    assert [json.loads(line)["step"] for line in (out / "run" / "log.jsonl").read_text().splitlines()][-1] == 2


def test_the_merged_model_answers_its_example(out):
    prediction = Predictor(out / "merged")(out / "pictures" / "scene.png", "rec", text="the red circle")
    assert len(prediction.boxes) <= 1


def test_an_earlier_quickstart_is_not_overwritten(out):
    before = (out / "summary.json").read_bytes()
    with pytest.raises(ConfigError, match="is not empty; choose another --out"):
        quickstart.quickstart(out)
    assert (out / "summary.json").read_bytes() == before
