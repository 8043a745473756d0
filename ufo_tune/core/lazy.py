"""Sequences whose members are made when somebody asks for them: a dataset keeps where things are, not the things.

class Squares(Lazy[int]):
def __len__(self) -> int:
return 10

def _make(self, number: int) -> int:
return number**2

Squares()[-1], Squares()[2:4]    # 81, [4, 9]
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, overload

from ufo_tune.core.types import Sample, Samples

T_co = TypeVar("T_co", covariant=True)


class Lazy(Sequence[T_co]):
    """A sequence out of its length and ``_make``; places from the end, slices and IndexError are seen to here."""

    __slots__ = ()

    @abstractmethod
    def _make(self, number: int) -> T_co:
        """The member at a place 0 .. len - 1."""

    @overload
    def __getitem__(self, index: int) -> T_co: ...
    @overload
    def __getitem__(self, index: slice) -> list[T_co]: ...
    def __getitem__(self, index: int | slice) -> T_co | list[T_co]:
        """One member, or a list of those in a slice.

        Raises:
            IndexError: there is no such place.
        """
        places = range(len(self))[index]
        return self._make(places) if isinstance(places, int) else [self._make(place) for place in places]

    def __iter__(self) -> Iterator[T_co]:
        """All in order. Unlike ``Sequence``'s, it does not take an IndexError out of ``_make`` for the end."""
        return map(self._make, range(len(self)))


class Wrapped(Lazy[Sample]):
    """Samples made one by one out of those of a dataset, whose ``image_ids`` and ``class_lists`` hold for them too.

    A dataset may lack either; then ``hasattr`` finds none here.
    """

    samples: Samples

    @property
    def image_ids(self) -> Any:
        """The dataset's, where it has them."""
        return self.samples.image_ids  # type: ignore[attr-defined]

    @property
    def class_lists(self) -> Any:
        """The dataset's, where it has them."""
        return self.samples.class_lists  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self.samples)
