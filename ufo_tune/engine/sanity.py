"""Does a score mean what it seems to? One line for each way in which answers or their reading can be wrong.

    lines = [*answer_lines(facts), constant_line("cIoU", ours=0.31, constant=0.08, truth=1.0, n=200)]

A line is a warning where something is suspicious: answers that cannot be read or leave the range, a score that a
constant answer reaches too, one answer to everything, or another convention that would fit the truth better.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ufo_tune.core.codec import Codec
from ufo_tune.core.types import Prediction, Sample
from ufo_tune.engine.baseline import perfect
from ufo_tune.engine.predictions import Case
from ufo_tune.engine.readings import Readings, located, readings

UNREADABLE, MALFORMED, FLAT, SAME = 0.05, 0.01, 0.05, 0.9
"""Shares above which there is a warning: of answers that could not be read, of answers that break the form, of boxes
without area, of samples with one and the same answer."""
BETTER = 0.1
"""Another reading must overlap the truth by so much more, and by three standard errors, to be a warning."""
FEW = 10
"""Fewer samples (or found objects) than this say nothing about a constant."""


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that was looked at: its number, what that means in words, and whether it is suspicious."""

    name: str
    value: float
    says: str
    warning: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values, as ``metrics.json`` holds them."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the lines need of one sample; small, whatever the picture's size.

    Attributes:
        said: answers given.
        unreadable: of these, answers that could not be understood.
        malformed: of these, answers that break the form of boxes or slots.
        boxes: predicted boxes, where nothing was unreadable and no masks were asked for.
        flat: of these, boxes without area.
        answer: a digest of what was understood.
        truth: the digest of what would be right.
        readings: overlap with the truth under several conventions.
        located: true and given class of each object that was found.
    """

    said: int
    unreadable: int
    malformed: int
    boxes: int
    flat: int
    answer: str
    truth: str
    readings: Readings
    located: tuple[tuple[str, str], ...]


def facts(case: Case, codec: Codec) -> Facts:
    """Look at one sample."""
    prediction = case.prediction
    boxes = prediction.boxes if prediction.masks is None and not prediction.invalid else prediction.boxes[:0]
    return Facts(
        said=max(case.said, prediction.invalid),
        unreadable=prediction.invalid,
        malformed=case.malformed,
        boxes=len(boxes),
        flat=int(((boxes[:, 2:] - boxes[:, :2]).amin(dim=1) <= 0).sum()) if len(boxes) else 0,
        answer=digest(case.sample, prediction),
        truth=digest(case.sample, perfect(case.sample)),
        readings=readings(case, codec),
        located=tuple(located(case)),
    )


def digest(sample: Sample, prediction: Prediction) -> str:
    """Equal for two samples that were answered alike: maps to the pixel, boxes to a hundredth of the image."""
    height, width = sample.size
    parts: list[bytes] = []
    if prediction.masks is not None:
        parts += [f"{tuple(m['size'])}".encode() + _bytes(m["counts"]) for m in prediction.masks]
    elif len(prediction.boxes):
        unit = prediction.boxes.double().numpy() / np.array([width, height, width, height])  # [N, 4]
        parts += [np.rint(unit * 100).astype(np.int64).tobytes()]
    if prediction.masks is not None or len(prediction.boxes):
        parts += [prediction.labels.numpy().astype(np.int64).tobytes()]
    for array in (prediction.label_map, prediction.depth, prediction.normals):
        parts += [] if array is None else [f"{array.shape}".encode() + np.ascontiguousarray(array).tobytes()]
    if not parts:  # the words of a box or mask are always the same
        parts = [" ".join(prediction.text.casefold().split()).encode()]
    return hashlib.sha256(b"|".join(parts)).hexdigest()[:16]


def answer_lines(rows: Sequence[Facts]) -> list[Line]:
    """Everything that can be told without the metric."""
    said = sum(f.said for f in rows)
    lines = [
        _share("unreadable answers", sum(f.unreadable for f in rows), said, UNREADABLE),
        _share("out of range or torn", sum(f.malformed for f in rows), said, MALFORMED),
    ]
    if boxes := sum(f.boxes for f in rows):
        lines.append(_share("boxes without area", sum(f.flat for f in rows), boxes, FLAT))
    lines.append(_same(rows))
    lines += [_reading(kind, [f.readings[kind] for f in rows if kind in f.readings]) for kind in _kinds(rows)]
    pairs = [pair for f in rows for pair in f.located]
    return [*lines, _names(pairs)] if len(set(t for t, _ in pairs)) > 1 else lines


def constant_line(name: str, *, ours: float, constant: float, truth: float, n: int) -> list[Line]:
    """The score beside that of the best constant answer and of the truth itself; none where one is no number.

    Args:
        name: of the value.
        ours: the model's.
        constant: of the same answer to every sample.
        truth: of the truth as an answer. It tells which way is better.
        n: samples.
    """
    if not all(map(math.isfinite, (ours, constant, truth))) or constant == truth == -1:  # -1: COCO's "nothing to find"
        return []
    says = f"{name} {ours:.3f}; one constant answer to everything {constant:.3f}; the truth itself {truth:.3f}"
    if n < FEW:
        return [Line("constant answer", constant, f"{says}; too few samples to judge (n = {n})")]
    if constant == truth:
        return [Line("constant answer", constant, f"{says}: this split cannot tell a model from a constant", True)]
    worse = (ours - constant) * (truth - constant) <= 0
    return [Line("constant answer", constant, f"{says}: no better than a constant" if worse else says, worse)]


def warnings(lines: Iterable[Line]) -> list[Line]:
    """Those that are suspicious."""
    return [line for line in lines if line.warning]


def _share(name: str, part: int, total: int, limit: float) -> Line:
    share = part / total if total else 0.0
    return Line(name, share, f"{share:.1%} ({part} of {total})", share > limit)


def _same(rows: Sequence[Facts]) -> Line:
    """Share of the commonest answer; the truth may be as uniform, and then it is no fault."""
    share, true = (_commonest(values) for values in ([f.answer for f in rows], [f.truth for f in rows]))
    suspicious = len(rows) >= FEW and share > SAME and share > true
    return Line("commonest answer", share, f"{share:.1%} of the samples (of the truth {true:.1%})", suspicious)


def _commonest(values: Sequence[str]) -> float:
    return max(Counter(values).values()) / len(values) if values else 0.0


def _kinds(rows: Sequence[Facts]) -> list[str]:
    return list(dict.fromkeys(kind for f in rows for kind in f.readings))


def _reading(kind: str, found: Sequence[dict[str, float]]) -> Line:
    """How well one kind of thing fits as it was read, and in the best other way."""
    own, *others = found[0]
    table = np.array([[ways[name] for name in (own, *others)] for ways in found])  # [samples, ways]
    means = [math.fsum(column) / len(found) for column in table.T.tolist()]
    gains = [mean - means[0] for mean in means[1:]]
    best = max(range(len(others)), key=lambda i: gains[i])
    spread = np.std(table[:, 1 + best] - table[:, 0], ddof=1) / math.sqrt(len(found)) if len(found) > 1 else math.inf
    better = gains[best] >= BETTER and gains[best] >= 3 * float(spread)
    says = f"fit the truth by {means[0]:.2f} read as {own}; by {means[1 + best]:.2f} read as {others[best]}"
    return Line(
        f"{kind} in another convention", means[1 + best], f"{says}: wrong convention?" if better else says, better
    )


def _names(pairs: Sequence[tuple[str, str]]) -> Line:
    """Found objects that were called by their name, against calling all of them by the commonest name."""
    right = sum(true == given for true, given in pairs) / len(pairs)
    usual = _commonest([true for true, _ in pairs])
    says = f"{right:.1%} of {len(pairs)} found objects; the commonest name for all would be {usual:.1%}"
    confused = len(pairs) >= FEW and right < usual
    return Line("called by their name", right, f"{says}: classes confused?" if confused else says, confused)


def _bytes(counts: bytes | str) -> bytes:
    return counts if isinstance(counts, bytes) else counts.encode()
