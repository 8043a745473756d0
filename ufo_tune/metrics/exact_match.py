"""Text answers: share that equals the truth after normalisation.

Definition: both texts are NFKC-normalised, case-folded, split at white space; punctuation at the ends of each word is
dropped, then English articles (a, an, the) unless nothing else is left ("A" of a multiple choice stays). The answer is
right if what is left is equal; where there are several true texts (``Targets.references``), equal to one of them. Inner
punctuation, signs and symbols stay ("0.5" is not "05", "-3" is not "3"). An empty answer is right only where the truth
is empty.

Source: SQuAD's ``exact_match_score`` and its maximum over true answers (Rajpurkar et al. 2016, arXiv 1606.05250),
except that it drops inner punctuation too.
"""

from __future__ import annotations

import unicodedata

from ufo_tune.core.types import Prediction, Sample
from ufo_tune.metrics._base import RowMetric, mean, truth

_ARTICLES = {"a", "an", "the"}
_OUTER = ".,;:!?\"'`()[]{}"


def normalise(text: str) -> str:
    """Case-folded words without outer punctuation and articles, joined by single spaces."""
    stripped = (w.strip(_OUTER) for w in unicodedata.normalize("NFKC", text).casefold().split())
    words = [w for w in stripped if w]
    return " ".join([w for w in words if w not in _ARTICLES] or words)


class Metric(RowMetric[bool]):
    """``exact_match``: share of answers equal to the truth after ``normalise``."""

    def score(self, sample: Sample, prediction: Prediction) -> bool:
        """Whether the normalised answer is that of a true text.

        Raises:
            EvalError: the sample has no targets.
        """
        targets = truth(sample)
        said = normalise(prediction.text)
        return any(said == normalise(text) for text in targets.references or (targets.text,))

    def summary(self) -> dict[str, float]:
        """``exact_match`` in [0, 1]."""
        return {"exact_match": mean([float(v) for v in self.rows])}
