"""Where something may be written, known before anything is spent.

out = outputs.folder("runs/my")  # a Path; refused where a file is in the way
out = outputs.file("seen.jsonl")
"""

from __future__ import annotations

import os
from pathlib import Path

from ufo_tune.errors import ConfigError


def folder(out: str | Path) -> Path:
    """A folder that is there or can be made; nothing is made yet.

    Raises:
        ConfigError: it is a file, lies below one, or may not be written to.
    """
    out = Path(out)
    for place in (out, *out.absolute().parents):
        if not _is_there(place, out):
            continue
        if not place.is_dir():
            lies = "is" if place == out else "lies below"
            raise ConfigError(f"{out}: {lies} a file, and cannot be a folder (got {place}); choose another --out")
        if not os.access(place, os.W_OK | os.X_OK):
            raise ConfigError(f"{out}: may not be written to (got {place}, read-only); choose another --out")
        break
    return out


def file(out: str | Path) -> Path:
    """A file whose folder is there or can be made; whether it is there itself is another question.

    Raises:
        ConfigError: it is a folder, lies below a file, or may not be written to.
    """
    out = Path(out)
    folder(out.parent)
    if _is_there(out, out) and out.is_dir():
        raise ConfigError(f"{out}: is a folder, and cannot be a file (got it to write); choose another --out")
    return out


def _is_there(place: Path, out: Path) -> bool:
    """Whether a place has something, if only a link to nothing."""
    try:
        place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise ConfigError(f"{out}: cannot be written (got: {error.strerror}); choose another --out") from error
    return True
