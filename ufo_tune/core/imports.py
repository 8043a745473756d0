"""Import a module and the large libraries behind it in less time."""

from __future__ import annotations

import gc
import importlib
from types import ModuleType


def uncollected(name: str) -> ModuleType:
    """``importlib.import_module`` while Python collects no garbage.

    A module makes many objects that stay, and each collection walks all that came before: with torch and transformers
    that takes time (``scripts/bench/first_mask.py``).

    Raises:
        ImportError: as ``import`` does.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        if was_on:
            gc.enable()
