"""From a recipe's ``data`` and ``tasks`` sections to a stream of batches."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from ufo_tune import plugins, templates
from ufo_tune.config import MixtureEntry, Protocol, Recipe
from ufo_tune.core.types import Batch, Samples
from ufo_tune.data.augment import Augment
from ufo_tune.data.collate import Collator, Step
from ufo_tune.data.copy_paste import CopyPaste
from ufo_tune.data.from_labels import FromLabels
from ufo_tune.data.in_memory import InMemory
from ufo_tune.data.loader import Loader
from ufo_tune.data.mixture import Mixture
from ufo_tune.data.open import open_dataset
from ufo_tune.data.parts import PartNames
from ufo_tune.data.windows import Windows
from ufo_tune.engine.suites import Held
from ufo_tune.errors import ConfigError
from ufo_tune.models.ufo import UfoModel
from ufo_tune.templates import Template, Wording


@dataclass(slots=True)
class Asked:
    """A task with its wording and options: what training, evaluation and prediction all start from."""

    task: ModuleType
    template: Template
    encode_options: dict[str, Any]
    decode_options: dict[str, Any]


def ask(task: str, template: Wording, options: Mapping[str, Any]) -> Asked:
    """Resolve a task, its template and options (each goes to ``encode``, ``decode`` or both, by signature).

    Raises:
        ConfigError: unknown task, template or option, a value that is none, or a template of another task.
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
    for f, given in chosen.items():
        plugins.check_values(f"tasks.{task}", getattr(module, f), given)
    return Asked(module, found, chosen["encode"], chosen["decode"])


def trained_wording(model: Any, task: str, dataset: str = "", otherwise: str = "") -> Wording:
    """The words a model was trained with: on this dataset, or else ``otherwise``, or else most often for the task."""
    exact: Wording = getattr(model, "dataset_templates", {}).get(f"{task}/{dataset}", "")
    return exact or otherwise or getattr(model, "templates", {}).get(task, "")


def ask_protocol(protocol: Protocol, model: Any) -> Asked:
    """What a protocol asks a model, in the words that the model was trained with where it knows the dataset.

    Raises:
        ConfigError: see ``ask``.
    """
    wording = trained_wording(model, protocol.task, protocol.dataset, protocol.template)
    return ask(protocol.task, wording, protocol.task_options)


def open_entry(entry: MixtureEntry) -> Samples:
    """The samples of one mixture entry, made into those of its task where it asks for that.

    Raises:
        ConfigError: see ``open_dataset``.
    """
    samples = open_dataset(entry.dataset, entry.root, entry.split, dataset_task(entry), entry.options)
    return FromLabels(samples, entry.from_labels) if entry.from_labels else samples


def dataset_task(entry: MixtureEntry) -> str:
    """The task that an entry's dataset is opened for."""
    return "semantic_segmentation" if entry.from_labels else entry.task


def steps(entry: MixtureEntry, samples: Samples, augment: Augment | None, where: str) -> tuple[Step, ...]:
    """What happens to each training sample of an entry, in this order.

    Raises:
        ConfigError: an option that the samples cannot serve.
    """
    found: list[Step] = []
    if entry.copy_paste:
        found.append(CopyPaste(samples, entry.copy_paste, most=entry.copy_paste_most, where=where))
    if entry.window or entry.dihedral:  # before colours change, so that few pixels are worked on
        found.append(Windows(samples, entry.window, dihedral=entry.dihedral, where=where))
    if augment is not None:
        found.append(augment)
    if entry.part_names:  # last, so that pasted samples and this one still have the same names
        found.append(PartNames(entry.part_names, samples, where=where))
    return tuple(found)


def open_entries(recipe: Recipe) -> tuple[list[Samples], list[str]]:
    """The samples of all entries, without images of evaluation unless the recipe says so, and what was left out.

    Raises:
        ConfigError: see ``open_dataset`` and ``Held``.
    """
    held = Held.of(recipe.eval.protocols if recipe.data.exclude_eval else ())
    found = []
    lines = [f"{n}: cannot be opened, so its images are not left out ({why})" for n, why in held.missing.items()]
    for number, entry in enumerate(recipe.data.mixture):
        samples, left_out = held.leave_out(f"data.mixture.{number}", open_entry(entry))
        found.append(InMemory(samples) if entry.in_memory else samples)
        lines += left_out
    return found, lines


class Sources:
    """The mixture of a recipe as a resumable ``loader``."""

    def __init__(self, recipe: Recipe, model: UfoModel, rank: int = 0, world: int = 1) -> None:
        data, section = recipe.data, recipe.train
        if section.pack_tokens and section.per_device_train_batch_size < 2:
            raise ConfigError(
                f"train.pack_tokens: packs the rows of a batch (got {section.pack_tokens} and batches of one row); set "
                "train.per_device_train_batch_size to 2 or more"
            )
        self.entries: tuple[MixtureEntry, ...] = data.mixture
        self.asked = [ask(e.task, e.template, recipe.tasks.get(e.task, {})) for e in self.entries]
        self.samples, self.left_out = open_entries(recipe)
        self.mixture = Mixture(
            self.entries,
            self.samples,
            batch_size=section.per_device_train_batch_size,
            rank=rank,
            world=world,
            seed=section.seed,
        )
        augment = Augment(**data.augment) if data.augment else None
        self.collators = [
            Collator(
                model.processor,
                a.task,
                a.template,
                model.codec,
                a.encode_options,
                steps(e, s, augment, f"data.mixture.{n}"),
                data.max_length,
                section.pack_tokens,
                name_images=section.vision_cache > 0,
            )
            for n, (e, s, a) in enumerate(zip(self.entries, self.samples, self.asked, strict=True))
        ]
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

    def shares(self) -> dict[str, float]:
        """Entry -> its part of the batches so far, under its own name or ``task/dataset/split``."""
        counts = self.loader.counts
        names = [e.name or f"{e.task}/{e.dataset}/{e.split}" for e in self.entries]
        names = [n if names.count(n) == 1 else f"{n}#{i}" for i, n in enumerate(names)]
        return {n: count / max(1, sum(counts)) for n, count in zip(names, counts, strict=True)}

    def summary(self) -> str:
        """What was trained on, in one line: batches by task, so that the share of replay is seen, then by entry."""
        by_task: dict[str, float] = {}
        for entry, share in zip(self.entries, self.shares().values(), strict=True):
            by_task[entry.task] = by_task.get(entry.task, 0.0) + share
        shown = (", ".join(f"{n} {share:.1%}" for n, share in part.items()) for part in (by_task, self.shares()))
        return f"{sum(self.loader.counts)} batches: " + "; ".join(shown)

    def templates(self) -> dict[str, Wording]:
        """Task -> template used for most of it, so that evaluation and prediction ask in the same words."""
        return self._wordings(lambda entry: entry.task)

    def dataset_templates(self) -> dict[str, Wording]:
        """``task/dataset`` -> template used for most of it."""
        return self._wordings(lambda entry: f"{entry.task}/{entry.dataset}")

    def _wordings(self, key: Callable[[MixtureEntry], str]) -> dict[str, Wording]:
        """Key -> the template with the largest weight among its entries."""
        weights: dict[str, dict[str, float]] = {}
        for entry, asked in zip(self.entries, self.asked, strict=True):
            name, found = entry.template or asked.task.TEMPLATE, weights.setdefault(key(entry), {})
            found[name] = found.get(name, 0.0) + entry.weight
        return {k: templates.kept(max(found, key=lambda name: found[name])) for k, found in weights.items()}
