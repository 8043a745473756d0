"""Write the tiny native files that the tests read a dataset from: a picture of the tree that a real download has.

python scripts/make_fixtures.py lvis --out seen      # one dataset
python scripts/make_fixtures.py --out seen           # every one, each in its own folder
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the makers live among the tests

from tests import data_files  # noqa: E402
from ufo_tune import plugins  # noqa: E402
from ufo_tune.errors import ConfigError  # noqa: E402


def main() -> int:
    """Write the files and say what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", nargs="*", help="names as in `ufo-tune data ls`; none: all")
    parser.add_argument("--out", type=Path, required=True, help="a folder to write to")
    args = parser.parse_args()
    try:
        names = [plugins.find("datasets", name).__name__.rsplit(".", 1)[-1] for name in args.dataset]
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name in names or plugins.names("datasets"):
        folder = args.out / name
        folder.mkdir(parents=True, exist_ok=True)
        root, split, options = data_files.make(name, folder)
        print(f"{name}: root {root or '(none)'}, split {split}" + (f", options {options}" if options else ""))
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            print(f"  {path.relative_to(folder)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
