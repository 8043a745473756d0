"""Model and objectives as the one module that is trained."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from ufo_tune import plugins
from ufo_tune.core.types import Batch, LossTerm
from ufo_tune.errors import ConfigError
from ufo_tune.models.ufo import UfoModel
from ufo_tune.objectives._base import Calls, ObjectiveProtocol

_BLANK = 64
"""Side of the picture shown where there is none, in pixels."""


def check_objectives(options: Mapping[str, Mapping[str, Any]], tasks: Iterable[str] = ()) -> None:
    """Refuse a recipe's objectives before anything is loaded.

    Args:
        options: objective -> its options.
        tasks: what is trained; the maps in their answers (``SLOTS`` of their files) must be those of some objective.

    Raises:
        ConfigError: an unknown objective or option, two objectives with a term of the same name, or none for a task's
            maps.
    """
    owner: dict[str, str] = {}
    for name, given in options.items():
        module = plugins.find("objectives", name)
        plugins.check_options(f"objectives.{name}", module.Objective, given)
        for term in module.TERMS:
            if term in owner:
                raise ConfigError(
                    f"objectives.{name}: has a term of the same name as objectives.{owner[term]} (got {term!r}); "
                    "use one of the two, or rename the term in the file that is yours"
                )
            owner[term] = name
    trained = {kind for name in options for kind in _slots("objectives", name)}
    for task in dict.fromkeys(tasks):
        for kind in _slots("tasks", task):
            if kind not in trained:
                able = [n for n in plugins.names("objectives") if kind in _slots("objectives", n)]
                raise ConfigError(
                    f"objectives: none trains the {kind} slots of task {task} (got {', '.join(options) or 'none'}); "
                    f"add {' or '.join(able) or 'one that does'}"
                )


def _slots(kind: str, name: str) -> tuple[str, ...]:
    found: tuple[str, ...] = getattr(plugins.find(kind, name), "SLOTS", ())
    return found


def _built(name: str, options: Mapping[str, Any], width: int) -> nn.Module:
    """An objective; one with layers of its own on the model's states is told their width."""
    kind = plugins.find("objectives", name).Objective
    told = [p for p in inspect.signature(kind).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    made: nn.Module = kind(width, **options) if told else kind(**options)
    return made


class Trainable(nn.Module):
    """What accelerate wraps, so that every parameter is behind one forward.

    Args:
        model: whose parameters train.
        options: objective -> its options.
        in_step: the most of a number over all processes, where they exchange weights or gradients module by module: one
            that leaves a module out lets the others wait for ever. The vision tower then runs on batches without images
            too, and objectives call the head equally often.
    """

    def __init__(
        self, model: UfoModel, options: Mapping[str, Mapping[str, Any]], *, in_step: Calls | None = None
    ) -> None:
        super().__init__()
        check_objectives(options)
        self.model = model
        self._always_see = in_step is not None
        hf: Any = model.vlm.hf
        there = {type(module).__name__ for module in hf.modules()}  # a class may list layers of towers it could have
        self._no_split_modules = sorted(there & set(hf._no_split_modules or ()))  # what FSDP gathers at a time
        self.objectives = nn.ModuleDict(  # modules have no dots in their names, those out of tree do
            {n.replace(".", "/"): _built(n, o, model.vlm.width) for n, o in options.items()}
        )
        for objective in self.objectives.values():
            if in_step is not None and hasattr(objective, "calls"):
                setattr(objective, "calls", in_step)  # noqa: B010 - a module's type knows no functions

    def forward(self, batch: Batch) -> dict[str, LossTerm]:
        """All loss terms of a batch by name; no two objectives share one."""
        before = [t for o in self._each() for t in o.before(batch)]
        if self._always_see and not batch.pixels:
            before.insert(0, self._see)
        output = self.model(batch, before)
        terms: dict[str, LossTerm] = {}
        for objective in self._each():
            terms |= objective(batch, output, lambda extra: self.model(batch, [*before, *extra]))
        return terms

    def _see(self, embeds: Tensor, batch: Batch) -> Tensor:
        """Embeddings as they are, after a look at a black picture, where the image features would have come in."""
        processor, picture = self.model.processor, np.zeros((_BLANK, _BLANK, 3), dtype=np.uint8)
        pixels = processor.join_pixels([processor.pixels(picture, processor.plan(picture.shape[:2]))])
        features, _ = self.model.vlm.image_features({name: value.to(embeds.device) for name, value in pixels.items()})
        return embeds + 0.0 * features.sum().to(embeds.dtype)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """What each term is divided by; known before the pass."""
        return {k: v for o in self._each() for k, v in o.counts(batch).items()}

    def _each(self) -> list[ObjectiveProtocol]:
        return [cast(ObjectiveProtocol, o) for o in self.objectives.values()]
