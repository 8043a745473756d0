"""A folder that is there whole or not at all, whatever stops the program that writes it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_or_nothing(out: Path) -> Iterator[Path]:
    """A place beside ``out`` to make a folder at, which takes its name in the end, or is gone where that fails."""
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    part.rename(out)
