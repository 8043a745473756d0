"""Wheel and sdist, installed by pip into an environment that has nothing else of ours, do a quickstart on their own.

The environment borrows the dependencies of this one by a path file, so that nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
QUICK = """
from dataclasses import replace
from pathlib import Path
import ufo_tune
from ufo_tune import quickstart
assert Path(ufo_tune.__file__).is_relative_to(Path.cwd()), ufo_tune.__file__
quickstart.TASKS.update({name: replace(t, samples=2, before=1) for name, t in quickstart.TASKS.items()})
short = {"train.max_steps": "2", "train.max_seconds": "0", "train.warmup_steps": "0", "eval.every": "0"}
quickstart.quickstart(Path("quickstart"), short)
"""


def run(*command: str | Path, where: Path) -> str:
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([str(c) for c in command], cwd=where, env=clean, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-4000:])
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, where=ROOT)  # both
    return folder


@pytest.mark.parametrize("kind", ["whl", "tar.gz"])
def test_installs_and_works_alone(built, kind, tmp_path):
    (package,) = built.glob(f"*.{kind}")
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env", where=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", where=tmp_path).strip())
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--quiet", "--no-deps", "--no-build-isolation", "--force-reinstall", package, where=tmp_path)
    command = tmp_path / "env" / "bin" / "ufo-tune"
    assert run(command, "--version", where=tmp_path).split()[-1] == "0.1.0"
    assert "quickstart" in run(command, "recipes", "ls", where=tmp_path)
    if kind == "whl":
        run(python, "-c", QUICK, where=tmp_path)
        assert json.loads((tmp_path / "quickstart" / "summary.json").read_text())["n"]
