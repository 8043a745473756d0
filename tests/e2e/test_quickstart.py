"""Quickstart and showcase from end to end, with two steps of training: all they promise is there and fits together."""

import json
from dataclasses import replace

import pytest

import ufo_tune
from ufo_tune import quickstart
from ufo_tune.config import Recipe
from ufo_tune.datasets.scenes import LABELS
from ufo_tune.errors import ConfigError

pytestmark = pytest.mark.slow  # each a training in processes of its own, and every evaluation twice
SHORT = {"train.max_steps": "2", "train.max_seconds": "0", "train.warmup_steps": "0", "eval.every": "0"}


TASKS = {
    "quickstart": {"rec", "res", "detection", "instance_segmentation", "vqa"},
    "showcase": set(quickstart.TASKS),
}


@pytest.fixture(scope="module", params=TASKS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def out(name, tmp_path_factory):
    folder = tmp_path_factory.mktemp(name) / "out"
    with pytest.MonkeyPatch.context() as patch:
        few = {task: replace(scored, samples=2, before=1) for task, scored in quickstart.TASKS.items()}
        patch.setattr(quickstart, "TASKS", few)
        quickstart.quickstart(folder, SHORT, name)
    return folder


def test_everything_that_the_summary_names_is_there(name, out):
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["before"]) == set(summary["after"]) == set(summary["n"]) == TASKS[name]
    for task, metrics in summary["after"].items():
        assert set(metrics) == {*quickstart.TASKS[task].metrics, "invalid"}
    missing = [path for path in summary["artifacts"].values() if not (out / path).exists()]
    assert not missing
    assert summary["seconds"] == pytest.approx(sum(summary["phases"].values()), abs=0.1)
    assert not (out / "base").exists() and not (out / "run.yaml").exists(), "what only it needed is gone"


def test_the_run_is_the_recipe_with_the_overrides(name, out):
    trained = Recipe.load(str(out / "run" / "recipe.yaml"))
    assert trained.train.max_steps == 2 and trained.eval.every == 0
    assert trained.data == Recipe.load(name).data
    assert [json.loads(line)["step"] for line in (out / "run" / "log.jsonl").read_text().splitlines()][-1] == 2


def test_the_merged_model_answers_its_example(name, out):
    model, scene = ufo_tune.load(out / "merged"), out / "pictures" / "scene.png"
    assert set(model.tasks) == TASKS[name]
    assert len(model.locate(scene, "the red circle").boxes) <= 1
    if name == "showcase":
        assert model.semantic(scene, LABELS).label_map.max() < len(LABELS)
        near, far = Recipe.load(name).model.codec["depth_range"]
        assert ((depth := model.depth(scene).depth) > near).all() and (depth < far).all()
        assert model.caption(scene).text


def test_the_page_names_every_task(name, out):
    page = (out / "index.html").read_text()
    assert all(f"<td>{task}</td>" in page for task in TASKS[name])


def test_an_earlier_quickstart_is_not_overwritten(out):
    before = (out / "summary.json").read_bytes()
    with pytest.raises(ConfigError, match="is not empty; choose another --out"):
        quickstart.quickstart(out)
    assert (out / "summary.json").read_bytes() == before
