"""Commands about data: convert, validate, show, stats, audit."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from ufo_tune import outputs
from ufo_tune.commands.use import names
from ufo_tune.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ufo_tune.core.types import Samples
    from ufo_tune.data.audit import Audit

LISTED = 20
"""Overlaps that are listed; the others are counted. ``--json`` has all."""


def convert(args: Namespace) -> None:
    """Any dataset as JSONL."""
    from ufo_tune.data.convert import convert
    from ufo_tune.data.from_labels import FromLabels
    from ufo_tune.data.open import open_dataset

    if args.from_labels and args.task != "instance_segmentation":
        raise ConfigError(f"--from-labels: makes instances (got --task {args.task}); give --task instance_segmentation")
    task = "semantic_segmentation" if args.from_labels else args.task
    samples = open_dataset(args.dataset, args.root, args.split, task, _given(args.option))
    if args.from_labels:
        samples = FromLabels(samples, args.from_labels)
    done = convert(samples, args.out, limit=args.limit, skip_bad=args.skip_bad)
    print(f"written: {args.out}: {done.samples} samples in {done.rows} rows")
    _print_kinds(done.left_out)
    print(f"next: ufo-tune data show {args.out}")


def validate(args: Namespace) -> None:
    """Check a JSONL line by line, or any dataset sample by sample; each problem is a line of its own."""
    from ufo_tune.data import inspect

    what, is_file = " ".join(args.data), len(args.data) == 1
    if args.fix_skip and not is_file:
        raise ConfigError(f"--fix-skip: copies a JSONL (got {what!r}); `ufo-tune data convert --skip-bad` writes one")
    if is_file:
        found = inspect.validate(args.data[0], **_of_file(args))
    else:
        found = [problem for samples in _opened(args).values() for problem in inspect.sample_problems(samples)]
    if args.fix_skip:
        done = inspect.fix(args.data[0], args.fix_skip, found)
        print(f"written: {args.fix_skip}: {done.kept} rows")
        _print_kinds(done.left_out)
    elif found:
        raise DataError("\n".join([*found, f"{what}: {len(found)} problems; mend them and validate again"]))
    else:
        print(f"{what}: no problems")


def show(args: Namespace) -> None:
    """Draw samples with their truth."""
    from ufo_tune.data.inspect import sheets

    written = sheets(_opened(args), args.out, limit=args.limit)
    print("\n".join(f"picture: {path}" for path in written))


def stats(args: Namespace) -> None:
    """Counts of each task as text, JSON and charts."""
    from ufo_tune.data.stats import chart, stats, table

    if args.out:
        outputs.folder(args.out)
    counted = {task: stats(found, progress=not args.json) for task, found in _opened(args).items()}
    if args.json:
        print(json.dumps({task: found.to_dict() for task, found in counted.items()}, indent=2, ensure_ascii=False))
    for task, found in {} if args.json else counted.items():
        print("\n".join([task, *(f"  {line}" for line in table(found))]))
    for task, found in counted.items() if args.out else ():
        args.out.mkdir(parents=True, exist_ok=True)
        path = args.out / f"stats_{task}.png"
        chart(found, task).save(path)
        if not args.json:
            print(f"picture: {path}")


def audit(args: Namespace) -> None:
    """Evaluation images in training data: counts, and where.

    Raises:
        DataError: there is nothing that could be compared.
    """
    from ufo_tune.data.audit import audit
    from ufo_tune.engine.suites import Held

    held = Held.of(args.against)
    entries = _trained_on(args)
    missing = [f"{n}: cannot be opened, so nothing was compared with it ({why})" for n, why in held.missing.items()]
    if not held.samples:
        raise DataError("\n".join([*missing, f"{args.against}: no split can be opened; nothing was compared"]))
    rows: list[dict[str, Any]] = []
    told: set[str] = set()
    for entry, samples in entries.items():
        skipped = getattr(samples, "skipped", 0)
        for suite, other in held.samples.items():
            found = audit(samples, other, bits=args.bits, progress=not args.json)
            rows.append({"entry": entry, "suite": suite, "skipped": skipped, **found.to_dict()})
            if not args.json:
                print(
                    f"{entry} and {suite}: {found.shared} of {found.images} images are among the "
                    f"{found.held_images} of evaluation; {found.samples} of {len(samples)} samples show them"
                )
                _print_overlaps(found, told)
        if skipped and not args.json:
            print(f"{entry}: {skipped} bad rows were not looked at; `ufo-tune data validate` lists them")
    if args.json:
        print(json.dumps({"missing": missing, "overlaps": rows}, indent=2, ensure_ascii=False))
    for line in () if args.json else missing:
        print(line)


def _trained_on(args: Namespace) -> dict[str, Samples]:
    """The samples of a JSONL's tasks, or of a recipe's entries.

    Raises:
        DataError: every row of the file is bad.
    """
    if args.what.endswith((".jsonl", ".json")):
        from ufo_tune.data.inspect import open_tasks

        opened = open_tasks(args.what, image_root=args.image_root, on_bad_sample="skip")
        found: dict[str, Samples] = {f"{args.what} ({s.task})": s for s in opened if len(s)}
        if not found:
            raise DataError(
                f"{args.what}: no row can be looked at (got {opened[0].skipped} bad ones); `ufo-tune data validate` "
                "lists them"
            )
        return found
    from ufo_tune.config import Recipe
    from ufo_tune.engine.sources import open_entry

    mixture = Recipe.load(args.what).data.mixture
    return {f"data.mixture.{n} ({e.dataset}/{e.split})": open_entry(e) for n, e in enumerate(mixture)}


def _opened(args: Namespace) -> dict[str, Samples]:
    """Samples by task: of a JSONL file, or of one dataset for one task."""
    if len(args.data) == 1:
        from ufo_tune.data.inspect import open_tasks
        from ufo_tune.datasets.jsonl import nothing_in

        opened = open_tasks(args.data[0], **_of_file(args))
        if not any(map(len, opened)):
            raise DataError(nothing_in(opened[0]))
        return {samples.task: samples for samples in opened if len(samples)}
    if len(args.data) != 3 or not args.task:
        said = f"{' '.join(args.data)!r}{' --task ' + args.task if args.task else ''}"
        raise ConfigError(f"data: give FILE, or DATASET ROOT SPLIT --task TASK (got {said}); see --help")
    from ufo_tune.data.open import open_dataset

    name, root, split = args.data
    return {args.task: open_dataset(name, root, split, args.task, _given(args.option))}


def _of_file(args: Namespace) -> dict[str, Any]:
    """What the command line says of a JSONL file."""
    if args.option:
        raise ConfigError(f"--option: is for datasets (got {args.option[0]!r} with a file); leave it out")
    tasks = {"tasks": (args.task,)} if args.task else {}
    return {**tasks, "classes": names(args.classes), "image_root": args.image_root}


def _given(options: list[str]) -> dict[str, Any]:
    """``["layout=yolo", "images=8"]`` as options, with values as YAML has them."""
    import yaml

    given: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        try:
            given[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--option: {key} is no YAML value (got {value!r}); quote it") from error
        if not equals:
            raise ConfigError(f"--option: has no value (got {option!r}); write --option {option}=VALUE")
    return given


def _print_kinds(left_out: dict[str, int]) -> None:
    for kind, count in left_out.items():
        print(f"left out: {count} x {kind}")


def _print_overlaps(found: Audit, told: set[str]) -> None:
    """Those that no other task or entry has told already."""
    new = [line for line in map(str, found.overlaps) if line not in told]
    told.update(new)
    print("".join(f"  {line}\n" for line in new[:LISTED]), end="")
    if len(new) > LISTED:
        print(f"  and {len(new) - LISTED} more; --json lists all")
    if found.other_pictures:
        print(f"  {found.other_pictures} more have the same name but show something else")
    if found.unreadable:
        print(f"  {found.unreadable} images could not be opened")
