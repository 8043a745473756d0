"""Every YAML that ships loads, and every name in it resolves."""

from pathlib import Path

import pytest

from ufo_tune import plugins, resources, templates
from ufo_tune.config import Protocol, Recipe
from ufo_tune.core.codec import Codec
from ufo_tune.engine.sources import ask
from ufo_tune.engine.suites import parse_suites
from ufo_tune.engine.trainable import check_objectives

ROOT = Path(__file__).resolve().parents[2]
RECIPES, PROTOCOLS, TEMPLATES = (resources.names(k) for k in ("recipes", "eval", "data_templates"))


@pytest.fixture(autouse=True)
def variables(monkeypatch):
    """Recipes may name the user's folders; their names must resolve without them."""
    for path in ROOT.glob("*/*.yaml"):
        for part in path.read_text().split("${")[1:]:
            monkeypatch.setenv(part.partition("}")[0], "somewhere")


def test_there_are_enough():
    """A glob that finds nothing would pass every test below."""
    assert len(RECIPES) >= 2 and len(PROTOCOLS) >= 5 and len(TEMPLATES) >= 5
    found = [p for k in ("recipes", "eval", "data_templates") for p in (ROOT / k).rglob("*.yaml")]
    flat = len(RECIPES) + len(PROTOCOLS) + len(TEMPLATES)
    assert flat == len([p for p in found if p.parent.name != "accelerate"])


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name):
    recipe = Recipe.load(name)
    path = resources.locate("recipes", name)
    assert len(path.read_text().splitlines()) <= 60
    assert path.read_text().startswith("#"), "starts with what it trains, the command and the hardware"
    assert recipe.description and recipe.expected
    plugins.find("models", recipe.model.family)
    Codec.from_dict({**Codec().to_dict(), **recipe.model.codec})
    check_objectives(recipe.objectives, (entry.task for entry in recipe.data.mixture))
    for entry in recipe.data.mixture:
        ask(entry.task, entry.template, recipe.tasks.get(entry.task, {}))
        check_dataset(entry.dataset, entry.task, entry.options)
    for task, options in recipe.tasks.items():
        ask(task, "", options)
    assert set(parse_suites(recipe.eval.protocols) if recipe.eval.protocols else ()) <= set(PROTOCOLS)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocol(name):
    protocol = Protocol.load(name)
    ask(protocol.task, protocol.template, protocol.task_options)
    check_dataset(protocol.dataset, protocol.task, protocol.options)
    plugins.check_options(protocol.metric, plugins.find("metrics", protocol.metric).Metric, protocol.metric_options)
    assert {row["split"] for row in protocol.reference} <= set(protocol.splits)


@pytest.mark.parametrize("name", TEMPLATES)
def test_template(name):
    template = templates.load(name)
    assert template.task in plugins.names("tasks")
    assert "name" not in resources.read_yaml(resources.locate("data_templates", name)), "the file's name is its name"


def test_every_task_has_its_default_template():
    for name in plugins.names("tasks"):
        assert ask(name, "", {}).template.task == name


def check_dataset(name, task, options):
    module = plugins.find("datasets", name)
    assert task in module.TASKS
    plugins.check_options(name, module.load, {"task": task, **options})
