"""From a recipe's ``data`` and ``tasks`` sections to a stream of batches."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from ufo_tune import plugins, templates
from ufo_tune.config import MixtureEntry, Recipe
from ufo_tune.core.types import Batch, Samples
from ufo_tune.data.augment import Augment
from ufo_tune.data.collate import Collator
from ufo_tune.data.loader import Loader
from ufo_tune.data.mixture import Mixture
from ufo_tune.errors import ConfigError
from ufo_tune.models.ufo import UfoModel
from ufo_tune.templates import Template


@dataclass(slots=True)
class Asked:
    """A task with its wording and options: what training, evaluation and prediction all start from."""

    task: ModuleType
    template: Template
    encode_options: dict[str, Any]
    decode_options: dict[str, Any]


def ask(task: str, template: str, options: Mapping[str, Any]) -> Asked:
    """Resolve a task, its template and options (each goes to ``encode``, ``decode`` or both, by signature).

    Raises:
        ConfigError: unknown task, template or option, or a template of another task.
    """
    module = plugins.find("tasks", task)
    found = templates.load(template or module.TEMPLATE)
    if found.task != task:
        raise ConfigError(f"template {found.name}: is for task {found.task} (got task {task}); choose another")
    takes = {f: set(inspect.signature(getattr(module, f)).parameters) for f in ("encode", "decode")}
    known = {
        n
        for f in takes
        for n, p in inspect.signature(getattr(module, f)).parameters.items()
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    }
    for name in options:
        if name not in known:
            raise ConfigError(f"tasks.{task}.{name}: no such option; {plugins.did_you_mean(name, known)}")
    chosen = {f: {k: v for k, v in options.items() if k in takes[f]} for f in takes}
    return Asked(module, found, chosen["encode"], chosen["decode"])


def open_dataset(name: str, root: str, split: str, task: str, options: Mapping[str, Any]) -> Samples:
    """Load one dataset for one task.

    Raises:
        ConfigError: unknown dataset or option, or a task that the dataset does not serve.
    """
    samples: Samples = find_dataset(name, task, options).load(root, split, task=task, **options)
    return samples


def find_dataset(name: str, task: str, options: Mapping[str, Any]) -> ModuleType:
    """The dataset's module, its task and options checked; no file is opened.

    Raises:
        ConfigError: see ``open_dataset``.
    """
    module = plugins.find("datasets", name)
    if task not in module.TASKS:
        raise ConfigError(f"datasets/{name}: has no task {task!r}; it has {', '.join(module.TASKS)}")
    plugins.check_options(f"datasets/{name}", module.load, {"task": task, **options})
    return module


class Sources:
    """The mixture of a recipe as a resumable ``loader``."""

    def __init__(self, recipe: Recipe, model: UfoModel, rank: int = 0, world: int = 1) -> None:
        data, section = recipe.data, recipe.train
        self.entries: tuple[MixtureEntry, ...] = data.mixture
        self.asked = [ask(e.task, e.template, recipe.tasks.get(e.task, {})) for e in self.entries]
        self.samples = [open_dataset(e.dataset, e.root, e.split, e.task, e.options) for e in self.entries]
        augment = Augment(**data.augment) if data.augment else None
        self.collators = [
            Collator(model.processor, a.task, a.template, model.codec, a.encode_options, augment, data.max_length)
            for a in self.asked
        ]
        self.mixture = Mixture(
            self.entries,
            self.samples,
            batch_size=section.per_device_train_batch_size,
            rank=rank,
            world=world,
            seed=section.seed,
        )
        self.loader = Loader(
            self.mixture,
            self.collate,
            num_workers=data.num_workers,
            seed=section.seed,
            on_bad_sample=data.on_bad_sample,
        )

    def collate(self, entry: int, groups: tuple[tuple[int, ...], ...], rng: np.random.Generator) -> Batch | None:
        """One training batch of one entry; None where every row was too long."""
        samples = self.samples[entry]
        return self.collators[entry].rows([tuple(samples[i] for i in group) for group in groups], rng)

    def templates(self) -> dict[str, str]:
        """Task -> template used, so that evaluation and prediction ask in the same words."""
        return {e.task: a.template.name for e, a in zip(self.entries, self.asked, strict=True)}
