"""Plug-ins are files: found by name, refused with the nearest name, options checked by signature."""

import sys

import pytest

from ufo_tune import plugins
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
