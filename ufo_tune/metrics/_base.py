"""What every metric shares: one row per sample, so that order and the number of processes cannot change the result.

A metric keeps the row of each sample instead of running float sums: rows merge exactly, and ``mean`` rounds once, so
1 and N ranks give the same digits. A metric sees only ``Sample`` and ``Prediction``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, Protocol, Self, TypeVar

from ufo_tune.core.types import Prediction, Sample, Targets
from ufo_tune.errors import EvalError

Row = TypeVar("Row")


class MetricLike(Protocol):
    """What the evaluator asks of ``metrics/<name>.py: Metric``; ``RowMetric`` is one way to give it.

    It may also have ``curves()``, lines for the report: name -> (x [n], y [n]). A number other than NaN that means
    "not defined" is the file's ``UNDEFINED``.
    """

    def update(self, sample: Sample, prediction: Prediction) -> None:
        """Score one sample."""

    def merge(self, other: Self) -> None:
        """Take in the samples that another process scored."""

    def compute(self) -> dict[str, float]:
        """Values by name, always with ``n`` (samples) and ``invalid`` (answers that could not be read).

        Other counts are called ``n_...``, see ``is_count``. Without any sample there are the same names.
        """


class RowMetric(ABC, Generic[Row]):
    """A metric that keeps one row per sample.

    Attributes:
        rows: What ``score`` gave for each sample so far.
        invalid: Answers that could not be read so far; each was scored as a miss.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.invalid = 0

    @abstractmethod
    def score(self, sample: Sample, prediction: Prediction) -> Row:
        """What has to be kept of one sample."""

    @abstractmethod
    def summary(self) -> dict[str, float]:
        """The values by name, without ``n`` and ``invalid``."""

    def update(self, sample: Sample, prediction: Prediction) -> None:
        """Score one sample.

        Raises:
            EvalError: the sample or the prediction lacks what this metric compares.
        """
        self.rows.append(self.score(sample, prediction))
        self.invalid += prediction.invalid

    def merge(self, other: Self) -> None:
        """Take in the samples that another process scored.

        Raises:
            EvalError: ``other`` is another metric.
        """
        if type(other) is not type(self):
            raise EvalError(f"metric: cannot merge (got {type(other)} into {type(self)}); merge equal metrics")
        self.rows.extend(other.rows)
        self.invalid += other.invalid

    def compute(self) -> dict[str, float]:
        """Values by name, always with ``n`` (samples) and ``invalid`` (answers that could not be read)."""
        return {**self.summary(), "n": len(self.rows), "invalid": self.invalid}


def is_count(name: str) -> bool:
    """Whether a value of ``compute`` says how many there were, and not how good they are."""
    return name in ("n", "invalid") or name.startswith("n_")


def mean(values: Sequence[float]) -> float:
    """The mean, rounded once (independent of order); 0.0 of nothing, where ``n`` says that nothing was scored."""
    return math.fsum(values) / len(values) if values else 0.0


def truth(sample: Sample) -> Targets:
    """The sample's targets.

    Raises:
        EvalError: it has none.
    """
    if sample.targets is None:
        raise EvalError(f"{sample.source}: has no truth to score against (got targets None); use an annotated split")
    return sample.targets
