"""Plug-ins are files: found by name, refused with the nearest name, options checked by signature."""

import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Literal

import numpy as np
import pytest

from ufo_tune import plugins
from ufo_tune.config import Protocol
from ufo_tune.engine.evaluate import evaluate
from ufo_tune.engine.sources import ask
from ufo_tune.errors import ConfigError


def load(root: str, split: str, *, task: str, limit: int = 0) -> None:
    """A dataset's signature."""


@pytest.mark.parametrize("kind", sorted(plugins.REQUIRED))
def test_every_file_is_a_plugin(kind):
    names = plugins.names(kind)
    assert names == sorted(names) and names
    for name in names:
        module = plugins.find(kind, name)
        assert all(hasattr(module, required) for required in plugins.REQUIRED[kind])


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r"tasks: no such name \(got 'recc'\); did you mean 'rec'\? known: "):
        plugins.find("tasks", "recc")


@pytest.mark.parametrize("name", [".res", "../res", "res.", "a..b", "ufo tune.res"])
def test_dots_alone_make_no_module(name):
    with pytest.raises(ConfigError, match=r"tasks: no such name .*known: caption"):
        plugins.find("tasks", name)


def test_plugin_out_of_tree(tmp_path, monkeypatch):
    package = tmp_path / "ufo_tune_elsewhere"
    package.mkdir()
    (package / "good.py").write_text("TASKS = ('rec',)\ndef load(root, split, *, task): return []\n")
    (package / "bad.py").write_text("TASKS = ('rec',)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert plugins.find("datasets", "ufo_tune_elsewhere.good").TASKS == ("rec",)
    with pytest.raises(ConfigError, match="lacks load"):
        plugins.find("datasets", "ufo_tune_elsewhere.bad")
    with pytest.raises(ConfigError, match="no module"):
        plugins.find("datasets", "ufo_tune_elsewhere.absent")
    for name in [n for n in sys.modules if n.startswith("ufo_tune_elsewhere")]:
        monkeypatch.delitem(sys.modules, name)


def test_options_are_checked_by_signature():
    plugins.check_options("here", load, {"task": "rec", "limit": 3})
    with pytest.raises(ConfigError, match=r"here.limt: no such option \(got 3\); did you mean 'limit'\?"):
        plugins.check_options("here", load, {"task": "rec", "limt": 3})
    with pytest.raises(ConfigError, match=r"here.task: is required"):
        plugins.check_options("here", load, {})
    with pytest.raises(ConfigError, match="here.root"):  # positional arguments are no options
        plugins.check_options("here", load, {"task": "rec", "root": "x"})


def plug(
    *,
    count: int = 0,
    share: Annotated[float, plugins.Between(0, 1)] = 0.5,
    most: Annotated[int, plugins.Between(1)] = 1,
    on: bool = False,
    name: str = "",
    way: Literal["a", "b"] = "a",
    numbers: Sequence[int] = (),
    some: int | Sequence[int | str] = 0,
    table: Mapping[str, float] | None = None,
    shape: SimpleNamespace | None = None,
    free=None,
) -> None:
    """Options of every kind."""


@pytest.mark.parametrize(
    "given",
    [
        {"count": 3, "share": 1, "most": np.int64(7), "on": True, "name": Path("x"), "way": "c"},
        {"share": np.float32(0.5), "numbers": [1, 2], "some": 3, "table": {"a": 1, "b": 0.5}},
        {"numbers": (1,), "some": ["a", 3], "table": None, "shape": 1, "free": object()},
        {"numbers": np.arange(3), "some": []},
    ],
)
def test_values_that_fit_their_annotations(given):
    plugins.check_options("here", plug, given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"count": "many"}, "here.count: is of the wrong kind (got 'many'); give a whole number"),
        ({"count": 1.5}, "here.count: is of the wrong kind (got 1.5); give a whole number"),
        ({"count": True}, "here.count: is of the wrong kind (got True); give a whole number"),
        ({"count": None}, "here.count: is of the wrong kind (got None); give a whole number"),
        ({"share": "far"}, "here.share: is of the wrong kind (got 'far'); give a number"),
        ({"share": "1e-4"}, "(got '1e-4'); give a number; YAML takes a number for text unless it has a point"),
        ({"share": 1.5}, "here.share: is out of range (got 1.5); give 0 to 1"),
        ({"share": float("nan")}, "here.share: is out of range (got nan); give 0 to 1"),
        ({"most": -1}, "here.most: is out of range (got -1); give 1 or more"),
        ({"on": "yes"}, "here.on: is of the wrong kind (got 'yes'); give true or false"),
        ({"name": 3}, "here.name: is of the wrong kind (got 3); give text"),
        ({"way": ["a"]}, "here.way: is of the wrong kind (got ['a']); give a or b"),
        ({"numbers": "12"}, "here.numbers: is of the wrong kind (got '12'); give a list"),
        ({"numbers": [1, "2"]}, "here.numbers: is of the wrong kind (got [1, '2']); give a list"),
        ({"some": "3"}, "here.some: is of the wrong kind (got '3'); give a whole number, or a list"),
        ({"table": {"a": "b"}}, "here.table: is of the wrong kind (got {'a': 'b'}); give a mapping, or null"),
    ],
)
def test_values_of_another_kind_are_refused(given, says):
    with pytest.raises(ConfigError) as caught:
        plugins.check_options("here", plug, given)
    assert says in str(caught.value)


def test_annotations_that_nobody_can_resolve_take_anything():
    def load(*, count: int = 0, other: "Absent" = None) -> None:  # noqa: F821
        """As where a name is imported for type checkers alone."""

    plugins.check_options("here", load, {"count": "many", "other": 3})


@pytest.mark.parametrize("kind", sorted(plugins.REQUIRED))
def test_defaults_fit_their_annotations(kind):
    """Of every option of every plug-in; and every annotation resolves, so that values are looked at."""
    functions = {"tasks": ("encode", "decode"), "datasets": ("load",), "models": ("build",)}
    for name in plugins.names(kind):
        module = plugins.find(kind, name)
        for function in functions.get(kind, ("Objective",) if kind == "objectives" else ("Metric",)):
            found = inspect.signature(getattr(module, function), eval_str=True).parameters.values()
            options = {p.name: p.default for p in found if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}
            plugins.check_values(f"{kind}/{name}", getattr(module, function), options)


@pytest.mark.parametrize(
    ("task", "options", "says"),
    [
        ("res", {"threshold": 1.5}, "tasks.res.threshold: is out of range (got 1.5); give 0 to 1"),
        ("res", {"threshold": "half"}, "tasks.res.threshold: is of the wrong kind (got 'half'); give a number"),
        ("detection", {"max_per_image": -1}, "tasks.detection.max_per_image: is out of range (got -1); give 1 or more"),
        ("instance_segmentation", {"max_per_image": 0}, "max_per_image: is out of range (got 0); give 1 or more"),
        ("detection", {"rows": "ten"}, "tasks.detection.rows: is of the wrong kind (got 'ten'); give a whole number"),
    ],
)
def test_options_of_tasks_are_refused_before_anything_is_asked(task, options, says):
    with pytest.raises(ConfigError) as caught:
        ask(task, "", options)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("metric", "options"), [("gres_iou", {"min_pixels": "many"}), ("depth_error", {"max_depth": "far"})]
)
def test_options_of_metrics_in_a_protocol(metric, options, tmp_path):
    protocol = Protocol.from_dict({"task": "res", "dataset": "scenes", "metric": metric, "splits": ["val"]})
    given = protocol.model_copy(update={"metric_options": options})
    (name,) = options
    with pytest.raises(ConfigError, match=rf"metrics/{metric}.{name}: is of the wrong kind"):
        evaluate(SimpleNamespace(), given, out=tmp_path)
