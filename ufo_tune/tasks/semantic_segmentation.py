"""Task ``semantic_segmentation``: class names in, a class for every pixel out; all grid points answer in parallel.

Each answer is ``class,<its mask>``, the mask being all pixels of that class. There is no negative: points that nobody
needs are left out in training (UFO lets them answer too, without a loss), and evaluation joins all answers to one map.

Source: UFO (arXiv 2503.01342) sec. 3.3; ufo.md 2.3, 6.3, 6.7 and 8.4.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ufo_tune.core import answers
from ufo_tune.core.answers import Grammar, Literal, OneOf, Parsed
from ufo_tune.core.codec import Codec
from ufo_tune.core.grid import BACKGROUND, assign, grid_points
from ufo_tune.core.retrieval import mask_logits, slot_queries
from ufo_tune.core.types import Answer, Dialogue, Generation, Prediction, Sample, Slot, Turn
from ufo_tune.core.views import crop_logits
from ufo_tune.errors import ConfigError, DataError
from ufo_tune.tasks import _grid_task as grid_task
from ufo_tune.tasks._truth import truth
from ufo_tune.templates import Template

TEMPLATE = "semantic_segmentation"
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
) -> Dialogue:
    """The question about all classes, with ``class,<MASK>...`` at grid points that lie on that class.

    Where no pixel has a class (a crop of what nobody labelled) there is nothing to say: no answers.

    Args:
        sample: ``classes`` to ask for; ``targets`` (training only) hold the label map.
        template: wordings of the question; fills ``{classes}``.
        codec: how a mask is written.
        rng: draws wording, points and classes; None leaves every answer of the whole grid open.
        rows: rows of grid points.
        cols: columns of grid points.
        keep: points to train on at most; every class present has one before any has two.
        repeat: points that speak of each class, where so many lie on it; one where none does.
        sample_prob: probability that the question lists only the classes present and some absent ones.
        absent: so many absent classes for each present one.

    Raises:
        ConfigError: an option is out of range, or the template spells answers in another way.
        DataError: bad class names; in training no label map, one of another size, or with an unknown class.
    """
    grid = grid_task.Grid(rows, cols, keep, repeat, sample_prob, absent, "any")
    grid_task.check_answers(template, "mask")
    names = grid_task.class_names(sample, codec, negatives=False)
    points = grid_points(rows, cols)  # [N, 2]
    asked = names
    said = tuple(Answer(None, point=(x, y)) for x, y in points.tolist())
    if rng is not None:
        label_map = _label_map(sample, len(names))
        present = np.flatnonzero(np.bincount(label_map.ravel() + 1)[1:])  # [G] class numbers; -1 is none
        if rng.random() < grid.sample_prob:
            asked = grid_task.sampled_classes(names, present.tolist(), absent, rng)
        spoken = _spoken(points, label_map, present, grid, rng)  # [N]
        slots = {c: (Slot("mask", label_map == c),) for c in set(spoken.tolist()) - {BACKGROUND}}
        text = answers.slots(codec)
        said = tuple(
            Answer(f"{names[c]},{text}", slots[c], point=(x, y))
            for c, (x, y) in zip(spoken.tolist(), points.tolist(), strict=True)
            if c != BACKGROUND
        )
    question = template.question(rng, classes=",".join(asked), range=f"0-{codec.num_bins}")
    return Dialogue((Turn(question, said),), template.image_attention, template.image_position)


def decode(generation: Generation, sample: Sample, codec: Codec, *, fuse: str = "sum") -> Prediction:
    """The label map that all readable answers give together; the others count as invalid.

    A pixel's class is the one with the largest evidence: the sum (UFO) or mean, over its answers, of the probability of
    the answer's first token times that of the pixel. Every pixel gets a class, however small the evidence: benchmarks
    score every labelled pixel. Only where no answer at all can be read is the whole map -1, which no truth equals.

    Args:
        generation: one answer per grid point.
        sample: whose ``classes`` the map numbers.
        codec: how a mask is written.
        fuse: ``sum`` or ``mean``. With the sum, a class that many points speak of counts for more; with the mean, what
            covers most of a picture cannot outvote a small object by many small probabilities.

    Raises:
        ConfigError: no such way to fuse.
    """
    if fuse not in ("sum", "mean"):
        raise ConfigError(f"tasks: fuse is unknown (got {fuse!r}); give sum or mean")
    whole = ((generation.ids == generation.slot_id).sum(1) == codec.slot_tokens).tolist()  # N

    def readable(number: int, _: Parsed) -> bool:
        return bool(whole[number])

    read = grid_task.read(generation, sample, codec, readable, len(generation.texts))
    return Prediction(label_map=_fused(generation, read, sample.size, codec, fuse), invalid=read.invalid)


def grammar(sample: Sample, codec: Codec, template: Template | None = None) -> Grammar:
    """What each point may answer."""
    names = grid_task.class_names(sample, codec, negatives=False)
    return (OneOf(names), Literal(","), answers.Slots(codec.slot_tokens))


def _label_map(sample: Sample, count: int) -> np.ndarray:
    """The true map [H, W].

    Raises:
        DataError: there is none, or it is of another size than the image or has other numbers than -1..count-1.
    """
    label_map = truth(sample).label_map
    if label_map is None:
        raise DataError(f"{sample.source}: has no label map (got targets without); use a dataset with one")
    if label_map.shape != tuple(sample.size):
        raise DataError(
            f"{sample.source}: label map is {label_map.shape} but the image is {tuple(sample.size)}; "
            "check the annotation file"
        )
    low, high = int(label_map.min()), int(label_map.max())
    if low < -1 or high >= count:
        raise DataError(
            f"{sample.source}: a pixel is of an unknown class (got {low if low < -1 else high}); "
            f"use 0..{count - 1}, or -1 for none"
        )
    return label_map


def _spoken(
    points: Tensor, label_map: np.ndarray, present: np.ndarray, grid: grid_task.Grid, rng: np.random.Generator
) -> np.ndarray:
    """The class that each point [N, 2] is trained to speak of: [N] class numbers or ``BACKGROUND``.

    Every class present [G] takes a random point that lies on it; one that fits between the points takes the free point
    nearest to some pixel of it. Then classes take further points of their own, in random order, while ``keep`` lasts.
    """
    spoken = np.full(len(points), BACKGROUND)
    if not len(present):
        return spoken
    height, width = label_map.shape
    x, y = (points.double().numpy() * (width, height)).astype(int).T  # [N] pixel that holds the point
    under = label_map[y, x]  # [N]
    on = under == present[:, None]  # [G, N]
    wanted = torch.stack([_place(points, label_map, number, own, rng) for number, own in zip(present, on, strict=True)])
    cells = torch.from_numpy(on).reshape(-1, grid.rows, grid.cols)  # [G, rows, cols]: one pixel around each point
    first = assign(points, torch.cat([wanted, wanted], dim=1), cells, repeat=1).numpy()  # [N] places in present
    taken = first != BACKGROUND
    more = [rng.permutation(np.flatnonzero(own & ~taken))[: grid.repeat - 1] for own in on]
    order = np.concatenate([rng.permutation(np.flatnonzero(taken)), rng.permutation(np.concatenate(more))])
    kept = order[: grid.keep]
    spoken[kept] = np.where(taken, present[first], under)[kept]
    return spoken


def _place(points: Tensor, label_map: np.ndarray, number: int, own: np.ndarray, rng: np.random.Generator) -> Tensor:
    """A random one of the points that lie on a class (``own`` [N]), else a random pixel of it: [2] x, y in [0, 1]."""
    if own.any():
        return points[int(rng.choice(np.flatnonzero(own)))]
    height, width = label_map.shape
    row, col = divmod(int(rng.choice(np.flatnonzero(label_map == number))), width)
    return torch.tensor([(col + 0.5) / width, (row + 0.5) / height])


def _fused(generation: Generation, read: grid_task.Read, size: tuple[int, int], codec: Codec, fuse: str) -> np.ndarray:
    """The best class of each pixel: [H, W] int16, -1 where nothing was read.

    Class by class and a few masks at a time: a hundred masks of a large photograph would take gigabytes.
    """
    features, device = generation.image_features, generation.ids.device
    numbers = read.answers.to(device)
    queries, _, _ = slot_queries(
        generation.ids[numbers], generation.hidden[numbers], generation.slot_id, codec.slot_tokens
    )  # [K, S, D]
    step = max(1, _CHUNK_PIXELS // (size[0] * size[1]))
    label_map = torch.full(size, -1, dtype=torch.int16, device=device)
    best = torch.full(size, -1.0, device=device)
    for label in sorted(set(read.labels.tolist())):
        evidence = torch.zeros(size, device=device)
        own = (read.labels == label).nonzero()[:, 0]
        for part in own.split(step):
            logits = crop_logits(mask_logits(queries[part.to(device)], features), generation.views, size)  # [C, H, W]
            evidence += torch.einsum("c,chw->hw", read.scores[part].to(device), logits.sigmoid())
        if fuse == "mean":
            evidence /= len(own)
        better = evidence > best
        label_map[better] = label
        best = torch.where(better, evidence, best)
    return label_map.cpu().numpy()
