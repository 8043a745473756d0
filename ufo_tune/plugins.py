"""Plug-ins are files: ``find("tasks", "rec")`` imports ``ufo_tune/tasks/rec.py``; ``ls`` is the registry.

A plug-in out of tree is written ``my_package.my_module`` with at least one dot. Names with a leading underscore are
plumbing and are not listed.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from ufo_tune.errors import ConfigError

REQUIRED: dict[str, tuple[str, ...]] = {
    "tasks": ("encode", "decode"),
    "datasets": ("load", "TASKS"),
    "models": ("build",),
    "objectives": ("Objective", "TERMS"),
    "metrics": ("Metric",),
}
"""What a plug-in of each kind must define."""

_PLUMBING = {
    "models": {
        "base", "released", "processor", "tiles", "ufo", "local", "generate", "lora", "tiny", "shared_prefix",
        "vision_cache", "flex", "stretches", "new_tokens",
    }
}  # fmt: skip


def names(kind: str) -> list[str]:
    """Sorted names of the plug-ins of one kind that are installed."""
    return [n for n in modules(importlib.import_module(f"ufo_tune.{kind}")) if n not in _PLUMBING.get(kind, set())]


def modules(package: ModuleType) -> list[str]:
    """Sorted names of a package's files, without those of a leading underscore."""
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The tail of an error message: the nearest known name, and all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(known)}"


def find(kind: str, name: str) -> ModuleType:
    """Import one plug-in and check that it defines what its kind needs.

    Raises:
        ConfigError: no such plug-in, or it lacks a required name.
    """
    if "." in name:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise ConfigError(f"{kind}: no module (got {name!r}: {error}); install it or mend the name") from error
    elif name not in names(kind):
        raise ConfigError(f"{kind}: no such name (got {name!r}); {did_you_mean(name, names(kind))}")
    else:
        module = importlib.import_module(f"ufo_tune.{kind}.{name}")
    missing = [n for n in REQUIRED[kind] if not hasattr(module, n)]
    if missing:
        raise ConfigError(f"{kind}/{name}: lacks {', '.join(missing)}; every file of {kind}/ defines {REQUIRED[kind]}")
    return module


def check_options(where: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuse options that ``function`` does not take as keyword-only arguments, before data or weights are touched.

    Raises:
        ConfigError: an unknown option, or a required one is missing.
    """
    parameters = {
        n: p for n, p in inspect.signature(function).parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY
    }
    for name in options:
        if name not in parameters:
            raise ConfigError(
                f"{where}.{name}: no such option (got {options[name]!r}); {did_you_mean(name, parameters)}"
            )
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in options:
            raise ConfigError(f"{where}.{name}: is required (got nothing); add it")
