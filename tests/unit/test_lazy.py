"""Sequences that make their members on access, against the list of the same members."""

from __future__ import annotations

import itertools
import pickle
from dataclasses import dataclass, field

import numpy as np
import pytest

from ufo_tune.core.lazy import Lazy, Wrapped
from ufo_tune.core.types import Sample

MEMBERS = [n * n for n in range(5)]


class Plain(Lazy[int]):
    def __len__(self) -> int:
        return 5

    def _make(self, number: int) -> int:
        assert type(number) is int and 0 <= number < 5  # a range starts anew behind a negative place
        return number * number


@dataclass
class Loose(Plain):
    made: list[int] = field(default_factory=list)

    def _make(self, number: int) -> int:
        self.made.append(number)
        return super()._make(number)


@dataclass(frozen=True, slots=True)
class Frozen(Lazy[int]):
    count: int

    def __len__(self) -> int:
        return self.count

    def _make(self, number: int) -> int:
        return number * number


LAZY = [Plain(), Loose(), Frozen(5)]


@pytest.mark.parametrize("squares", LAZY, ids=lambda s: type(s).__name__)
def test_is_like_the_list_of_its_members(squares: Lazy[int]) -> None:
    assert len(squares) == 5 and list(squares) == MEMBERS and list(reversed(squares)) == MEMBERS[::-1]
    assert [squares[n] for n in range(-5, 5)] == MEMBERS + MEMBERS
    places = (None, -7, -5, -2, -1, 0, 1, 3, 5, 9)
    for start, stop, step in itertools.product(places, places, (None, -3, -1, 1, 2)):
        assert squares[start:stop:step] == MEMBERS[start:stop:step]
    assert squares[np.int64(-1)] == 16 and squares.index(9) == 3 and 16 in squares and 2 not in squares
    for outside in (5, -6, 1 << 40):
        with pytest.raises(IndexError):
            squares[outside]


@pytest.mark.parametrize("squares", LAZY, ids=lambda s: type(s).__name__)
def test_goes_to_workers(squares: Lazy[int]) -> None:
    assert list(pickle.loads(pickle.dumps(squares))) == MEMBERS


def test_makes_what_is_asked_for_and_nothing_else() -> None:
    squares = Loose()
    assert squares[-2] == 9 and squares[3:1:-1] == [9, 4] and next(iter(squares)) == 0 and squares[7:] == []
    assert squares.made == [3, 3, 2, 0]


def test_slots_stay_slots() -> None:
    assert not hasattr(Frozen(5), "__dict__")
    with pytest.raises(TypeError, match="abstract"):
        Lazy()


class Broken(Plain):
    def _make(self, number: int) -> int:
        return [7][number]


def test_a_fault_of_a_member_is_not_the_end() -> None:
    with pytest.raises(IndexError):
        list(Broken())


@dataclass(frozen=True)
class Numbered(Wrapped):
    samples: list[Sample]

    def _make(self, number: int) -> Sample:
        return self.samples[number].with_(text=str(number))


class Told(list[Sample]):
    image_ids = ("a", "b", "a")


def test_wrapped_says_what_the_dataset_says() -> None:
    told = Told([Sample(None, (0, 0), "vqa", source=name) for name in "xyz"])
    for samples in (Numbered(told), pickle.loads(pickle.dumps(Numbered(told)))):
        assert len(samples) == 3 and [(s.source, s.text) for s in samples] == [("x", "0"), ("y", "1"), ("z", "2")]
        assert samples.image_ids == ("a", "b", "a") and not hasattr(samples, "class_lists")
    assert getattr(Numbered(list(told)), "image_ids", None) is None
