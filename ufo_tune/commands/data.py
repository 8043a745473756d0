"""Commands about the user's own data: validate, show."""

from __future__ import annotations

from argparse import Namespace

from ufo_tune.commands.use import names
from ufo_tune.errors import DataError


def validate(args: Namespace) -> None:
    """Check a JSONL line by line; each problem is a line of its own."""
    from ufo_tune.data.inspect import validate

    problems = validate(args.file, classes=names(args.classes), image_root=args.image_root)
    if problems:
        raise DataError("\n".join([*problems, f"{args.file}: {len(problems)} problems; mend them and validate again"]))
    print(f"{args.file}: no problems")


def show(args: Namespace) -> None:
    """Draw samples of a JSONL with their truth."""
    from ufo_tune.data.inspect import show

    written = show(args.file, args.out, limit=args.limit, classes=names(args.classes), image_root=args.image_root)
    print("\n".join(f"picture: {path}" for path in written))
