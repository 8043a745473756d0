"""Scenes are made, not read: only their number is given."""

from __future__ import annotations

from pathlib import Path

from tests.data_files import Call


def make(folder: Path) -> Call:
    """Six scenes."""
    return "", "val", {"size": 6}
