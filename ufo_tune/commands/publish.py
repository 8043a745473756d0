"""``publish``: a merged model to the Hugging Face Hub."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

EXAMPLES = """\
publish merged org/name --dry-run
publish merged org/name --private --results scores --pictures 0"""


def arguments(sub: ArgumentParser) -> None:
    """What the command takes."""
    sub.add_argument("folder", metavar="DIR", type=Path, help="folder that `ufo-tune merge` wrote")
    sub.add_argument("repo", metavar="REPO", help="ORG/NAME; made where it does not exist")
    sub.add_argument("--private", action="store_true", help="nobody else may see it")
    sub.add_argument("--dry-run", action="store_true", help="say what would go up, with the card; upload nothing")
    sub.add_argument(
        "--results",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="--out of `ufo-tune eval`, for the card; repeat (DIR/eval)",
    )
    sub.add_argument("--pictures", type=int, default=4, help="of evaluation data in the card at most (%(default)s)")


def publish(args: Namespace) -> None:
    """Upload, or say what would be."""
    from ufo_tune.commands.work import print_first_question
    from ufo_tune.engine.publish import publish

    done = publish(
        args.folder,
        args.repo,
        private=args.private,
        dry_run=args.dry_run,
        results=args.results,
        pictures=args.pictures,
    )
    for name, size in done.files:
        print(f"{size:>15,}  {name}")
    for name in done.left_out:
        print(f"{'left out':>15}  {name}")
    if args.dry_run:
        print(f"\nREADME.md:\n\n{done.card}\nnothing was uploaded; without --dry-run it goes to {args.repo}")
    else:
        print(f"{'updated' if done.existed else 'published'}: {done.url}")
        print_first_question(args.folder, args.repo)
