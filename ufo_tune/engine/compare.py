"""Is B better than A, or was it luck? Two evaluations of the same samples, compared by a paired bootstrap.

    differences = compare(Path("runs/a/eval"), Path("runs/b/eval"))   # B minus A

Pictures are drawn with replacement, the same ones for both, and every value is computed anew on what was drawn, so that
values of the whole split (cIoU, AP) are treated as they are defined. A picture moves with all its questions, which are
not independent of each other. Only a metric that itself joins the samples of a picture (``seg_iou`` with ``best_of``)
counts a picture that was drawn twice once.

Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, ch. 13 (percentile interval); Koehn 2004,
Statistical Significance Tests for Machine Translation Evaluation (paired resampling).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ufo_tune import plugins
from ufo_tune.config import Protocol
from ufo_tune.data.open import open_dataset
from ufo_tune.engine.predictions import UNFINISHED, Case, Stored, cases
from ufo_tune.errors import EvalError
from ufo_tune.metrics._base import MetricLike, is_count

RESAMPLES = 1000
_FEWEST, _SECONDS = 50, 180
"""Where so many seconds would not do for all resamples, fewer are drawn, but not below this."""
_SAME = ("task", "dataset", "options", "metric", "metric_options")
"""What two evaluations must share. Wording, decoding and weights may be the very thing that is compared."""
_NOTHING = -1.0
"""COCO's value where there is nothing to find."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One value of one split in both evaluations.

    Attributes:
        protocol: its name.
        split: of the protocol.
        value: name, such as ``cIoU``.
        a: on all samples.
        b: on all samples.
        difference: b - a.
        low: 2.5th percentile of the difference over the resamples.
        high: 97.5th percentile.
        not_above: share of the resamples in which b is not above a.
        resamples: how many were drawn.
        n: samples.
        pictures: how many pictures these are about; what was drawn.
    """

    protocol: str
    split: str
    value: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    not_above: float
    resamples: int
    n: int
    pictures: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True)
class Pair:
    """Two evaluations of one split."""

    name: str
    split: str
    protocol: Protocol
    a: Path
    b: Path

    def cases(self, indices: Sequence[int] | None = None) -> Iterator[tuple[Case, Case]]:
        """Samples with both answers, in the order of the dataset unless ``indices`` says which."""
        p = self.protocol
        samples = open_dataset(p.dataset, p.root, self.split, p.task, p.options)
        wanted = range(min(len(samples), len(Stored(self.a)))) if indices is None else indices
        return zip(cases(samples, self.a, wanted), cases(samples, self.b, wanted), strict=True)

    def metric(self) -> MetricLike:
        """An empty metric."""
        metric: MetricLike = plugins.find("metrics", self.protocol.metric).Metric(**self.protocol.metric_options)
        return metric


def compare(a: Path, b: Path, *, resamples: int = 0, seed: int = 0, progress: bool = True) -> list[Difference]:
    """Every value of every split that both folders hold.

    Args:
        a: folder that ``ufo-tune eval`` wrote (of all protocols or of one).
        b: another one.
        resamples: how often pictures are drawn; 0: 1000, or fewer where that would take more than three minutes.
        seed: of the drawing.
        progress: show a bar.
    Raises:
        EvalError: no evaluation, an unfinished one, or not the same protocols or samples.
        ConfigError: the dataset or the metric is not there.
        DataError: the truth cannot be read.
    """
    return [d for pair in pairs(a, b) for d in _differences(pair, resamples, seed, progress)]


def pairs(a: Path, b: Path) -> list[Pair]:
    """The splits that two folders share, each checked to hold the same samples.

    Raises:
        EvalError: see ``compare``.
    """
    first, second = _documents(a), _documents(b)
    if len(first) == len(second) == 1:  # two protocol folders may have any names
        second = dict(zip(first, second.values(), strict=True))
    found = []
    for name in first:
        if name in second:
            found += _splits(name, first[name], second[name])
    if not found:
        raise EvalError(f"compare: nothing in common (got {_names(first)} and {_names(second)}); evaluate both alike")
    return found


def _documents(folder: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Protocol -> its folder and ``metrics.json``."""
    path = folder / "metrics.json"
    if not path.is_file():
        raise EvalError(f"{folder}: is no finished evaluation (got no metrics.json); give what `ufo-tune eval` wrote")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no text
        raise EvalError(f"{path}: is damaged (got: {error}); run the same `ufo-tune eval` again") from error
    keys = ("protocol", "splits") if isinstance(document, dict) and "protocol" in document else ("protocols",)
    if not isinstance(document, dict) or not all(isinstance(document.get(key), dict) for key in keys):
        raise EvalError(f"{path}: is no scores of ours (got no {' and '.join(keys)}); give what `ufo-tune eval` wrote")
    if "protocol" in document:
        return {folder.name: (folder, document)}
    return {name: _documents(folder / name)[name] for name in document["protocols"]}


def _names(documents: dict[str, tuple[Path, dict[str, Any]]]) -> str:
    return "; ".join(f"{name} ({', '.join(document['splits'])})" for name, (_, document) in documents.items())


def _splits(name: str, a: tuple[Path, dict[str, Any]], b: tuple[Path, dict[str, Any]]) -> list[Pair]:
    protocols = [document["protocol"] for _, document in (a, b)]
    for key in _SAME:
        one, other = (protocol[key] for protocol in protocols)
        if one != other:
            raise EvalError(f"compare {name}: another {key} (got {one} and {other}); evaluate both by one protocol")
    protocol = Protocol.from_dict(protocols[0], where=str(a[0]))
    shared = [split for split in a[1]["splits"] if split in b[1]["splits"]]
    found = [Pair(name, split, protocol, a[0] / split, b[0] / split) for split in shared]
    for pair in found:
        for folder in (pair.a, pair.b):
            if (folder / UNFINISHED).exists():
                raise EvalError(f"{folder}: is not finished (got {UNFINISHED}); run the same `ufo-tune eval` again")
        ours, theirs = set(Stored(pair.a)), set(Stored(pair.b))
        if ours != theirs:
            example = min(ours ^ theirs)
            raise EvalError(
                f"compare {name}, {pair.split}: not the same samples (got {len(ours)} and {len(theirs)}, {example} in "
                "one of them only); use one --limit"
            )
    return found


def _differences(pair: Pair, resamples: int, seed: int, progress: bool) -> list[Difference]:
    """Both models on the samples as they are, then on samples drawn anew."""
    pictures: dict[str, tuple[MetricLike, MetricLike]] = {}
    n = 0
    for n, both in enumerate(pair.cases(), start=1):
        image = both[0].sample.image_id or f"\0{n}"  # a picture without a name stands alone
        metrics = pictures.setdefault(image, (pair.metric(), pair.metric()))
        for metric, case in zip(metrics, both, strict=True):
            metric.update(case.sample, case.prediction)
    units = list(pictures.values())
    started = time.monotonic()
    whole = _values(pair, units, range(len(units)))
    count = resamples or _affordable(time.monotonic() - started)
    rng = np.random.default_rng(seed)
    drawn = [
        _values(pair, units, rng.integers(0, len(units), len(units)).tolist())
        for _ in tqdm(range(count), desc=f"compare {pair.name} {pair.split}", disable=not progress, unit="resample")
    ]
    rows = []
    for name, (a, b) in whole.items():
        scores = np.array([values.get(name, (_NOTHING, _NOTHING)) for values in drawn])  # [resamples, 2]
        gains = np.diff(scores[(scores != _NOTHING).all(axis=1)], axis=1)[:, 0]  # [resamples]
        if _NOTHING not in (a, b) and len(gains):
            low, high = np.percentile(gains, [2.5, 97.5]).tolist()
            row = (b - a, low, high, float((gains <= 0).mean()), len(gains))
            rows.append(Difference(pair.name, pair.split, name, a, b, *row, n, len(units)))
    return rows


def _values(
    pair: Pair, units: Sequence[tuple[MetricLike, MetricLike]], drawn: Sequence[int]
) -> dict[str, tuple[float, float]]:
    """Both models' values on some pictures; one that was drawn twice counts twice."""
    totals = pair.metric(), pair.metric()
    for i in drawn:
        for total, unit in zip(totals, units[i], strict=True):
            total.merge(unit)
    a, b = (total.compute() for total in totals)
    return {name: (a[name], b[name]) for name in a if name in b and not is_count(name)}


def _affordable(seconds: float) -> int:
    """How many resamples fit in the time, in round numbers."""
    return min(RESAMPLES, max(_FEWEST, int(_SECONDS / max(seconds, 1e-6)) // _FEWEST * _FEWEST))


def to_json(differences: Sequence[Difference]) -> list[dict[str, Any]]:
    """Plain values, with ``clear``: whether the interval leaves zero out."""
    return [asdict(d) | {"clear": d.clear} for d in differences]
