"""What lies behind a score: by size and length, sample by sample, curves, sanity, and which pictures to look at.

    analysis = analyse(samples, folder, range(n), codec, new_metric, PartialState())

Made from the predictions on the disk, so a resumed evaluation and any number of processes give the same; every
process looks at its share of the samples, one at a time, and all of them return the whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from ufo_tune.core import masks
from ufo_tune.core.codec import Codec
from ufo_tune.core.types import Sample, Samples, Targets
from ufo_tune.engine import sanity
from ufo_tune.engine.baseline import About, Constant, about, perfect
from ufo_tune.engine.predictions import cases
from ufo_tune.engine.sanity import Facts, Line
from ufo_tune.metrics._base import MetricLike, is_count

FILE = "analysis.json"
SCORED = 2000
"""Samples with a score of their own: evenly spaced, as a metric may take a tenth of a second for each."""
PICTURES = 6
"""Pictures of each kind: best, worst, unreadable."""
_WORDS = (2, 4, 8, 16)
_AREAS = ((32**2, "small (below 32\u00b2 pixels)"), (96**2, "medium"))
_SHARES = ((0.01, "below 1 % of the image"), (0.1, "1 to 10 %"))
Group = tuple[str, str, int]
"""What samples are grouped by, the group's name, and its place among the groups."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """What ``analysis.json`` holds.

    Attributes:
        breakdown: a row of values for each group of samples: ``by``, ``group``, and the metric's values.
        score: which value the samples' own scores are.
        samples: source of each sample in the order of the dataset, and its own score where it has one.
        curves: name -> (x, y), where the metric draws some.
        sanity: what was looked at.
        pictures: best, worst, unreadable -> numbers of samples.
    """

    breakdown: list[dict[str, Any]]
    score: str
    samples: list[tuple[str, float | None]]
    curves: dict[str, tuple[list[float], list[float]]]
    sanity: list[Line]
    pictures: dict[str, list[int]]

    def write(self, folder: Path) -> None:
        """Leave it in the folder of a split."""
        (folder / FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def read(folder: Path) -> Analysis | None:
    """What ``write`` left in the folder of a split; None where there is none."""
    if not (folder / FILE).exists():
        return None
    document = json.loads((folder / FILE).read_text(encoding="utf-8"))
    return Analysis(**{**document, "sanity": [Line(**line) for line in document["sanity"]]})


@dataclass(slots=True)
class _Row:
    """One sample's part."""

    index: int
    source: str
    score: float | None
    facts: Facts
    about: About


def analyse(
    samples: Samples,
    folder: Path,
    indices: Sequence[int],
    codec: Codec,
    new_metric: Callable[[], MetricLike],
    state: PartialState,
) -> Analysis:
    """Look behind the score of one split.

    Args:
        samples: the split that was predicted.
        folder: with its ``predictions.jsonl``.
        indices: the samples that were scored.
        codec: how the answers were written.
        new_metric: an empty metric.
        state: who looks; every process has to call this.
    Raises:
        EvalError: a sample has no prediction or cannot be scored.
    """
    mine = indices[state.process_index :: state.num_processes]
    stride = -(-len(indices) // SCORED) or 1
    rows: list[_Row] = []
    groups: dict[Group, MetricLike] = {("", "", 0): new_metric()}
    ceiling, constant = new_metric(), new_metric()
    score = own_score(new_metric().compute())[0]
    for index, case in zip(mine, cases(samples, folder, mine), strict=True):
        single = new_metric()
        single.update(case.sample, case.prediction)
        for group in [("", "", 0), *groups_of(case.sample)]:
            groups.setdefault(group, new_metric()).merge(single)
        ceiling.update(case.sample, perfect(case.sample))
        own = own_score(single.compute())[1] if index % stride == 0 else None
        rows.append(_Row(index, case.sample.source, own, sanity.facts(case, codec), about(case.sample)))
    rows = sorted(gather_object(rows), key=lambda row: row.index)
    answer = Constant.of([row.about for row in rows])
    for index in mine:
        sample = samples[index]
        constant.update(sample, answer.prediction(sample))
    (whole, parts), ceiling, constant = _merged(groups, new_metric), _total(ceiling), _total(constant)
    name, ours = next(iter(whole.compute().items()))
    bounds = {"ours": ours, "constant": constant.compute()[name], "truth": ceiling.compute()[name]}
    lines = sanity.answer_lines([row.facts for row in rows])
    scored = [(row.index, row.score) for row in rows if row.score is not None]
    return Analysis(
        breakdown=[{"by": by, "group": group, **metric.compute()} for (by, group, _), metric in parts],
        score=score,
        samples=[(row.source, row.score) for row in rows],
        curves=_curves(whole),
        sanity=[*lines, *sanity.constant_line(name, **bounds, n=len(rows))],
        pictures=pick(
            scored,
            [row.index for row in rows if row.facts.unreadable],
            higher_is_better=bounds["truth"] >= bounds["constant"],
        ),
    )


def own_score(values: Mapping[str, float]) -> tuple[str, float]:
    """The value that tells most about a single sample: an overlap, which has degrees, before a yes or no."""
    scores = [(k, v) for k, v in values.items() if not is_count(k)]
    return next(((k, v) for k, v in scores if "IoU" in k), scores[0])


def groups_of(sample: Sample) -> list[Group]:
    """The groups that a sample is in: by the size of what is looked for, by the words of question or answer."""
    found: list[Group] = []
    t = sample.targets
    if t is not None and (t.masks or len(t.boxes)):
        found.append(_size_group(sample, t))
    elif t is not None and (t.masks is not None or sample.classes) and t.label_map is None:
        found.append(("size", "nothing to find", len(_SHARES) + 1))
    if sample.text:
        found.append(_word_group("words of the question", sample.text))
    if t is not None and t.text and not (t.masks or len(t.boxes)):
        found.append(_word_group("words of the true answer", t.text))
    return found


def pick(
    scored: Sequence[tuple[int, float]], unreadable: Sequence[int], *, higher_is_better: bool = True
) -> dict[str, list[int]]:
    """Samples worth a look: the best and the worst that could be read, and the first that could not.

    Args:
        scored: (number, score).
        unreadable: numbers of samples with an unreadable answer.
        higher_is_better: which end is which.
    Returns:
        best, worst, unreadable -> up to ``PICTURES`` numbers; none stands twice.
    """
    sign = -1 if higher_is_better else 1
    bad = set(unreadable)
    order = [i for _, i in sorted((sign * score, i) for i, score in scored if i not in bad)]
    count = min(PICTURES, (len(order) + 1) // 2)
    worst = order[::-1][: min(count, len(order) - count)]
    return {"best": order[:count], "worst": worst, "unreadable": sorted(bad)[:PICTURES]}


def _size_group(sample: Sample, t: Targets) -> Group:
    """By the median of its objects: pixels as COCO counts them, or the share of the image where there are masks."""
    if t.masks:
        size = float(masks.area(t.masks).double().median()) / max(1, sample.size[0] * sample.size[1])
        limits, last = _SHARES, "above 10 %"
    else:
        sides = (t.boxes[:, 2:] - t.boxes[:, :2]).clamp(min=0).double()  # [N, 2]
        size = float(torch.prod(sides, dim=1).median())
        limits, last = _AREAS, "large (96\u00b2 pixels and more)"
    place = sum(size >= limit for limit, _ in limits)
    return "size", [*(name for _, name in limits), last][place], place


def _word_group(by: str, text: str) -> Group:
    count = len(text.split())
    place = sum(count > limit for limit in _WORDS)
    low, high = ([0, *_WORDS][place] + 1, [*_WORDS, 0][place])
    return by, f"{low} to {high}" if high else f"{low} and more", place


def _merged(
    groups: Mapping[Group, MetricLike], new_metric: Callable[[], MetricLike]
) -> tuple[MetricLike, list[tuple[Group, MetricLike]]]:
    """The whole, and the groups in order, over all processes."""
    merged: dict[Group, MetricLike] = {}
    for part in gather_object([dict(groups)]):
        for group, metric in part.items():
            merged.setdefault(group, new_metric()).merge(metric)
    whole = merged.pop(("", "", 0))
    return whole, sorted(merged.items(), key=lambda item: (item[0][0], item[0][2]))


def _total(metric: MetricLike) -> MetricLike:
    first, *others = gather_object([metric])
    for other in others:
        first.merge(other)
    whole: MetricLike = first
    return whole


def _curves(metric: MetricLike) -> dict[str, tuple[list[float], list[float]]]:
    """What a metric with ``curves() -> {name: (x, y)}`` draws."""
    draw = getattr(metric, "curves", None)
    found: Mapping[str, tuple[Sequence[float], Sequence[float]]] = draw() if draw is not None else {}
    return {name: ([float(v) for v in x], [float(v) for v in y]) for name, (x, y) in found.items()}
