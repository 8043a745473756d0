"""README's path from nothing to a page that others load, followed literally in an empty folder.

What a test must do otherwise: the package is installed already, steps and samples are few, and the Hub is on loopback.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.hub_server import Hub
from ufo_tune import quickstart

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
SHORT = {"train.max_steps": "2", "train.max_seconds": "0", "train.warmup_steps": "0", "eval.every": "0"}


def path() -> tuple[list[str], str]:
    """The commands of the section, and its Python."""
    text = README.read_text(encoding="utf-8").split("<!-- path -->")[1]
    commands, code = re.findall(r"```(?:sh|python)\n(.*?)```", text, flags=re.S)[:2]
    return commands.strip().splitlines(), code


def quick(patch: pytest.MonkeyPatch) -> None:
    """``ufo-tune quickstart``, with few samples."""
    patch.setattr(quickstart, "TASKS", {n: replace(t, samples=2, before=1) for n, t in quickstart.TASKS.items()})
    quickstart.quickstart(Path("quickstart"), SHORT)


def run(*words: str) -> None:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-4000:])


def test_a_stranger_gets_from_nothing_to_a_published_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (install, *commands), code = path()
    assert install == "pip install ufo-tune" and len(commands) >= 9
    with Hub({"hf_stranger": "my-name"}) as hub:
        settings = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_stranger", "HF_HOME": str(tmp_path / "hf")}
        for name, value in {**settings, "HF_HUB_DISABLE_XET": "1"}.items():  # the server has files, no chunks of them
            monkeypatch.setenv(name, value)
        for line in commands:
            words = ["2" if word == "100" else word for word in shlex.split(line)]  # steps, for a test's patience
            if words[0] == "export":
                monkeypatch.setenv(*words[1].split("="))
            elif line == "ufo-tune quickstart":
                quick(monkeypatch)
            else:
                assert words[0] == "ufo-tune"
                run("-m", "ufo_tune", *words[1:])
        assert hub.files("my-name/points").keys() >= {"README.md", "config.json", "model.safetensors"}
        run("-c", code)
    assert np.asarray(Image.open("seen.png")).shape[2] == 3
