"""What the report and the comparison ask of every metric, for each file of ufo_tune/metrics."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.contract.test_metrics import BETTER_IS_LESS, NAMES, TEXTS, _build, _pair, _spoil
from ufo_tune.core.types import Prediction, Sample
from ufo_tune.engine.analysis import own_score
from ufo_tune.engine.baseline import Constant, about, perfect
from ufo_tune.metrics._base import is_count

NUMBERS = range(0, 22, 3)
"""Far enough apart that no box fits them all."""


def samples(name: str) -> list[tuple[Sample, Prediction]]:
    """Samples, and answers some of which are wrong."""
    pairs = [_pair(number, TEXTS.get(name)) for number in NUMBERS]
    return [(s, _spoil(p, n)) for n, (s, p) in enumerate(pairs)]


def scored(name: str, said: list[tuple[Sample, Prediction]]) -> Any:
    metric = _build(name)
    for sample, prediction in said:
        metric.update(sample, prediction)
    return metric


@pytest.mark.parametrize("name", NAMES)
def test_the_truth_beats_a_constant(name: str) -> None:
    asked = [sample for sample, _ in samples(name)]
    constant = Constant.of([about(sample) for sample in asked])
    best = scored(name, [(s, perfect(s)) for s in asked]).compute()
    blind = scored(name, [(s, constant.prediction(s)) for s in asked]).compute()
    key = next(iter(best))
    assert (best[key] < blind[key]) if key in BETTER_IS_LESS else (best[key] > blind[key])
    assert all(map(math.isfinite, blind.values()))


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_that_is_drawn_twice_counts_twice(name: str) -> None:
    """The bootstrap merges what one sample left more than once; that must be as if another sample were alike."""
    said = samples(name)
    again = [(s.with_(source=f"{s.source} again", image_id=f"{s.image_id} again"), p) for s, p in said[:2]]
    merged = scored(name, said)
    for pair in said[:2]:
        merged.merge(scored(name, [pair]))
    assert merged.compute() == pytest.approx(scored(name, [*said, *again]).compute())


@pytest.mark.parametrize("name", NAMES)
def test_one_sample_has_a_score_of_its_own(name: str) -> None:
    for pair in samples(name):
        value = own_score(scored(name, [pair]).compute())
        assert not is_count(value[0]) and math.isfinite(value[1])


def test_counts_are_no_scores() -> None:
    values = {"n_IoU_pairs": 4, "n": 3, "invalid": 0, "n_pixels": 9, "AbsRel": 0.2}
    assert [is_count(name) for name in values] == [True, True, True, True, False]
    assert own_score(values) == ("AbsRel", 0.2)
