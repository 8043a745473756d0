"""Task ``detection``: class names in, boxes out; all grid points answer in parallel.

Source: UFO (arXiv 2503.01342) sec. 3.3; ufo.md 2.1 and 8.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from ufo_tune.core import answers
from ufo_tune.core.answers import Grammar, Parsed
from ufo_tune.core.boxes import soft_nms
from ufo_tune.core.codec import Codec
from ufo_tune.core.types import Dialogue, Generation, Prediction, Sample
from ufo_tune.plugins import Between
from ufo_tune.tasks import _grid_task as grid_task
from ufo_tune.templates import Template

TEMPLATE = "detection"
"""Default template."""


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
    """The question about all classes, with ``class,<box>a,b,c,d</box>`` or the negative at each grid point.

    Args:
        sample: ``classes`` to ask for; ``targets`` (training only) hold boxes and labels.
        template: wordings of the question; fills ``{classes}`` and ``{range}``.
        codec: how a box is written.
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
        DataError: bad class names; in training no targets, an unknown class, or a box outside the image.
    """
    grid = grid_task.Grid(rows, cols, keep, repeat, sample_prob, absent, negatives)

    def spell(objects: grid_task.Objects, chosen: Tensor, points: Tensor) -> Sequence[grid_task.Spelled]:
        bins = codec.encode_boxes(objects.boxes[chosen], sample.size, points)  # [P, 4]
        return [(answers.box(row, codec), ()) for row in bins.tolist()]

    return grid_task.encode(sample, template, codec, rng, grid, spell, with_masks=False)


def decode(
    generation: Generation,
    sample: Sample,
    codec: Codec,
    *,
    max_per_image: Annotated[int, Between(1)] = 100,
    iou_threshold: Annotated[float, Between(0, 1)] = 0.5,
    min_score: Annotated[float, Between(0, 1)] = 1e-3,
) -> Prediction:
    """Boxes, the best first; the score is the probability of an answer's first token, lowered by soft-NMS.

    Args:
        generation: one answer per grid point.
        sample: whose ``classes`` the labels number.
        codec: how a box is written.
        max_per_image: the surest so many answers count.
        iou_threshold: overlaps of boxes of one class up to this cost nothing.
        min_score: boxes whose score falls below this are dropped.
    """

    def readable(_: int, parsed: Parsed) -> bool:
        return len(parsed.boxes) > 0

    read = grid_task.read(generation, sample, codec, readable, max_per_image)
    values = torch.tensor([parsed.boxes[0] for parsed in read.parsed], dtype=torch.long).reshape(-1, 4)  # [K, 4]
    boxes = codec.decode_boxes(values, sample.size, _points(generation, read.answers))  # [K, 4]
    kept, scores = soft_nms(boxes, read.scores, read.labels, iou_threshold=iou_threshold, min_score=min_score)
    return Prediction(boxes[kept], scores=scores, labels=read.labels[kept], invalid=read.invalid)


def grammar(sample: Sample, codec: Codec, template: Template | None = None) -> Grammar:
    """What each point may answer."""
    return grid_task.grammar(sample, codec, answers.Box())


def _points(generation: Generation, numbers: Tensor) -> Tensor | None:
    """The points [K, 2] of some answers, or None where one has none."""
    points = [generation.points[i] for i in numbers.tolist()]
    given = [p for p in points if p is not None]
    return torch.tensor(given).reshape(-1, 2) if len(given) == len(points) else None
