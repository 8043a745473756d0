"""Bytes of keys and values that evaluation keeps, from the decoder's config and the first question of each protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ufo_tune.config import Protocol, Recipe
from ufo_tune.data.collate import Collator
from ufo_tune.data.open import open_dataset
from ufo_tune.engine.answering import grouped
from ufo_tune.engine.sources import ask_protocol
from ufo_tune.engine.suites import parse_suites
from ufo_tune.errors import DataError
from ufo_tune.models.ufo import UfoModel


@dataclass(frozen=True, slots=True)
class Cache:
    """The KV cache of one batch of a protocol, were every answer as long as it may get."""

    protocol: str
    rows: int
    tokens: int  # of a row: prompt, image, and the heads of its answers
    answers: int  # of a row
    new_tokens: int  # of an answer
    size: int  # bytes


def caches(recipe: Recipe, model: UfoModel) -> tuple[Cache, ...]:
    """Of every protocol of the recipe whose data is on this machine."""
    named = parse_suites(recipe.eval.protocols, keep_unset=True) if recipe.eval.protocols else {}
    found = []
    for name, protocol in named.items():
        try:
            tokens, answers = _first_row(protocol, model)
        except DataError:  # told where the training data is opened
            continue
        rows, new = protocol.decode.batch_size, protocol.decode.max_new_tokens
        size = rows * (tokens + answers * new) * token_size(model)  # a row's prefix is kept once for all its answers
        found.append(Cache(name, rows, tokens, answers, new, size))
    return tuple(found)


def token_size(model: UfoModel) -> int:
    """Bytes of one token's keys and values in all layers."""
    hf: Any = model.vlm.hf
    config = hf.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * hf.get_input_embeddings().weight.element_size())


def _first_row(protocol: Protocol, model: UfoModel) -> tuple[int, int]:
    """Tokens and answers of the first question."""
    samples = open_dataset(protocol.dataset, protocol.root, protocol.splits[0], protocol.task, protocol.options)
    asked = ask_protocol(protocol, model)
    group = tuple(samples[i] for i in grouped(samples, protocol.pack, protocol.pack)[0])
    row = Collator(model.processor, asked.task, asked.template, model.codec, asked.encode_options).row(group, None)
    return len(row.row.ids), sum(row.answer_counts)
