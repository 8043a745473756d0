"""POPE: is there such an object in the image, yes or no? Hallucinated objects are false yeses.

Definition, yes being the positive answer: ``accuracy`` = share of right answers, ``precision`` = TP / (TP + FP),
``recall`` = TP / (TP + FN), ``F1`` = their harmonic mean, ``yes_ratio`` = share of answers that are yes. A ratio with
nothing below the line is 0. Where samples of several of POPE's settings are scored together, each value is also given
for each setting (``F1_adversarial``), which is the last of the words random, popular and adversarial in the sample's
source (``pope/popular.jsonl:7``).

An answer is read as the official script does: of the text before the first full stop, commas taken out and split at
blanks, a word ``No``, ``no`` or ``not`` makes it a no, *everything else a yes*. So an empty or unreadable answer counts
as a yes; what has neither such a word nor a ``yes`` in any case is also counted in ``invalid``, so that a model which
never says either cannot pass for one that always says yes. The truth is ``yes`` or ``no`` in any case.

Source: Li et al. 2023 (arXiv 2305.10355) sec. 4 and the ``evaluate.py`` of github.com/AoiDragon/POPE.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ufo_tune.core.types import Prediction, Sample
from ufo_tune.errors import EvalError
from ufo_tune.metrics._base import RowMetric, truth

_SETTING = re.compile("random|popular|adversarial")
_NO = {"No", "no", "not"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was said and what is true; ``setting`` is empty where the source does not tell it."""

    said: bool
    true: bool
    setting: str


class Metric(RowMetric[Verdict]):
    """``accuracy``, ``precision``, ``recall``, ``F1`` and ``yes_ratio``, together and for each setting."""

    def update(self, sample: Sample, prediction: Prediction) -> None:
        """Score one sample; an answer that is neither yes nor no counts as unreadable, once.

        Raises:
            EvalError: the truth is neither yes nor no.
        """
        super().update(sample, prediction)
        if not prediction.invalid and not _no(prediction.text) and "yes" not in prediction.text.lower():
            self.invalid += 1

    def score(self, sample: Sample, prediction: Prediction) -> Verdict:
        """Answer, truth and setting of the sample.

        Raises:
            EvalError: the truth is neither yes nor no.
        """
        text = truth(sample).text.strip().lower()
        if text not in {"yes", "no"}:
            raise EvalError(f"{sample.source}: pope needs a truth of yes or no (got {text!r}); filter the split")
        settings = _SETTING.findall(sample.source.lower())
        return Verdict(not _no(prediction.text), text == "yes", settings[-1] if settings else "")

    def summary(self) -> dict[str, float]:
        """The five values, all in [0, 1]; also for each setting where there are several."""
        values = _values(self.rows)
        settings = sorted({row.setting for row in self.rows})
        for setting in settings if len(settings) > 1 else ():
            own = _values([row for row in self.rows if row.setting == setting])
            values |= {f"{name}_{setting or 'other'}": value for name, value in own.items()}
        return values


def _no(text: str) -> bool:
    """Whether the official script reads a no."""
    return not _NO.isdisjoint(text.partition(".")[0].replace(",", "").split(" "))


def _values(rows: Sequence[Verdict]) -> dict[str, float]:
    hits = sum(row.said and row.true for row in rows)
    said, true = sum(row.said for row in rows), sum(row.true for row in rows)
    return {
        "accuracy": _ratio(sum(row.said == row.true for row in rows), len(rows)),
        "precision": _ratio(hits, said),
        "recall": _ratio(hits, true),
        "F1": _ratio(2 * hits, said + true),
        "yes_ratio": _ratio(said, len(rows)),
    }


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
