"""Quickstart and showcase are one path: what they measure, and which recipe each command runs."""

from pathlib import Path

import pytest

from ufo_tune import cli, quickstart
from ufo_tune.config import Protocol, Recipe
from ufo_tune.core.codec import Codec
from ufo_tune.datasets import scenes

POINTING = {"rec", "res", "detection", "instance_segmentation"}


def trained(name):
    return {entry.task for entry in Recipe.load(name).data.mixture}


def test_the_quickstart_points_and_talks_and_the_showcase_does_everything():
    assert trained("quickstart") == POINTING | {"vqa"}
    assert trained("showcase") == POINTING | {"vqa", "semantic_segmentation", "depth", "caption"}
    assert trained("showcase") == set(quickstart.TASKS) == set(scenes.TASKS)


@pytest.mark.parametrize("task", quickstart.TASKS)
def test_protocols_of_scenes_hold_out_as_many_samples_as_are_measured(task):
    protocol = Protocol.load(f"scenes_{task}")
    samples = scenes.load("", "test", task=task, **protocol.options)
    assert protocol.task == task and len(samples) >= max(quickstart.TASKS[task].samples, quickstart.TASKS[task].before)


@pytest.mark.parametrize("name", ["quickstart", "showcase"])
def test_trained_as_it_is_measured(name):
    recipe = Recipe.load(name)
    for entry in recipe.data.mixture:
        protocol = Protocol.load(f"scenes_{entry.task}")
        assert (entry.dataset, entry.template, entry.split) == (protocol.dataset, protocol.template, "train")
        for key in ("rows", "cols", "fuse"):
            assert recipe.tasks.get(entry.task, {}).get(key) == protocol.task_options.get(key)


def test_every_depth_of_a_scene_can_be_said():
    near, far = Codec.from_dict({**Codec().to_dict(), **Recipe.load("showcase").model.codec}).depth_range
    depths = [scenes.scene(0, "train", k).depth() for k in range(40)]
    assert all(near < d.min() and d.max() < far for d in depths)


@pytest.mark.parametrize("name", ["quickstart", "showcase"])
def test_each_command_runs_its_recipe(name, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(quickstart, "quickstart", lambda *arguments: seen.append(arguments))
    assert cli.main([name, "--train.max_seconds", "9"]) == 0
    assert cli.main([name, "--out", "there"]) == 0
    assert seen == [(Path(name), {"train.max_seconds": "9"}, name), (Path("there"), {}, name)]
    assert capsys.readouterr().out.splitlines() == [f"report: {Path(name) / 'index.html'}", "report: there/index.html"]
