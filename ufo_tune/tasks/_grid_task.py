"""What ``detection`` and ``instance_segmentation`` share: one answer at each point of a grid over the image.

An answer is ``class,<its box or mask>``, or the codec's negative where the point has no object. Which point speaks of
which object is settled before the model sees anything (``core.grid``).

Source: UFO (arXiv 2503.01342) sec. 3.3; ufo.md 2.1, 2.2, 2.10, 6 and 8.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ufo_tune.core import masks
from ufo_tune.core.answers import Alternatives, Grammar, Literal, OneOf, Parsed, Part, parse
from ufo_tune.core.codec import Codec
from ufo_tune.core.grid import BACKGROUND, assign, grid_points, keep_points
from ufo_tune.core.types import Answer, Dialogue, Generation, Sample, Slot, Turn
from ufo_tune.errors import ConfigError, DataError
from ufo_tune.tasks._truth import boxes_inside, refuse_tokens, truth, whole_masks
from ufo_tune.templates import Template

NEGATIVES = {"background": "background", "end": ""}
"""What a point without an object says, by ``Codec.negative``."""

Spelled = tuple[str, tuple[Slot, ...]]
"""What follows ``class,`` in an answer, and its slots."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The options of the grid tasks' ``encode``.

    Args:
        rows: rows of grid points.
        cols: columns of grid points.
        keep: points to train on; all that have an object come first, the rest is drawn.
        repeat: points that speak of each object, where there are enough.
        sample_prob: probability that a training question lists only the classes present and some absent ones.
        absent: so many absent classes for each present one.
        negatives: what a training question may ask in vain where a dataset says which classes were looked for
            (``Sample.absent``): ``verified``, those only; ``any``, every class without an object.

    Raises:
        ConfigError: a value is out of range.
    """

    rows: int
    cols: int
    keep: int
    repeat: int
    sample_prob: float
    absent: int
    negatives: str

    def __post_init__(self) -> None:
        for name, low in (("rows", 1), ("cols", 1), ("keep", 1), ("repeat", 1), ("absent", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < low:
                raise ConfigError(f"tasks: {name} is out of range (got {value!r}); give a whole number from {low}")
        if not 0 <= self.sample_prob <= 1:
            raise ConfigError(f"tasks: sample_prob is no probability (got {self.sample_prob!r}); give 0 to 1")
        if self.negatives not in ("verified", "any"):
            raise ConfigError(f"tasks: negatives is unknown (got {self.negatives!r}); give verified or any")


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects that answers may speak of. ``index`` [G] are their places in the targets."""

    index: Tensor
    labels: tuple[int, ...]  # G
    boxes: Tensor  # [G, 4] xyxy pixels
    bitmaps: np.ndarray | None  # [G, H, W] bool


Spell = Callable[[Objects, Tensor, Tensor], Sequence[Spelled]]
"""(objects, chosen [P] of them, points [P, 2]) -> P spelled objects."""


def encode(
    sample: Sample,
    template: Template,
    codec: Codec,
    rng: np.random.Generator | None,
    grid: Grid,
    spell: Spell,
    *,
    with_masks: bool,
) -> Dialogue:
    """The question about all listed classes, with one answer per grid point.

    Where a dataset is not exhaustive (``Sample.absent`` is given), other classes may be in the picture without a mark,
    and "background" would be wrong for them. A training question about such a sample therefore never lists all classes,
    whatever ``sample_prob``: only those present and some of those verified as absent. Where there are neither, nothing
    can be asked, and the dialogue has no answers; the collator leaves it out.

    Raises:
        ConfigError: the template spells answers in another way than the task reads them.
        DataError: bad class names; in training no targets, an unknown class, or a box or mask that does not fit.
    """
    check_answers(template, "mask" if with_masks else "box")
    names = class_names(sample, codec)
    asked = names
    if rng is None:
        answers = tuple(Answer(None, point=_pair(p)) for p in grid_points(grid.rows, grid.cols).tolist())
    else:
        labels = _labels(sample, names)
        verified = None if grid.negatives == "any" else _verified(sample, names)
        if rng.random() < grid.sample_prob or verified is not None:
            asked = sampled_classes(names, labels, grid.absent, rng, verified)
        objects = _objects(sample, labels, with_masks)
        answers = _answers(sample, names, codec, rng, grid, spell, objects) if asked else ()
    question = template.question(rng, classes=",".join(asked), range=f"0-{codec.num_bins}")
    return Dialogue((Turn(question, answers),), template.image_attention, template.image_position)


def check_answers(template: Template, field: str) -> None:
    """Refuse a template that spells answers in another way than ``class,<field>``.

    Raises:
        ConfigError: it does.
    """
    spelling = f"{{label}},{{{field}}}"
    if template.answers not in ((), (spelling,)):
        raise ConfigError(
            f"template {template.name}: the answers of {template.task} are fixed (got {list(template.answers)}); "
            f"write answers: ['{spelling}'], or leave them out"
        )


def class_names(sample: Sample, codec: Codec, *, negatives: bool = True) -> tuple[str, ...]:
    """The sample's classes as prompt and answers write them: without blanks around.

    Args:
        sample: whose ``classes`` are asked for.
        codec: how answers are written.
        negatives: whether points may answer with the codec's negative, which then names no class.

    Raises:
        DataError: there are none, two are the same, or a name would break the answer's form.
    """
    if not sample.classes:
        raise DataError(f"{sample.source}: has no classes to ask for (got none); give the names of the classes")
    names, fault = _checked(tuple(sample.classes), NEGATIVES[codec.negative] if negatives else "")
    if fault is not None:
        raise DataError(f"{sample.source}: {fault}; rename the class")
    refuse_tokens(sample, "list of classes", ",".join(names), codec)
    return names


def sampled_classes(
    names: Sequence[str],
    labels: Sequence[int],
    absent: int,
    rng: np.random.Generator,
    pool: Sequence[int] | None = None,
) -> tuple[str, ...]:
    """The classes present and up to ``absent`` times as many others (of one where none is present), shuffled.

    Args:
        names: of all classes.
        labels: of the objects, indices into ``names``.
        absent: so many others for each class present.
        rng: of the choice and the order.
        pool: indices of classes that may be among the others; None: all.
    Returns:
        At least one name, unless no class is present and the pool is empty.
    """
    present = sorted(set(labels))
    others = [i for i in (range(len(names)) if pool is None else pool) if i not in set(present)]
    count = min(len(others), absent * max(1, len(present)))
    chosen = [*present, *rng.permutation(others)[:count].astype(int).tolist()]
    # Without any absent class an image without objects would ask for nothing.
    return tuple(names[i] for i in rng.permutation(chosen or others[:1]).astype(int).tolist())


def _verified(sample: Sample, names: tuple[str, ...]) -> tuple[int, ...] | None:
    """Indices of the classes that somebody looked for in vain; None where all without an object are absent."""
    if sample.absent is None:
        return None
    numbers = _numbers(names)
    return tuple(sorted({numbers[n.strip()] for n in sample.absent if n.strip() in numbers}))


@lru_cache(maxsize=64)
def _numbers(names: tuple[str, ...]) -> dict[str, int]:
    """Cached because a dataset's list is the same for every sample, and may have a thousand names."""
    return {name: number for number, name in enumerate(names)}


@dataclass(frozen=True, slots=True)
class Read:
    """Answers that speak of an object, the surest first, and how many others could not be read."""

    answers: Tensor  # [K] answer numbers
    parsed: tuple[Parsed, ...]  # K
    labels: Tensor  # [K] index into sample.classes
    scores: Tensor  # [K] f32 probability of the answer's first token
    invalid: int


def read(
    generation: Generation, sample: Sample, codec: Codec, readable: Callable[[int, Parsed], bool], most: int
) -> Read:
    """Understand the answers' texts.

    Args:
        generation: one answer per grid point.
        sample: whose ``classes`` the answers name; blanks around a name and case do not matter.
        codec: how the answers are written.
        readable: whether an answer (number, parsed) with a known class holds a whole object.
        most: of those that do the surest so many are kept.
    """
    lookup = {name.strip().casefold(): i for i, name in reversed(list(enumerate(sample.classes)))}
    lookup |= {name.strip(): i for i, name in reversed(list(enumerate(sample.classes)))}  # as written comes first
    negative = NEGATIVES[codec.negative]
    found: list[tuple[int, Parsed, int]] = []
    invalid = 0
    for number, text in enumerate(generation.texts):
        if text.strip().casefold() == negative:
            continue
        parsed = parse(text, codec)
        label = lookup.get(parsed.label, lookup.get(parsed.label.casefold()))
        if label is None or not readable(number, parsed):
            invalid += 1
        else:
            found.append((number, parsed, label))
    numbers = torch.tensor([number for number, _, _ in found], dtype=torch.long)
    first = generation.scores[:, :1].float().cpu()  # [N, 1]; [N, 0] where nothing was written
    scores = first[numbers, 0] if found else torch.zeros(0)
    order = torch.argsort(scores, descending=True, stable=True)[:most]  # [K]
    return Read(
        answers=numbers[order],
        parsed=tuple(found[i][1] for i in order.tolist()),
        labels=torch.tensor([found[i][2] for i in order.tolist()], dtype=torch.long),
        scores=scores[order],
        invalid=invalid,
    )


def grammar(sample: Sample, codec: Codec, body: Part) -> Grammar:
    """One of the classes and ``body``, or the negative."""
    nothing = NEGATIVES[codec.negative]
    names = class_names(sample, codec)
    return (Alternatives(((OneOf(names), Literal(","), body), (Literal(nothing),) if nothing else ())),)


@lru_cache(maxsize=64)
def _checked(classes: tuple[str, ...], negative: str) -> tuple[tuple[str, ...], str | None]:
    """Names without blanks around, and what is wrong; cached because a dataset's list is the same for every sample."""
    names = tuple(name.strip() for name in classes)
    for name in names:
        if not name or "," in name or name.casefold() == negative:
            return names, f"a class name is empty, holds a comma, or means 'no object' (got {name!r})"
    twice = next((name for name in names if names.count(name) > 1), None)
    return names, None if twice is None else f"a class is listed twice (got {twice!r})"


def _labels(sample: Sample, names: Sequence[str]) -> tuple[int, ...]:
    labels = tuple(truth(sample).labels.tolist())
    for number, label in enumerate(labels):
        if not 0 <= label < len(names):
            raise DataError(
                f"{sample.source}: object {number} is of an unknown class (got {label}); use 0..{len(names) - 1}"
            )
    return labels


def _objects(sample: Sample, labels: Sequence[int], with_masks: bool) -> Objects:
    """All objects but crowds, which are no single object, and those without a pixel, which cannot be seen."""
    targets = truth(sample)
    single = torch.ones(len(labels), dtype=torch.bool) if targets.crowd is None else ~targets.crowd.bool()
    if not with_masks:
        boxes, bitmaps = boxes_inside(sample), None
    else:
        rles = whole_masks(sample)
        boxes = masks.boxes_of(rles)
        single &= masks.area(rles) > 0
        bitmaps = masks.decode_many([rles[i] for i in single.nonzero()[:, 0].tolist()], sample.size)
    index = single.nonzero()[:, 0]  # [G]
    return Objects(index, tuple(labels[i] for i in index.tolist()), boxes[index], bitmaps)


def _answers(
    sample: Sample,
    names: Sequence[str],
    codec: Codec,
    rng: np.random.Generator,
    grid: Grid,
    spell: Spell,
    objects: Objects,
) -> tuple[Answer, ...]:
    """Answers at the points to train on, in the order of the grid."""
    points = grid_points(grid.rows, grid.cols)  # [N, 2]
    height, width = sample.size
    bitmaps = None if objects.bitmaps is None else torch.from_numpy(objects.bitmaps)
    extent = torch.tensor([width, height, width, height], dtype=torch.float32)
    assigned = assign(points, objects.boxes / extent, bitmaps, repeat=grid.repeat)  # [N]
    # In a crowd or where nothing is known there may be objects that nobody marked: "background" would be wrong.
    usable = (assigned != BACKGROUND) | ~(_in_crowd(sample, points) | _ignored(sample, points))
    places = usable.nonzero()[:, 0] if bool(usable.any()) else torch.arange(len(points))
    kept = places[keep_points(assigned[places], grid.keep, rng)]  # [P]
    chosen = assigned[kept]
    speaks = chosen != BACKGROUND  # [P]
    spelled = iter(spell(objects, chosen[speaks], points[kept][speaks]))
    answers: list[Answer] = []
    for number, point in zip(chosen.tolist(), points[kept].tolist(), strict=True):
        if number == BACKGROUND:
            answers.append(Answer(NEGATIVES[codec.negative], point=_pair(point)))
        else:
            body, slots = next(spelled)
            answers.append(Answer(f"{names[objects.labels[number]]},{body}", slots, _pair(point)))
    return tuple(answers)


def _in_crowd(sample: Sample, points: Tensor) -> Tensor:
    """Which points [N, 2] lie on a crowd's mask, or in its box where there is no mask: [N] bool."""
    targets = truth(sample)
    if targets.crowd is None or not bool(targets.crowd.any()):
        return torch.zeros(len(points), dtype=torch.bool)
    height, width = sample.size
    index = targets.crowd.nonzero()[:, 0].tolist()
    if targets.masks is not None:
        rles = whole_masks(sample)
        return _on(masks.decode(masks.union([rles[i] for i in index])), points)
    at = points * points.new_tensor([width, height])  # [N, 2] pixels
    boxes = boxes_inside(sample)[index]  # [C, 4]
    inside = (at[:, None] >= boxes[None, :, :2]) & (at[:, None] <= boxes[None, :, 2:])  # [N, C, 2]
    return inside.all(-1).any(-1)


def _ignored(sample: Sample, points: Tensor) -> Tensor:
    """Which points [N, 2] lie on pixels that are not scored: [N] bool."""
    ignore = truth(sample).ignore
    return torch.zeros(len(points), dtype=torch.bool) if ignore is None else _on(masks.decode(ignore), points)


def _on(bitmap: np.ndarray, points: Tensor) -> Tensor:
    """Which points [N, 2] lie on a bitmap [H, W]: [N] bool."""
    height, width = bitmap.shape
    at = (points * points.new_tensor([width, height])).long()  # [N, 2] pixels
    return torch.from_numpy(bitmap)[at[:, 1], at[:, 0]]  # [N]


def _pair(point: Sequence[float]) -> tuple[float, float]:
    x, y = point
    return (x, y)
