"""Repeat factors: the formula of LVIS by hand, and epochs in which each sample comes as often as its factor says."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from ufo_tune.config import MixtureEntry
from ufo_tune.data.epochs import Repeated
from ufo_tune.data.mixture import Mixture
from ufo_tune.data.repeat_factors import repeat_factors
from ufo_tune.errors import ConfigError


class Classed(list):
    """Stands for a dataset whose samples hold these classes."""

    def __init__(self, held: list[list[int]]) -> None:
        super().__init__(range(len(held)))
        self.held = held

    def class_lists(self) -> tuple[np.ndarray, np.ndarray]:
        flat = np.array([c for one in self.held for c in one], dtype=np.int32)
        return flat, np.cumsum([len(one) for one in self.held])


def _plain(held: list[list[int]], threshold: float) -> list[float]:
    """The formula, image by image."""
    share = {c: sum(c in one for one in held) / len(held) for one in held for c in one}
    return [max([1.0, *(math.sqrt(threshold / share[c]) for c in one)]) for one in held]


def _factors(held: list[list[int]], threshold: float) -> np.ndarray:
    classes, ends = Classed(held).class_lists()
    return repeat_factors(classes, ends, threshold)


def _entry(threshold: float) -> MixtureEntry:
    return MixtureEntry(task="detection", dataset="lvis", repeat_threshold=threshold)


def test_by_hand() -> None:
    # Of 8 images 1 holds class 2, and 1 class 7: r = sqrt(.5 / .125) = 2. Class 0 is in 3 and class 5 in 5.
    held = [[0, 0], [0, 2], [5, 5], [5, 0], [5], [5, 0], [5], [7, 7, 7]]
    factors = _factors(held, 0.5)
    np.testing.assert_allclose(factors, [1, 2, 1, 1, 1, 1, 1, 2])


def test_equals_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ufo_tune.data.repeat_factors._SAMPLES", 64)
    rng = np.random.default_rng(0)
    weights = 0.5 ** np.arange(12)
    held = [
        rng.choice(12, size=rng.integers(0, 5), p=weights / weights.sum()).tolist() for _ in range(300)
    ]  # some images are empty, some hold a class twice
    for threshold in (0.001, 0.05, 0.4):
        found = _factors(held, threshold)
        np.testing.assert_allclose(found, _plain(held, threshold))


def test_without_objects_nothing_is_repeated() -> None:
    np.testing.assert_array_equal(repeat_factors(np.zeros(0, np.int32), np.zeros(3, np.int64), 0.5), np.ones(3))


def test_an_epoch_holds_what_the_factors_add_up_to() -> None:
    factors = np.array([1.0, 2.3, 1.0, 4.0, 1.5, 1.25])  # 11.05
    epochs = Repeated(factors)
    assert epochs.groups == 12
    counts = np.zeros(6)
    for epoch in range(3000):
        seen = Counter(epochs.group(place, (7, epoch))[0] for place in range(epochs.groups))
        one = np.array([seen[i] for i in range(6)])
        expected = factors * 12 / 11.05
        assert ((one == np.floor(expected)) | (one == np.ceil(expected))).all() and one.min() >= 1
        counts += one
    # Systematic sampling: each count is one of two neighbours, so its standard deviation is at most 1/2.
    np.testing.assert_allclose(counts / 3000, factors * 12 / 11.05, atol=4 * 0.5 / math.sqrt(3000))


def test_whole_factors_are_exact() -> None:
    epochs = Repeated(np.array([1.0, 3.0, 2.0]))
    assert epochs.groups == 6
    for epoch in range(20):
        assert Counter(epochs.group(p, (epoch,))[0] for p in range(6)) == {0: 1, 1: 3, 2: 2}


def test_repeats_in_the_mixture_are_shared_by_ranks_and_resume() -> None:
    held = [[0]] * 9 + [[1]]  # r(1) = sqrt(.4 / .1) = 2: eleven draws an epoch
    source = Classed(held)

    def make(rank: int = 0, world: int = 1) -> Mixture:
        return Mixture([_entry(0.4)], [source], batch_size=1, rank=rank, world=world, seed=2)  # type: ignore[list-item]

    whole = [d.groups[0][0] for d in itertools.islice(make(), 110)]
    for start in range(0, 110, 11):
        assert Counter(whole[start : start + 11]) == {**dict.fromkeys(range(9), 1), 9: 2}
    ranks = [[d.groups[0][0] for d in itertools.islice(make(r, 2), 55)] for r in (0, 1)]
    assert [i for pair in zip(*ranks, strict=True) for i in pair] == whole
    first = make()
    list(itertools.islice(first, 17))
    second = make()
    second.load_state_dict(first.state_dict())
    assert [d.groups[0][0] for d in itertools.islice(second, 93)] == whole[17:]


def test_refuses_what_it_cannot_do() -> None:
    with pytest.raises(
        ConfigError, match=r"data\.mixture\.0\.repeat_threshold: dataset lvis does not say which classes"
    ):
        Mixture([_entry(0.1)], [list(range(5))], batch_size=1)  # type: ignore[list-item]
