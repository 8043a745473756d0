"""Commands about the user's own data: validate, show."""

from __future__ import annotations

from argparse import Namespace


def validate(args: Namespace) -> int:
    """Check a JSONL line by line."""
    from ufo_tune.data.inspect import validate

    return int(bool(validate(args.file)))


def show(args: Namespace) -> None:
    """Draw samples of a JSONL with their truth."""
    from ufo_tune.data.inspect import show

    show(args.file, args.out, limit=args.limit)
    print(f"pictures: {args.out}")
