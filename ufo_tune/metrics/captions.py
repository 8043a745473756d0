"""Captions: BLEU, ROUGE-L and CIDEr-D against the references of each image; no Java.

Definition, over words as COCO counts them (``_ptb_words``), one caption and one or more references a sample:

* ``BLEU-n``, n = 1..4: geometric mean of the precisions of 1..n-grams over the whole set, each n-gram counted at most
  as often as in the reference that has it most; times exp(1 - r / c) where the captions' length c is below the length r
  of the references that are closest in length (the shorter of two as close).
* ``ROUGE-L``: mean over samples of (1 + b^2) P R / (R + b^2 P), b = 1.2, where P and R are the longest common
  subsequence over the caption's and the reference's length, each the best of all references.
* ``CIDEr``: CIDEr-D. Mean over n = 1..4, references and samples of the cosine of tf-idf vectors of n-grams, the
  caption's weights clipped to the reference's, times exp(-d^2 / (2 * 6^2)), d the difference of their numbers of
  2-grams; times 10, so that 1.2 is what papers call 120. Document frequencies are those of the evaluated references: a
  limited evaluation has another scale, and a single sample has 0. Hence ROUGE-L comes first, where one sample counts.
* ``METEOR_nltk`` (option): mean over samples of NLTK's METEOR, the best of the references. It is the METEOR of 2005
  (exact, stem, WordNet synonym; alpha 0.9, beta 3, gamma 0.5) and not comparable with COCO's METEOR 1.5, a Java program
  with paraphrase tables and other parameters.

An empty or unreadable caption scores 0; a reference without words is passed over. Where no n-gram matches BLEU-n is 0;
pycocoevalcap adds 1e-15 to the counts, which gives about 1e-4 there and the same elsewhere.

Source: Papineni et al. 2002; Lin 2004; Vedantam et al. 2015 (arXiv 1411.5726); Banerjee and Lavie 2005; in the variants
of COCO's server (Chen et al. 2015, arXiv 1504.00325), as the Python scorers of pycocoevalcap 1.2 compute them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ufo_tune.core.types import Prediction, Sample
from ufo_tune.errors import ConfigError, EvalError
from ufo_tune.metrics._base import RowMetric, mean, truth
from ufo_tune.metrics._ptb_words import words

Words = tuple[str, ...]
_ORDER = 4
"""Longest n-gram."""
_BETA = 1.2
_SIGMA = 6.0


@dataclass(frozen=True, slots=True)
class Caption:
    """One sample in words; ``meteor`` is 0 where it is not asked for."""

    said: Words
    references: tuple[Words, ...]
    meteor: float = 0.0


class Metric(RowMetric[Caption]):
    """``ROUGE-L``, ``BLEU-1`` to ``BLEU-4``, ``CIDEr`` and, with its option, ``METEOR_nltk``.

    Args:
        meteor: ``METEOR_nltk`` too; takes the extra ``meteor`` and NLTK's WordNet data.

    Raises:
        ConfigError: ``meteor`` without the package or its data.
    """

    def __init__(self, *, meteor: bool = False) -> None:
        super().__init__()
        self.meteor = meteor
        if meteor:
            _need_nltk()

    def score(self, sample: Sample, prediction: Prediction) -> Caption:
        """The words of caption and references.

        Raises:
            EvalError: the sample has no reference.
        """
        targets = truth(sample)
        texts = targets.references or (targets.text,)
        references = tuple(reference for text in texts if (reference := words(text)))
        if not references:
            raise EvalError(f"{sample.source}: captions needs a reference with words (got {texts}); filter the split")
        said = words(prediction.text)
        return Caption(said, references, _meteor(said, references) if self.meteor else 0.0)

    def summary(self) -> dict[str, float]:
        """The values, in [0, 1]; CIDEr in [0, 10]."""
        values = {"ROUGE-L": mean([_rouge(row) for row in self.rows])}
        values |= {f"BLEU-{n}": value for n, value in enumerate(_bleu(self.rows), start=1)}
        values["CIDEr"] = mean(_cider(self.rows))
        return values | ({"METEOR_nltk": mean([row.meteor for row in self.rows])} if self.meteor else {})


def _grams(said: Words) -> Counter[Words]:
    """How often each n-gram of 1 to 4 words is there."""
    return Counter(said[i : i + n] for n in range(1, _ORDER + 1) for i in range(len(said) - n + 1))


def _bleu(rows: Sequence[Caption]) -> list[float]:
    """BLEU-1 to BLEU-4 of the whole set."""
    right, given = [0] * _ORDER, [0] * _ORDER
    said, wanted = 0, 0
    for row in rows:
        most: Counter[Words] = Counter()
        for reference in row.references:
            most |= _grams(reference)
        own = _grams(row.said)
        for gram, count in own.items():
            given[len(gram) - 1] += count
            right[len(gram) - 1] += min(count, most[gram])
        said += len(row.said)
        wanted += min((len(r) for r in row.references), key=lambda length: (abs(length - len(row.said)), length))
    brevity = math.exp(min(0.0, 1 - wanted / said)) if said else 0.0
    values, product = [], 1.0
    for n, (hits, count) in enumerate(zip(right, given, strict=True), start=1):
        product *= hits / count if count else 0.0
        values.append(brevity * product ** (1 / n))
    return values


def _rouge(row: Caption) -> float:
    """ROUGE-L of one caption."""
    if not row.said:
        return 0.0
    common = [(_common(row.said, reference), len(reference)) for reference in row.references]
    precision = max(shared for shared, _ in common) / len(row.said)
    recall = max(shared / length for shared, length in common)
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision) if precision else 0.0


def _common(a: Words, b: Words) -> int:
    """Length of the longest common subsequence."""
    best = [0] * (len(b) + 1)
    for word in a:
        before = best
        best = [0]
        for i, other in enumerate(b):
            best.append(before[i] + 1 if word == other else max(best[i], before[i + 1]))
    return best[-1]


def _cider(rows: Sequence[Caption]) -> list[float]:
    """CIDEr-D of every caption."""
    counted = [(_grams(row.said), [_grams(reference) for reference in row.references]) for row in rows]
    documents = Counter(gram for _, references in counted for gram in set().union(*references))
    rarity = {gram: math.log(len(rows) / count) for gram, count in documents.items()}
    unseen = math.log(len(rows)) if rows else 0.0

    def weigh(grams: Mapping[Words, int]) -> list[dict[Words, float]]:
        """tf-idf weights, apart for each n."""
        vectors: list[dict[Words, float]] = [{} for _ in range(_ORDER)]
        for gram, count in grams.items():
            vectors[len(gram) - 1][gram] = count * rarity.get(gram, unseen)
        return vectors

    scores = []
    for row, (own, references) in zip(rows, counted, strict=True):
        said = weigh(own)
        similar = [
            _likeness(said, weigh(grams), _two_grams(row.said) - _two_grams(reference))
            for grams, reference in zip(references, row.references, strict=True)
        ]
        scores.append(10 * mean(similar))
    return scores


def _two_grams(said: Words) -> int:
    return max(0, len(said) - 1)


def _likeness(said: list[dict[Words, float]], reference: list[dict[Words, float]], difference: int) -> float:
    """Mean over n of the clipped cosine, lessened by the difference in length; in [0, 1]."""
    cosines = []
    for a, b in zip(said, reference, strict=True):
        norm = math.sqrt(math.fsum(v * v for v in a.values()) * math.fsum(v * v for v in b.values()))
        shared = math.fsum(min(weight, b[gram]) * b[gram] for gram, weight in a.items() if gram in b)
        cosines.append(shared / norm if norm else 0.0)
    return mean(cosines) * math.exp(-(difference**2) / (2 * _SIGMA**2))


def _meteor(said: Words, references: Sequence[Words]) -> float:
    """NLTK's METEOR, the best of the references."""
    from nltk.translate.meteor_score import meteor_score

    return float(meteor_score(references, said))


def _need_nltk() -> None:
    """Refuse before anything is spent; the package comes without the data it needs."""
    try:
        import nltk
    except ImportError as error:
        raise ConfigError(
            "metrics/captions.meteor: needs NLTK (got no module nltk); pip install 'ufo-tune[meteor]', or meteor: false"
        ) from error
    try:
        nltk.corpus.wordnet.ensure_loaded()
    except LookupError as error:
        raise ConfigError(
            "metrics/captions.meteor: needs WordNet (got no corpora/wordnet in NLTK's data folders); "
            "python -m nltk.downloader wordnet, or meteor: false"
        ) from error
