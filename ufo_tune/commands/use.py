"""Commands that use a checkpoint: eval, predict."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from typing import Any

from ufo_tune import plugins
from ufo_tune.errors import ConfigError


def evaluate(args: Namespace) -> None:
    """Score a checkpoint on protocols."""
    if args.limit < 0:
        raise ConfigError(f"eval: --limit must not be negative (got {args.limit}); 0 means all")
    from ufo_tune.engine.evaluate import evaluate_checkpoint

    out = args.out or args.checkpoint / "eval"
    result = evaluate_checkpoint(args.checkpoint, args.suite, limit=args.limit, out=out, progress=not args.json)
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(result, indent=2) if args.json else "\n".join([*_lines(result), f"files: {out}"]))


def predict(args: Namespace) -> None:
    """Answer one question about some pictures."""
    missing = [str(i) for i in args.images if not i.is_file()]
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
        out=args.out,
        progress=not args.json,
    )
    if args.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    for row in [] if args.json else rows:
        found = f"{len(row['boxes'])} boxes" if row["boxes"] else "no box"
        print(f"{row['image']}: {row['answer'] or found}  -> {row['overlay']}")


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
