"""What the measurements share: peak memory as the profiler sees it, tables, and where results go."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.profiler import ProfilerActivity, profile


def peak_of(call: Callable[[], object]) -> int:
    """Bytes that a call holds at most over what was there before it; only torch's own CPU tensors count."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    recorded: Any = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    events = sorted((e for e in recorded if e.name() == "[memory]"), key=lambda e: e.start_ns())
    changes = np.array([e.nbytes() for e in events], dtype=np.int64)
    return int(changes.cumsum().max(initial=0))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with its columns padded, so that it reads in a terminal too."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [header, ["-" * w for w in widths], *rows]
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines)


def write_json(path: Path | None, document: dict[str, Any]) -> None:
    """Write a result, where a file was asked for."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
