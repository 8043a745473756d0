"""``refs(*).p`` without running what a pickle may ask for.

    refs = load(Path("refcoco/refs(unc).p"))

A pickle is a program: it may import and call anything. REFER's are Python 2 pickles of lists, dictionaries, texts and
numbers, which need no import at all; files made later in the same layout may hold NumPy numbers. So nothing is
imported: numbers are built here from their bytes, and whatever else a file asks for is refused by name.
"""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ufo_tune.datasets import _readers as readers
from ufo_tune.errors import DataError

_DAMAGE = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)
"""What the unpickler is known to raise on damaged files."""


def load(path: Path) -> list[dict[str, Any]]:
    """The list of dictionaries in a pickle; Python 2's byte strings are read as Latin-1.

    Raises:
        DataError: no such file, no pickle, something else than a list of dictionaries, or a pickle that asks for
            anything to be imported; the message names it, and nothing has run.
    """
    with readers.existing(path, "pickle of refs").open("rb") as file:
        try:
            refs = _PlainUnpickler(file, path).load()
        except _DAMAGE as error:
            raise DataError(f"{path}: is no pickle that can be read (got {error}); download it again") from error
    if not isinstance(refs, list) or not all(isinstance(r, dict) for r in refs):
        raise DataError(f"{path}: must hold a list of dictionaries (got {type(refs).__name__}); is this REFER's file?")
    return refs


class _PlainUnpickler(pickle.Unpickler):
    """Knows the names in ``_ALLOWED`` and no others."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        super().__init__(file, encoding="latin1")
        self._path = path

    def find_class(self, module: str, name: str, /) -> Any:
        """One of ours in place of what was asked for."""
        if (module, name) not in _ALLOWED:
            raise DataError(
                f"{self._path}: the pickle asks for code to be run (got {module}.{name}); a file of refs needs none: "
                "delete it and download it from a place that you trust"
            )
        return _ALLOWED[module, name]


class _Kind:
    """Stands in for ``numpy.dtype``: how the bytes of a number are read."""

    def __init__(self, code: str, *_: object) -> None:
        if not re.fullmatch(r"b1|[iu][1248]|f[248]", code):
            raise pickle.UnpicklingError(f"numbers of kind {code!r}")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"byte order {state[1]!r}")
        self.order = state[1]


def _number(kind: _Kind, raw: bytes | str) -> Any:
    """Stands in for ``numpy.core.multiarray.scalar``; gives a plain Python number."""
    data = raw.encode("latin1") if isinstance(raw, str) else raw
    return np.frombuffer(data, dtype=kind.order + kind.code)[0].item()


def _encoded(text: str, *_: object) -> bytes:
    """Stands in for ``_codecs.encode``, by which Python 3 writes bytes for Python 2."""
    return text.encode("latin1")


_ALLOWED: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _Kind,
    ("numpy.core.multiarray", "scalar"): _number,
    ("numpy._core.multiarray", "scalar"): _number,
    ("_codecs", "encode"): _encoded,
}
