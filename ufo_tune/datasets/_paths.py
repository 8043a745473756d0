"""Where published files lie: the first of the usual places that is there.

annotations = first_file(root, "annotations/lvis_v1_train.json", "lvis_v1_train.json", option="annotations")
"""

from __future__ import annotations

from pathlib import Path

from ufo_tune.errors import DataError


def first_file(root: Path, *choices: str, option: str) -> Path:
    """The first of the files below ``root`` that exists.

    Raises:
        DataError: none does; the message names them, and the option that gives another.
    """
    return _first(root, choices, option, [c for c in choices if (root / c).is_file()], "file")


def first_folder(root: Path, *choices: str, option: str = "") -> Path:
    """The first of the folders below ``root`` that exists.

    Raises:
        DataError: none does; the message names them, and the option that gives another, if there is one.
    """
    return _first(root, choices, option, [c for c in choices if (root / c).is_dir()], "folder")


def _first(root: Path, choices: tuple[str, ...], option: str, there: list[str], what: str) -> Path:
    if not there:
        remedy = f"check root, or give {option}" if option else "check root and split"
        raise DataError(f"{root}: no such {what} (got none of {', '.join(choices)}); {remedy}")
    return root / there[0]
