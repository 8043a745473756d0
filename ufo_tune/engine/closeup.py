"""One answer from close up: its words while they are written, and what each slot token of a mask sees alone.

    prediction, generation = ask_closely(model, asked, decode, sample, watch=print)
    maps = slot_maps(generation, prediction, model.codec, sample.size)  # one [S, h, w] for each mask

For eyes (the demo, the quickstart's report). Evaluation and ``predict`` keep nothing of a generation and pay nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ufo_tune.config import DecodeSection
from ufo_tune.core import masks
from ufo_tune.core.codec import Codec
from ufo_tune.core.retrieval import mask_logits, slot_queries
from ufo_tune.core.types import Generation, Prediction, Rle, Sample, View
from ufo_tune.core.views import crop_logits
from ufo_tune.engine.answering import Answering
from ufo_tune.engine.sources import Asked
from ufo_tune.errors import EvalError
from ufo_tune.models import generate

Watch = Callable[[tuple[str, ...]], None]
"""Is given the answers' texts so far, after every pass of the model; what it raises ends the generation."""
_PIXELS = 1 << 24
"""Pixels of full-size maps that are held at a time."""


def ask_closely(
    model: Any, asked: Asked, decode: DecodeSection, sample: Sample, watch: Watch | None = None
) -> tuple[Prediction, Generation]:
    """What ``Answering`` answers to one sample, with the generation behind it.

    Args:
        model: a ``UfoModel`` in evaluation mode, on its device.
        asked: task, template and options.
        decode: limits of generation.
        sample: the question.
        watch: looks on.
    Raises:
        DataError: the question cannot be asked.
    """
    task, codec = asked.task, model.codec
    batch = Answering(model, asked, decode).collator.rows([(sample,)], None)
    if batch is None:
        raise EvalError(f"{sample.source}: the collator dropped the question; raise its max_length")
    grammar = task.grammar(sample, codec, asked.template) if hasattr(task, "grammar") else None

    def texts(ids: Tensor) -> None:
        assert watch is not None
        watch(generate.texts(model.processor, ids))

    (generation,) = generate.generate(
        model, batch.to(model.device), decode, [grammar], watch=None if watch is None else texts
    )
    return task.decode(generation, sample, codec, **asked.decode_options), generation


def slot_maps(
    generation: Generation, prediction: Prediction, codec: Codec, size: tuple[int, int], longest: int = 64
) -> tuple[Tensor | None, ...]:
    """What each slot token of every predicted mask sees alone: the parts that ``mask_logits`` interleaves.

    Tasks sort masks and drop some; each is found again by its overlap with the masks of all slots of the answers.

    Args:
        generation: the answers.
        prediction: what ``task.decode`` made of them.
        codec: how many tokens a slot has (S).
        size: (H, W) of the picture.
        longest: long side of the maps in pixels; they cover the whole picture.
    Returns:
        For every mask [S, h, w] float32 logits on the CPU, or None where the mask is empty, hence of no slot.
    """
    said: Sequence[Rle] = prediction.masks or ()
    queries, _, _ = slot_queries(generation.ids, generation.hidden, generation.slot_id, codec.slot_tokens)  # [M, S, D]
    if not said or not len(queries):
        return (None,) * len(said)
    overlap, slot = masks.iou(said, _whole(generation, queries, size)).max(1)  # [N], [N]
    ratio = min(1.0, longest / max(size))
    small = (max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio)))
    views = tuple(_resized(view, size, small) for view in generation.views)
    found: list[Tensor | None] = []
    for best, number in zip(overlap.tolist(), slot.tolist(), strict=True):
        alone = mask_logits(queries[number][:, None], generation.image_features)  # [S, D] -> [S, 1, D] -> [S, h, w]
        found.append(crop_logits(alone, views, small).cpu() if best > 0 else None)
    return tuple(found)


def _whole(generation: Generation, queries: Tensor, size: tuple[int, int]) -> list[Rle]:
    """The mask of every slot [M, S, D] at (H, W) pixels, a few at a time."""
    step = max(1, _PIXELS // (size[0] * size[1]))
    found: list[Rle] = []
    for some in torch.split(queries, step):
        logits = crop_logits(mask_logits(some, generation.image_features), generation.views, size)  # [C, H, W]
        found.extend(masks.encode_many(logits > 0))
    return found


def _resized(view: View, size: tuple[int, int], small: tuple[int, int]) -> View:
    """The view of a picture that was resized."""
    x0, y0, x1, y1 = view.box
    across, down = small[1] / size[1], small[0] / size[0]
    return replace(view, box=(x0 * across, y0 * down, x1 * across, y1 * down))
