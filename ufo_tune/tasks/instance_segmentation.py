"""Task ``instance_segmentation``: class names in, masks out; all grid points answer in parallel.

Source: UFO (arXiv 2503.01342) sec. 3.2, 3.3; ufo.md 2.2 and 8.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from ufo_tune.core import answers, masks
from ufo_tune.core.answers import Grammar, Parsed
from ufo_tune.core.codec import Codec
from ufo_tune.core.retrieval import mask_logits, slot_queries
from ufo_tune.core.types import Dialogue, Generation, Prediction, Rle, Sample, Slot
from ufo_tune.core.views import crop_logits
from ufo_tune.plugins import Between
from ufo_tune.tasks import _grid_task as grid_task
from ufo_tune.templates import Template

TEMPLATE = "instance_segmentation"
"""Default template."""
SLOTS = ("mask",)

_CHUNK_PIXELS = 2**23
"""Mask pixels at full size that are held at once: 32 MB of logits."""


def encode(
    sample: Sample,
    template: Template,
    codec: Codec,
    rng: np.random.Generator | None,
    *,
    rows: int = 10,
    cols: int = 10,
    keep: int = 40,
    repeat: int = 3,
    sample_prob: float = 0.0,
    absent: int = 3,
    negatives: Literal["verified", "any"] = "verified",
) -> Dialogue:
    """The question about all classes, with ``class,<MASK>...`` or the negative at each grid point.

    Args:
        sample: ``classes`` to ask for; ``targets`` (training only) hold masks and labels.
        template: wordings of the question; fills ``{classes}``.
        codec: how a mask is written.
        rng: draws wording, points and classes; None leaves every answer of the whole grid open.
        rows: rows of grid points.
        cols: columns of grid points.
        keep: points to train on; all that have an object come first.
        repeat: points that speak of each object.
        sample_prob: probability that the question lists only the classes present and some absent ones.
        absent: so many absent classes for each present one.
        negatives: what a training question may ask in vain where a dataset is not exhaustive (``Sample.absent``):
            ``verified`` absent classes only, and then never the full list; ``any`` class without an object.

    Raises:
        ConfigError: an option is out of range, or the template spells answers in another way.
        DataError: bad class names; in training no targets or masks, an unknown class, or a mask of another size.
    """
    grid = grid_task.Grid(rows, cols, keep, repeat, sample_prob, absent, negatives)

    def spell(objects: grid_task.Objects, chosen: Tensor, points: Tensor) -> Sequence[grid_task.Spelled]:
        assert objects.bitmaps is not None  # with_masks below
        text, slots = answers.slots(codec), [Slot("mask", bitmap) for bitmap in objects.bitmaps]
        return [(text, (slots[i],)) for i in chosen.tolist()]  # answers about one object share its map

    return grid_task.encode(sample, template, codec, rng, grid, spell, with_masks=True)


def decode(
    generation: Generation,
    sample: Sample,
    codec: Codec,
    *,
    max_per_image: Annotated[int, Between(1)] = 100,
    sigma: Annotated[float, Between(0)] = 2.0,
    min_score: Annotated[float, Between(0, 1)] = 0.05,
) -> Prediction:
    """Masks with their bounds as boxes, the best first.

    The score is the probability of an answer's first token times the mean probability of the mask's pixels, lowered
    by matrix-NMS. Answers without exactly one whole slot are invalid; empty masks are dropped.

    Args:
        generation: one answer per grid point.
        sample: whose ``classes`` the labels number.
        codec: how a mask is written.
        max_per_image: the surest so many answers count.
        sigma: of matrix-NMS; larger forgives less overlap.
        min_score: masks whose score falls below this are dropped.
    """
    whole = ((generation.ids == generation.slot_id).sum(1) == codec.slot_tokens).tolist()  # N

    def readable(number: int, _: Parsed) -> bool:
        return bool(whole[number])

    read = grid_task.read(generation, sample, codec, readable, max_per_image)
    numbers = read.answers.to(generation.ids.device)
    found, inside = _masks(generation, numbers, sample.size, codec)
    seen = masks.area(found) > 0  # [K]
    rles = [found[i] for i in seen.nonzero()[:, 0].tolist()]
    labels = read.labels[seen]
    scores = masks.matrix_nms(rles, (read.scores * inside)[seen], labels, sigma=sigma)
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[scores[order] >= min_score]
    kept = tuple(rles[i] for i in order.tolist())
    return Prediction(masks.boxes_of(kept), kept, scores[order], labels[order], invalid=read.invalid)


def grammar(sample: Sample, codec: Codec, template: Template | None = None) -> Grammar:
    """What each point may answer."""
    return grid_task.grammar(sample, codec, answers.Slots(codec.slot_tokens))


def _masks(
    generation: Generation, numbers: Tensor, size: tuple[int, int], codec: Codec
) -> tuple[tuple[Rle, ...], Tensor]:
    """Masks of answers ``numbers`` [K] at the image's size, and the mean probability [K] of each one's pixels.

    Only a few are at full size at a time: a hundred masks of a large photograph would take gigabytes.
    """
    queries, _, _ = slot_queries(
        generation.ids[numbers], generation.hidden[numbers], generation.slot_id, codec.slot_tokens
    )  # [K, S, D]
    rles: list[Rle] = []
    means: list[Tensor] = []
    step = max(1, _CHUNK_PIXELS // (size[0] * size[1]))
    for start in range(0, len(queries), step):
        logits = mask_logits(queries[start : start + step], generation.image_features)  # [C, h*s, w*s]
        logits = crop_logits(logits, generation.views, size)  # [C, H, W]
        positive = logits > 0
        rles.extend(masks.encode_many(positive))
        means.append(masks.mean_inside(logits.sigmoid(), positive).cpu())
    return tuple(rles), torch.cat(means) if means else torch.zeros(0)
