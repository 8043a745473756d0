"""Imports that collect no garbage leave the collector as it was."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from ufo_tune.core.imports import uncollected

MODULE = "import gc\nmeanwhile = gc.isenabled()\n"


@pytest.mark.parametrize("on", [True, False])
def test_the_collector_rests_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on: bool) -> None:
    name = f"uncollected_{on}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / f"{name}_broken.py").write_text("raise ImportError('broken')")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        if not on:
            gc.disable()
        assert not uncollected(name).meanwhile
        assert gc.isenabled() is on
        with pytest.raises(ImportError, match="broken"):
            uncollected(f"{name}_broken")
        assert gc.isenabled() is on
    finally:
        gc.enable()
