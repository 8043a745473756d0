"""Commands that use a checkpoint: eval, predict."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from ufo_tune import outputs, plugins
from ufo_tune.errors import ConfigError


def evaluate(args: Namespace) -> None:
    """Score a checkpoint on protocols, or compare two scores."""
    for name in ("limit", "resamples"):
        if getattr(args, name) < 0:
            raise ConfigError(f"eval: --{name} must not be negative (got {getattr(args, name)}); 0 means all")
    if args.compare:
        _compare(args)
        return
    if args.checkpoint is None or not args.suite:
        raise ConfigError("eval: needs a checkpoint and --suite NAME, or --compare A B; see ufo-tune eval --help")
    from ufo_tune.engine.evaluate import evaluate_checkpoint

    # A published model has no folder here, and one of its name would be taken for it the next time.
    here = Path(args.checkpoint)
    out = args.out or (here / "eval" if here.is_dir() else Path(f"eval_{here.name}"))
    evaluate_checkpoint(args.checkpoint, args.suite, limit=args.limit, out=out, progress=not args.json)
    if os.environ.get("RANK", "0") == "0":
        text = (out / "metrics.json").read_text(encoding="utf-8")
        document = json.loads(text)
        lines = [*_lines(document["protocols"]), *_sanity(document["sanity"])]
        lines += [f"weights: {document['weights']}", f"report: {out / 'report.html'}"]
        print(text.rstrip() if args.json else "\n".join(lines))


def _compare(args: Namespace) -> None:
    if args.checkpoint is not None or args.suite:
        raise ConfigError("eval: --compare takes two evaluated folders and neither a checkpoint nor --suite")
    from ufo_tune.engine.compare import compare, to_json
    from ufo_tune.engine.compare_report import rows, write_comparison

    a, b = args.compare
    if args.out:
        outputs.folder(args.out)
    differences = compare(a, b, resamples=args.resamples, progress=not args.json)
    if args.out:
        write_comparison(differences, a, b, args.out)
    if args.json:
        print(json.dumps(to_json(differences), indent=2))
        return
    for row in rows(differences):
        print(
            f"{row['protocol']} {row['split']}  {row['value']}  A {row['A']:.4f}  B {row['B']:.4f}  "
            f"B - A {row['B - A']}  95 % [{row['95 % interval']}]  {row['']}  "
            f"(B not above A in {row['B not above A']} of {row['resamples']} resamples; n {row['n']})"
        )
    if args.out:
        print(f"page: {args.out / 'compare.html'}")


def predict(args: Namespace) -> None:
    """Answer one question about some pictures."""
    missing = [str(i) for i in args.images if not os.path.isfile(i)]
    if missing:
        raise ConfigError(f"predict: no such file (got {', '.join(missing)}); give pictures that exist")
    plugins.find("tasks", args.task)  # known before a large model is loaded
    from ufo_tune.engine.predict import predict_files

    rows = predict_files(
        args.checkpoint,
        args.images,
        args.task,
        text=args.text,
        classes=names(args.classes),
        tile=args.tile,
        out=args.out,
        progress=not args.json,
        warn=lambda line: print(f"warning: {line}", file=sys.stderr),
    )
    if args.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    for row in [] if args.json else rows:
        print(f"{row['image']}: {_told(row)}  -> {row['overlay']}")


def _told(row: dict[str, Any]) -> str:
    """One answer in a line: its words, with boxes in pixels; the files of its maps; or how many boxes were found."""
    from ufo_tune.core import placeholders

    maps = [row[name] for name in ("depth", "label_map", "normals") if name in row]
    count = sum(x1 > x0 and y1 > y0 for x0, y0, x1, y1 in row["boxes"])
    found = f"{count or 'no'} box{'es' if count > 1 else ''}"
    said = placeholders.located(row["answer"], row["boxes"]) or ", ".join(maps) or found
    return said + (f" ({row['invalid']} unreadable)" if row["invalid"] else "")


def names(text: str) -> tuple[str, ...]:
    """``"cup, plate"`` as names."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _lines(result: Any, path: str = "") -> list[str]:
    """Nested results as ``name  metric 0.1234  metric 0.5678``, one line per innermost mapping."""
    flat = {k: v for k, v in result.items() if isinstance(v, int | float | str)}
    lines = [f"{path}  " + "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in flat.items())]
    lines = lines if flat else []
    for key, value in result.items():
        if isinstance(value, dict):
            lines += _lines(value, f"{path} {key}".strip())
    return lines


def _sanity(sanity: dict[str, dict[str, list[dict[str, Any]]]]) -> list[str]:
    """One line for each thing that was looked at, the suspicious ones marked."""
    return [
        f"{name} {split}  {'WARNING' if line['warning'] else 'ok':7}  {line['name']}: {line['says']}"
        for name, splits in sanity.items()
        for split, lines in splits.items()
        for line in lines
    ]
