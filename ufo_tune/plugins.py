"""Plug-ins are files: ``find("tasks", "rec")`` imports ``ufo_tune/tasks/rec.py``; ``ls`` is the registry.

A plug-in out of tree is written ``my_package.my_module`` with at least one dot. Names with a leading underscore are
plumbing and are not listed.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
import os
import pkgutil
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from numbers import Integral, Real
from types import ModuleType, NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from ufo_tune.core.imports import uncollected
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


_SCALARS: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((Integral,), "a whole number"),
    float: ((Real,), "a number"),
    str: ((str, os.PathLike), "text"),
    NoneType: ((NoneType,), "null"),
}
"""Annotation -> what may stand for it, and its name in messages."""


class Between(NamedTuple):
    """Bounds of an option, both allowed: ``threshold: Annotated[float, Between(0, 1)]``."""

    low: float
    high: float = math.inf


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
    if "." in name and all(part.isidentifier() for part in name.split(".")):  # `.res` would be a relative import
        try:
            module = uncollected(name)
        except ModuleNotFoundError as error:
            raise ConfigError(f"{kind}: no module (got {name!r}: {error}); install it or mend the name") from error
    elif name not in names(kind):
        raise ConfigError(f"{kind}: no such name (got {name!r}); {did_you_mean(name, names(kind))}")
    else:
        module = uncollected(f"ufo_tune.{kind}.{name}")
    missing = [n for n in REQUIRED[kind] if not hasattr(module, n)]
    if missing:
        raise ConfigError(f"{kind}/{name}: lacks {', '.join(missing)}; every file of {kind}/ defines {REQUIRED[kind]}")
    return module


def check_options(where: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuse options that ``function`` does not take as keyword-only arguments, before data or weights are touched.

    Raises:
        ConfigError: an unknown option, one of another kind or out of bounds, or a required one is missing.
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
    check_values(where, function, options)


def check_values(where: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuse values that are no such thing as the annotations of ``function`` say, or out of their bounds.

    Numbers, texts, booleans, lists and mappings of them are told apart; which texts there are to choose from is the
    function's own to say, and other annotations take anything.

    Raises:
        ConfigError: naming the first such option.
    """
    try:
        parameters = inspect.signature(function, eval_str=True).parameters
    except NameError:  # an annotation that only a type checker can resolve: then none of them can be looked at
        return
    for name, value in options.items():
        wanted = parameters[name].annotation if name in parameters else Any
        if not _fits(value, wanted):
            hint = "; YAML takes a number for text unless it has a point, as in 1.0e-4" if _looks_like(value) else ""
            raise ConfigError(f"{where}.{name}: is of the wrong kind (got {value!r}); give {_called(wanted)}{hint}")
        for low, high in (m for m in get_args(wanted) if isinstance(m, Between)):
            if not low <= value <= high:
                allowed = f"{low:g} or more" if math.isinf(high) else f"{low:g} to {high:g}"
                raise ConfigError(f"{where}.{name}: is out of range (got {value!r}); give {allowed}")


def _fits(value: Any, wanted: Any) -> bool:
    origin, parts = get_origin(wanted), get_args(wanted)
    if isinstance(wanted, type) and wanted in _SCALARS:
        kinds, _ = _SCALARS[wanted]
        return isinstance(value, kinds) and (wanted is bool or not isinstance(value, bool))
    if origin is Annotated:
        return _fits(value, parts[0])
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:  # a choice that does not exist is told by the function, which names what there is
        return any(isinstance(value, type(choice)) for choice in parts)
    if not isinstance(origin, type) or not issubclass(origin, Collection):
        return True
    if issubclass(origin, Mapping):
        key, item = parts
        return isinstance(value, Mapping) and all(_fits(k, key) and _fits(v, item) for k, v in value.items())
    if isinstance(value, str | Mapping) or not isinstance(value, Collection):
        return False
    return len(parts) != 1 or not isinstance(value, list | tuple) or all(_fits(v, parts[0]) for v in value)


def _called(wanted: Any) -> str:
    """An annotation in words."""
    origin, parts = get_origin(wanted), get_args(wanted)
    if isinstance(wanted, type) and wanted in _SCALARS:
        return _SCALARS[wanted][1]
    if origin is Annotated:
        return _called(parts[0])
    if origin is Literal:
        return " or ".join(map(str, parts))
    if origin in (Union, UnionType):
        return ", or ".join(map(_called, parts))
    return "a mapping" if issubclass(origin, Mapping) else "a list"


def _looks_like(value: Any) -> bool:
    """Whether a text is what a person would call a number with an exponent."""
    return isinstance(value, str) and re.fullmatch(r"[-+]?\d+[eE][-+]?\d+", value) is not None
