"""Everything that can be known of a recipe before its weights are touched.

    for line in check(Recipe.load("quickstart")): ...

Names and options are resolved, every dataset gives its first sample, every question is rendered once, and memory is
estimated without weights (``engine.estimate``).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from ufo_tune import plugins
from ufo_tune.config import ModelSection, Protocol, Recipe
from ufo_tune.core.codec import Codec
from ufo_tune.core.types import Dialogue, Samples
from ufo_tune.data.augment import Augment
from ufo_tune.data.images import sample_image
from ufo_tune.data.open import find_dataset, open_dataset
from ufo_tune.engine.load import EMBEDDED, refuse_base
from ufo_tune.engine.remote import is_unknown
from ufo_tune.engine.room import before_anything
from ufo_tune.engine.sources import Asked, ask, ask_protocol, dataset_task, open_entries, steps
from ufo_tune.engine.suites import parse_suites
from ufo_tune.engine.tiling import check_tiling
from ufo_tune.engine.trainable import check_objectives
from ufo_tune.errors import ConfigError, DataError, ModelError
from ufo_tune.models import tiny
from ufo_tune.models.ufo import CONFIG_NAME, read_settings


def check(recipe: Recipe) -> list[str]:
    """What the recipe resolves to, one line each.

    Raises:
        ConfigError: an unknown name or option, a template of another task, a dataset that does not serve the task.
        DataError: a dataset that cannot be opened, or a bad first sample.
        ModelError: a codec field that does not exist, or a base that is nowhere.
    """
    lines = resolve(recipe)
    refuse_base(recipe.model.base)
    codec = _codec(recipe.model)
    opened, left_out = open_entries(recipe)
    for number, (entry, samples) in enumerate(zip(recipe.data.mixture, opened, strict=True)):
        asked = ask(entry.task, entry.template, recipe.tasks.get(entry.task, {}))
        lines += _first(f"data.mixture.{number}", asked, samples, codec, np.random.default_rng(recipe.train.seed))
        steps(entry, samples, None, f"data.mixture.{number}")  # refuses options that the samples cannot serve
    lines += left_out
    check_best(recipe)
    for name, protocol in _suites(recipe).items():
        lines += check_protocol(protocol, codec, f"eval {name}")
    return [*lines, *_memory(recipe)]


def resolve(recipe: Recipe) -> list[str]:
    """What the recipe's names resolve to; neither data nor weights are opened.

    Raises:
        ConfigError: an unknown name or option, a template of another task, a dataset that does not serve the task.
        ModelError: a codec field that does not exist.
    """
    model = recipe.model
    codec = _codec(model)
    options = tiny.split(model.options)[1] if model.base.startswith("tiny:") else model.options
    plugins.check_options(f"models/{model.family}", plugins.find("models", model.family).build, options)
    lines = [f"model: {model.family} from {model.base}; {codec.num_bins} bins, {codec.slot_tokens} slots"]
    check_objectives(recipe.objectives, (entry.task for entry in recipe.data.mixture))
    lines += [f"objective: {name} {given or ''}".rstrip() for name, given in recipe.objectives.items()]
    for name, given in recipe.tasks.items():
        ask(name, "", given)
    if recipe.data.augment:
        plugins.check_options("data.augment", Augment, recipe.data.augment)
    for entry in recipe.data.mixture:
        ask(entry.task, entry.template, recipe.tasks.get(entry.task, {}))
        find_dataset(entry.dataset, dataset_task(entry), entry.options)
    for name, protocol in _suites(recipe, keep_unset=True).items():
        metric = plugins.find("metrics", protocol.metric).Metric
        plugins.check_options(f"eval {name}: metric", metric, protocol.metric_options)
        check_tiling(
            protocol.tiling, ask(protocol.task, protocol.template, protocol.task_options), f"eval {name}: tiling"
        )
        find_dataset(protocol.dataset, protocol.task, protocol.options)
    return lines


def _suites(recipe: Recipe, *, keep_unset: bool = False) -> dict[str, Protocol]:
    return parse_suites(recipe.eval.protocols, keep_unset=keep_unset) if recipe.eval.protocols else {}


def check_best(recipe: Recipe) -> None:
    """Refuse an ``eval.best`` that no evaluation of the recipe will give.

    Raises:
        ConfigError: there is no such value.
    """
    if not recipe.eval.best:
        return
    values = [
        f"{name}/{split}/{value}"
        for name, protocol in _suites(recipe, keep_unset=True).items()
        for split in protocol.splits
        for value in plugins.find("metrics", protocol.metric).Metric(**protocol.metric_options).compute()
    ]
    if recipe.eval.best.removeprefix("-") not in values:
        raise ConfigError(
            f"eval.best: no such value (got {recipe.eval.best!r}); {plugins.did_you_mean(recipe.eval.best, values)}"
        )


def check_protocol(protocol: Protocol, codec: Codec, where: str, model: Any = None) -> list[str]:
    """What an evaluation resolves to: task, template, metric, and the first sample of every split.

    Args:
        protocol: what is asked.
        codec: of the model.
        where: for messages.
        model: whose wordings are used; None: the protocol's own.
    Raises:
        ConfigError: an unknown name or option.
        DataError: a dataset that cannot be opened.
    """
    plugins.check_options(f"{where}: metric", plugins.find("metrics", protocol.metric).Metric, protocol.metric_options)
    asked = ask_protocol(protocol, model)
    check_tiling(protocol.tiling, asked, f"{where}: tiling")
    lines = []
    for split in protocol.splits:
        samples = open_dataset(protocol.dataset, protocol.root, split, protocol.task, protocol.options)
        lines += _first(where, asked, samples, codec, None)
    return [*lines, f"{where}: scored by {protocol.metric}"]


def _codec(model: ModelSection) -> Codec:
    """The base's own codec, or the default one, with the recipe's fields, as in ``engine.load.base``."""
    folder = EMBEDDED if model.base == "embedded" else Path(model.base)
    folder = folder / "last" if (folder / "last").exists() else folder
    own = read_settings(folder)["codec"] if (folder / CONFIG_NAME).exists() else Codec().to_dict()
    return Codec.from_dict({**own, **model.codec})


def _first(where: str, asked: Asked, samples: Samples, codec: Codec, rng: np.random.Generator | None) -> list[str]:
    """Open the first sample and render its question, with answers when ``rng`` says training."""
    if not len(samples):
        raise DataError(f"{where}: the dataset is empty (got 0 samples); check root, split and options")
    sample = samples[0]
    sample_image(sample)
    dialogue: Dialogue = asked.task.encode(sample, asked.template, codec, rng, **asked.encode_options)
    turn = dialogue.turns[-1]
    lines = [
        f"{where}: {sample.task} on {sample.source}, {len(samples)} samples, template {asked.template.name}",
        f"  asks    {turn.question or turn.answers[0].question}",
    ]
    texts = [a.text for a in turn.answers if a.text is not None]
    if texts:
        more = f"  (and {len(texts) - 1} more)" if len(texts) > 1 else ""
        lines.append(f"  answers {_short(texts[0], codec)}{more}")
    return lines


def _short(text: str, codec: Codec) -> str:
    """Runs of slot tokens as a count."""
    either = "|".join(re.escape(t) for t in (codec.mask_token, codec.depth_token))
    return re.sub(rf"({either})\1+", lambda m: f"{m[1]} x {len(m[0]) // len(m[1])}", text)


def _memory(recipe: Recipe) -> list[str]:
    """What the recipe needs, from the base's config; a line that says why where that cannot be had."""
    try:
        return before_anything(recipe)
    except ModelError as error:
        # A recipe is also checked where there is no network; but what is here, or is nowhere, would be no base later.
        if Path(recipe.model.base).exists() or is_unknown(error):
            raise
        return [f"memory: not estimated ({error})"]
