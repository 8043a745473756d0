r"""VQA accuracy: an answer is as right as people agree with it.

Definition: of ten annotators' answers (``Targets.references``) leave one out and count those of the other nine that
equal the answer, m; min(m / 3, 1), meaned over the ten ways to leave one out. So an answer that 1, 2, 3, 4 or more of
the ten gave is worth 0.3, 0.6, 0.9, 1. With fewer than ten references, or only a ``text``, it is 1 if it equals any,
else 0.

Before that, the answer and all references are normalised alike, in this order: line ends and tabs become blanks; of
``; / [ ] " { } ( ) = + \ _ - > < @ ` , ? !`` each mark is taken out where it stands beside a blank or a comma stands
between digits anywhere in the text, and becomes a blank elsewhere; a full stop goes unless a digit follows; lower case;
``none`` and ``zero`` to ``ten`` become digits; the articles a, an, the go; contractions without an apostrophe get it
(``dont``). An empty answer is right only where a reference is empty after that.

The official script normalises the references only where annotators differ, and some versions of it leave them their
articles and number words. That matters for a reference that normalising changes: against ten times ``none`` no
normalised answer is right there; here ``none`` and ``0`` are.

Source: Antol et al. 2015 (arXiv 1505.00468) and Goyal et al. 2017 (arXiv 1612.00837); github.com/GT-Vision-Lab/VQA,
``vqaEvaluation/vqaEval.py``; visualqa.org/evaluation.html.
"""

from __future__ import annotations

import re

from ufo_tune.core.types import Prediction, Sample
from ufo_tune.metrics._base import RowMetric, mean, truth

_ANNOTATORS = 10
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_STOP = re.compile(r"\.(?!\d)")
_ARTICLES = {"a", "an", "the"}
_DIGITS = {"none": "0"} | {
    word: str(number) for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
}
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd somebody'd've somebody'll
    somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
    would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _without_one(word: str) -> list[str]:
    """The word with each of its apostrophes left out in turn."""
    return [word[:i] + word[i + 1 :] for i, letter in enumerate(word) if letter == "'"]


_SPELLED = {short: word for word in _CONTRACTIONS.split() for short in _without_one(word)}


def normalise(text: str) -> str:
    """The answer as it is compared; see above."""
    text = text.replace("\n", " ").replace("\t", " ").strip()
    in_number = _COMMA_IN_NUMBER.search(text)
    plain = text
    for mark in _PUNCTUATION:
        beside = f"{mark} " in text or f" {mark}" in text
        plain = plain.replace(mark, "" if beside or in_number else " ")
    words = (_DIGITS.get(word, word) for word in _STOP.sub("", plain).lower().split())
    return " ".join(_SPELLED.get(word, word) for word in words if word not in _ARTICLES)


class Metric(RowMetric[float]):
    """``VQA_accuracy``: mean over questions, in [0, 1]."""

    def score(self, sample: Sample, prediction: Prediction) -> float:
        """The answer's worth, in [0, 1].

        Raises:
            EvalError: the sample has no targets.
        """
        targets = truth(sample)
        said = normalise(prediction.text)
        same = [said == normalise(text) for text in targets.references or (targets.text,)]
        if len(same) < _ANNOTATORS:
            return float(any(same))
        return mean([min((sum(same) - left_out) / 3, 1.0) for left_out in same])

    def summary(self) -> dict[str, float]:
        """``VQA_accuracy``."""
        return {"VQA_accuracy": mean(self.rows)}
