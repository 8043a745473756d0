"""Teach a vision-language model to point.

Layers: core < plugins, templates, config < datasets | tasks | models | objectives | metrics < data < engine
< api < cli. Public names are imported when first used, so that ``import ufo_tune`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ufo_tune.api.model import Model, load
    from ufo_tune.api.pipeline import pipeline
    from ufo_tune.api.result import Result
    from ufo_tune.config import Protocol, Recipe
    from ufo_tune.engine.evaluate import evaluate
    from ufo_tune.engine.train import train

__version__ = "0.1.0"

_PUBLIC = {
    "Recipe": "ufo_tune.config",
    "Protocol": "ufo_tune.config",
    "train": "ufo_tune.engine.train",
    "evaluate": "ufo_tune.engine.evaluate",
    "load": "ufo_tune.api.model",
    "pipeline": "ufo_tune.api.pipeline",
    "Model": "ufo_tune.api.model",
    "Result": "ufo_tune.api.result",
}
__all__ = ["Model", "Protocol", "Recipe", "Result", "evaluate", "load", "pipeline", "train"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ufo_tune' has no attribute {name!r}")
    from ufo_tune.core.imports import uncollected

    return getattr(uncollected(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
