"""The rows of JSON files of any size, one at a time: the largest annotation files do not fit into memory.

    for name, begin, end, row in rows(path, "images", "annotations"): ...

A file is an object that holds lists of objects, as COCO's is, or one such list, whose name is then ``""``. Places are
bytes of the file, so that ``Places`` can remember rows by 24 bytes each and read them again in another order.
"""

from __future__ import annotations

import json
import mmap
import re
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ufo_tune.datasets import _readers as readers
from ufo_tune.errors import DataError

Row = dict[str, Any]
_WINDOW = 1 << 23
"""Bytes of a file that are in memory at once, unless one value is longer."""
_LONGEST = 1 << 28
"""Bytes of the longest value: text that is no JSON must not draw the whole file into memory."""
_BLANKS = re.compile(r"[ \t\n\r]*")
_COMMA = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")
_BOM = b"\xef\xbb\xbf"
"""What some editors put before the text."""
_DECODER = json.JSONDecoder()


def rows(path: Path, *names: str) -> Iterator[tuple[str, int, int, Row]]:
    """Every object of the named lists in the order of the file: the list's name, begin and end in bytes, the object.

    Args:
        path: the file.
        names: lists that are wanted; other values are passed over. Without any the file is one list, named ``""``.

    Raises:
        DataError: no such file; not JSON; a list is missing, or holds something else than objects.
    """
    with _opened(path) as data:
        text = _Text(path, data)
        found: list[str] = []
        if not names:
            yield from _elements(text, "")
        else:
            text.take("{")
            more = text.peek() != "}"
            while more:
                name = str(text.value()[2])
                text.take(":")
                found.append(name)
                if name in names:
                    yield from _elements(text, name)
                else:
                    text.value()
                more = text.comma("}")
            text.take("}")
        text.take("")
        for name in names:
            if name not in found:
                raise DataError(f"{path}: has no list {name!r} (got {', '.join(found)[:200]}); is this the right file?")


def field(row: Row, key: str, where: str) -> Any:
    """The value of a key that a row must have.

    Raises:
        DataError: it lacks the key.
    """
    if key not in row:
        raise DataError(f"{where}: lacks {key!r} (got {', '.join(row)}); download the file again")
    return row[key]


class Places:
    """Where the rows of a file are, by the number of the group that each belongs to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places = array("q")  # group, begin and end of every row

    def add(self, group: int, begin: int, end: int) -> None:
        """Remember one row."""
        self._places.extend((group, begin, end))

    def groups(self) -> np.ndarray:
        """The group [rows] of every row, in the order of the file."""
        return self._array()[:, 0]

    def read(self, groups: np.ndarray) -> Iterator[list[Row]]:
        """The rows of each of these groups in turn, in the order of the file."""
        places = self._array()
        order = np.argsort(places[:, 0], kind="stable")
        known = places[order, 0]
        starts, ends = np.searchsorted(known, groups, "left"), np.searchsorted(known, groups, "right")
        with _opened(self._path) as data:
            for start, stop in zip(starts.tolist(), ends.tolist(), strict=True):
                found = places[order[start:stop], 1:].tolist()
                yield [_DECODER.raw_decode(data[begin:end].decode())[0] for begin, end in found]

    def _array(self) -> np.ndarray:
        return np.array(self._places, dtype=np.int64).reshape(-1, 3)  # [rows, 3]


class _Text:
    """A window that moves along a file. One byte is one character in it, so that places are bytes."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self._data = data
        self._place = len(_BOM) if data[: len(_BOM)] == _BOM else 0  # what is read next
        self._begin = self._place  # of the window
        self._window = ""

    def peek(self) -> str:
        """The next character that is not blank; at the end an empty text."""
        while True:
            match = _BLANKS.match(self._window, self._place - self._begin)
            assert match is not None  # it matches nothing, too
            self._place = self._begin + match.end()
            if match.end() < len(self._window):
                return self._window[match.end()]
            if self._place >= len(self._data):
                return ""
            self._fill(_WINDOW)

    def take(self, character: str) -> None:
        """Pass over this character; an empty text: the end of the file.

        Raises:
            DataError: another one comes next.
        """
        found = self.peek()
        if found != character:
            raise self._fault(f"{found or 'the end'} where {character or 'the end'} should be", self._place)
        self._place += len(character)

    def comma(self, end: str) -> bool:
        """Pass over the comma after an element; False: ``end`` comes next, so it was the last one."""
        match = _COMMA.match(self._window, self._place - self._begin)
        if match and match.end() < len(self._window):  # nearly always; the rest is for the window's border
            self._place = self._begin + match.end()
            return True
        if self.peek() == end:
            return False
        self.take(",")
        return True

    def value(self) -> tuple[int, int, Any]:
        """The next value: begin and end in bytes, and the value.

        Raises:
            DataError: it is not JSON, or not UTF-8.
        """
        self.peek()
        size = _WINDOW
        while True:
            last = self._begin + len(self._window) >= len(self._data) or len(self._window) >= _LONGEST
            try:
                found, end = _DECODER.raw_decode(self._window, self._place - self._begin)
            except json.JSONDecodeError as error:
                if last:
                    raise self._fault(error.msg, self._begin + error.pos) from error
            except RecursionError as error:
                raise self._fault("lists in lists without end", self._place) from error
            else:
                if last or end < len(self._window):  # else a number may go on behind the window
                    break
            size *= 2 if self._begin == self._place else 1
            self._fill(size)
        begin, self._place = self._place, self._begin + end
        if not self._window.isascii():
            try:
                found = json.loads(self._data[begin : self._place])
            except ValueError as error:
                raise self._fault(str(error), begin) from error
        return begin, self._place, found

    def _fill(self, size: int) -> None:
        self._begin = self._place
        self._window = self._data[self._begin : self._begin + size].decode("latin-1")

    def _fault(self, what: str, place: int) -> DataError:
        return DataError(
            f"{self.path}: cannot be read as JSON (got, at byte {place}: {what}); mend or download it again"
        )


def _elements(text: _Text, name: str) -> Iterator[tuple[str, int, int, Row]]:
    text.take("[")
    more = text.peek() != "]"
    while more:
        begin, end, row = text.value()
        if not isinstance(row, dict):
            raise DataError(f"{text.path}: {name or 'the list'} holds no objects (got {row!r:.80}); is this the file?")
        yield name, begin, end, row
        more = text.comma("]")
    text.take("]")


@contextmanager
def _opened(path: Path) -> Iterator[mmap.mmap]:
    with readers.existing(path, "annotation file").open("rb") as file:
        if not path.stat().st_size:
            raise DataError(f"{path}: is empty (got 0 bytes); download it again")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data
