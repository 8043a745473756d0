"""Everything that can be known of a recipe before its weights are touched.

    for line in check(Recipe.load("quickstart")): ...

Names and options are resolved, every dataset gives its first sample, every question is rendered once, and memory is
estimated from the model's config alone.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ufo_tune import plugins
from ufo_tune.config import ModelSection, Protocol, Recipe
from ufo_tune.core.codec import Codec
from ufo_tune.core.types import Dialogue, Samples
from ufo_tune.data.augment import Augment
from ufo_tune.data.images import sample_image
from ufo_tune.data.open import find_dataset, open_dataset
from ufo_tune.engine.load import EMBEDDED
from ufo_tune.engine.sources import Asked, ask, dataset_task, open_entries, steps
from ufo_tune.engine.suites import parse_suites
from ufo_tune.engine.tiling import check_tiling
from ufo_tune.engine.trainable import check_objectives
from ufo_tune.errors import ConfigError, DataError
from ufo_tune.models import tiny
from ufo_tune.models.base import VLM
from ufo_tune.models.ufo import CONFIG_NAME, read_settings


def check(recipe: Recipe) -> list[str]:
    """What the recipe resolves to, one line each.

    Raises:
        ConfigError: an unknown name or option, a template of another task, a dataset that does not serve the task.
        DataError: a dataset that cannot be opened, or a bad first sample.
        ModelError: a codec field that does not exist.
    """
    lines = resolve(recipe)
    codec = _codec(recipe.model)
    opened, left_out = open_entries(recipe)
    for number, (entry, samples) in enumerate(zip(recipe.data.mixture, opened, strict=True)):
        asked = ask(entry.task, entry.template, recipe.tasks.get(entry.task, {}))
        lines += _first(f"data.mixture.{number}", asked, samples, codec, np.random.default_rng(recipe.train.seed))
        steps(entry, samples, None, f"data.mixture.{number}")  # refuses options that the samples cannot serve
    lines += left_out
    for name, protocol in _suites(recipe).items():
        lines += check_protocol(protocol, codec, f"eval {name}")
    return [*lines, *_memory(recipe, codec)]


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


def check_protocol(protocol: Protocol, codec: Codec, where: str) -> list[str]:
    """What an evaluation resolves to: task, template, metric, and the first sample of every split.

    Raises:
        ConfigError: an unknown name or option.
        DataError: a dataset that cannot be opened.
    """
    plugins.check_options(f"{where}: metric", plugins.find("metrics", protocol.metric).Metric, protocol.metric_options)
    asked = ask(protocol.task, protocol.template, protocol.task_options)
    check_tiling(protocol.tiling, asked, f"{where}: tiling")
    lines = []
    for split in protocol.splits:
        samples = open_dataset(protocol.dataset, protocol.root, split, protocol.task, protocol.options)
        lines += _first(where, asked, samples, codec, None)
    return [*lines, f"{where}: scored by {protocol.metric}"]


def _codec(model: ModelSection) -> Codec:
    """The base's own codec where it has one; the recipe's otherwise, as ``engine.load.base`` chooses."""
    folder = EMBEDDED if model.base == "embedded" else Path(model.base)
    if (folder / CONFIG_NAME).exists():
        return Codec.from_dict(read_settings(folder)["codec"])
    return Codec.from_dict({**Codec().to_dict(), **model.codec})


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


def _memory(recipe: Recipe, codec: Codec) -> list[str]:
    """Parameters and bytes from the config alone, on the meta device."""
    model = recipe.model
    module = plugins.find("models", model.family)
    family = next(
        (v for v in vars(module).values() if isinstance(v, type) and issubclass(v, VLM) and v is not VLM), None
    )
    config = _config(model)
    if family is None or config is None:
        return ["memory: not estimated (the base's config is not on this machine)"]
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        vlm = family(AutoModelForImageTextToText.from_config(config))
    total = sum(p.numel() for p in vlm.hf.parameters())
    adapters, whole = _trained(vlm, model, codec)
    size = {"float32": 4, "bfloat16": 2}.get(model.dtype, 2 if torch.cuda.is_available() else 4)
    state = 3 * (4 * adapters + size * whole)  # gradient and two moments; adapters are kept in float32
    return [
        f"memory: {_count(total)} parameters of which {_count(adapters + whole)} train; "
        f"weights {_bytes(size * total)}, gradients and optimizer {_bytes(state)}; activations come on top "
        f"(rows: {recipe.train.per_device_train_batch_size} of at most {recipe.data.max_length} tokens)"
    ]


def _config(model: ModelSection) -> Any:
    from transformers import AutoConfig

    if model.base.startswith("tiny:"):
        with tempfile.TemporaryDirectory() as folder:
            return AutoConfig.from_pretrained(
                tiny.build(model.base.removeprefix("tiny:"), Path(folder), **tiny.split(model.options)[0])
            )
    try:
        return AutoConfig.from_pretrained(EMBEDDED if model.base == "embedded" else model.base)
    except OSError:  # a Hub id without network, which is no fault of the recipe
        if (Path(model.base)).is_absolute():
            raise ConfigError(
                f"model.base: no such folder (got {model.base!r}); make it with `ufo-tune prepare`"
            ) from None
        return None


def _trained(vlm: VLM, model: ModelSection, codec: Codec) -> tuple[int, int]:
    """(parameters of adapters and token rows, parameters of parts that train whole)."""
    parts = {"vision": model.vision, "projector": model.projector, "language": model.language}
    parts["tokens"] = "full" if model.train_tokens == "full" else "frozen"
    whole = sum(p.numel() for n, p in vlm.hf.named_parameters() if parts[vlm.part_of(n)] == "full")
    hf: Any = vlm.hf
    tables = {id(t): t for t in (hf.get_input_embeddings().weight, hf.get_output_embeddings().weight)}  # one where tied
    new = len(codec.special_tokens) if model.train_tokens == "new" else 0
    adapters = sum(new * t.shape[1] for t in tables.values())
    if model.language == "lora":
        linear = (
            m for n, m in vlm.hf.named_modules() if isinstance(m, nn.Linear) and re.fullmatch(vlm.lora_targets, n)
        )
        adapters += sum(model.lora.r * (m.in_features + m.out_features) for m in linear)
    return adapters, whole


def _count(number: int) -> str:
    return next(
        (f"{number / unit:.3g} {name}" for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if number >= unit),
        str(number),
    )


def _bytes(number: int) -> str:
    return f"{number / 2**30:.3g} GiB" if number >= 2**30 else f"{number / 2**20:.3g} MiB"
