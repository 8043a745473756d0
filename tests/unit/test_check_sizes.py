"""The gate itself: each rule has one case that it must catch and one that it must let pass."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts import check_sizes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def faults(tmp_path):
    """Check a tree of one file."""

    def faults(where: str, text: str) -> list[str]:
        path = tmp_path / where
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return check_sizes.check(tmp_path)

    return faults


def function(lines: int, docstring: int = 0) -> str:
    doc = '    """Doc.' + "\n" * docstring + '    """\n' if docstring else ""
    return "def f():\n" + doc + "    x = 1\n" * lines


def test_file_length(faults):
    assert faults("ufo_tune/core/a.py", "x = 1\n" * 400) == []
    assert faults("ufo_tune/core/a.py", "x = 1\n" * 401) == [
        "ufo_tune/core/a.py:1: 401 lines (at most 400); split it in two"
    ]


def test_function_length_without_docstring(faults):
    assert faults("tests/test_a.py", function(60, docstring=30)) == []
    (fault,) = faults("tests/test_a.py", function(61))
    assert fault.startswith("tests/test_a.py:1: body of f has 61 lines")


def test_name_that_says_nothing(faults):
    (fault,) = faults("scripts/utils.py", "x = 1\n")
    assert "utils.py says nothing" in fault


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("core/a.py", "import numpy as np"),
        ("core/a.py", "from ufo_tune.errors import DataError"),
        ("core/a.py", "from . import boxes"),
        ("tasks/a.py", "from ufo_tune.core.types import Sample"),
        ("tasks/a.py", "from . import _grid"),
        ("models/a.py", "from ufo_tune.config import DecodeSection"),
        ("models/a.py", "from ufo_tune import __version__"),
        ("data/a.py", "from ufo_tune.models.base import VLMProcessor"),
        ("engine/a.py", "from ufo_tune.config import Recipe"),
        ("quickstart.py", "from ufo_tune.engine.train import train"),
        ("commands/a.py", "from ufo_tune.quickstart import quickstart"),
    ],
)
def test_imports_that_point_down(faults, where, line):
    assert faults(f"ufo_tune/{where}", line + "\n") == []


@pytest.mark.parametrize(
    ("where", "line", "says"),
    [
        ("core/a.py", "import transformers", "core is pure"),
        ("core/a.py", "from ufo_tune.tasks import rec", "must not import tasks"),
        ("core/a.py", "from ..tasks import rec", "must not import tasks"),
        ("core/a.py", "from ufo_tune import config", "must not import config"),
        ("core/a.py", "def f():\n    import ufo_tune.engine.train", "must not import engine"),
        ("tasks/a.py", "from ufo_tune.models import base", "plug-in kinds meet only"),
        ("metrics/a.py", "if 1:\n    from ufo_tune.tasks.rec import decode", "plug-in kinds meet only"),
        ("data/a.py", "from ufo_tune.config import MixtureEntry, Recipe", "must not read Recipe"),
        ("engine/a.py", "from ufo_tune.cli import main", "must not import cli"),
        ("engine/a.py", "from ufo_tune import train", "must not import __init__"),
        ("novel/a.py", "x = 1", "is in no layer"),
        ("engine/a.py", "import ufo_tune.novel", "is in no layer"),
    ],
)
def test_imports_that_do_not(faults, where, line, says):
    (fault,) = faults(f"ufo_tune/{where}", line + "\n")
    assert fault.startswith(f"ufo_tune/{where}:") and says in fault


def test_exit_code_and_output(tmp_path):
    (tmp_path / "ufo_tune").mkdir()
    (tmp_path / "ufo_tune" / "cli.py").write_text("x = 1\n" * 401)
    gate = [sys.executable, str(ROOT / "scripts" / "check_sizes.py")]
    bad = subprocess.run([*gate, str(tmp_path)], capture_output=True, text=True)
    assert bad.returncode == 1 and bad.stdout.endswith("check_sizes: 1 files, 1 faults\n")


def test_this_checkout_passes():
    assert check_sizes.check(ROOT) == []
