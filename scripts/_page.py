"""What the writers of pages share: their command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(page: Callable[[], str], name: str, source: str, about: str | None) -> int:
    """Write ``docs/{name}``, or with ``--check`` say whether it is up to date.

    Args:
        page: the whole text.
        name: of the file.
        source: what the text is made of, in words.
        about: of the script, for its ``--help``.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    file = ROOT / "docs" / name
    if not parser.parse_args().check:
        file.write_text(page(), encoding="utf-8")
        return 0
    if file.is_file() and file.read_text(encoding="utf-8") == page():
        return 0
    print(f"{name}: is not what {source} say; run `python scripts/{parser.prog}`", file=sys.stderr)
    return 1
