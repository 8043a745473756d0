"""What the measurements share: training steps side by side, peak memory as the profiler sees it, tables, results."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ufo_tune.core.types import LossTerm


def peak_of(call: Callable[[], object]) -> int:
    """Bytes that a call holds at most over what was there before it; only torch's own CPU tensors count."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    recorded: Any = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    events = sorted((e for e in recorded if e.name() == "[memory]"), key=lambda e: e.start_ns())
    changes = np.array([e.nbytes() for e in events], dtype=np.int64)
    return int(changes.cumsum().max(initial=0))


@dataclass(slots=True)
class Side:
    """One way of computing the loss of a training step; calling it takes the step and gives CPU seconds."""

    terms: Callable[[], Mapping[str, LossTerm]]
    optimizer: torch.optim.Optimizer  # with a learning rate that moves nothing
    loss: float = math.nan
    gradients: list[Tensor] = field(default_factory=list)

    def __call__(self) -> float:
        """Forward, backward and the optimizer."""
        start = time.process_time()
        terms = self.terms()
        mean = torch.stack([t.total / t.count.clamp_min(1.0) for t in terms.values()]).sum()
        mean.backward()
        self.optimizer.step()
        end = time.process_time()
        self.loss = float(mean.detach())
        self.gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"]]
        self.optimizer.zero_grad()
        return end - start


def side_by_side(sides: Mapping[str, Side], repeat: int) -> dict[str, Any]:
    """Alternate two sides that must compute the same, the plain one first.

    Returns:
        By side ``seconds``, the fastest of ``repeat``, and ``bytes``, the peak; ``time_ratio`` and ``memory_ratio``,
        how many times as much the plain side takes.

    Raises:
        SystemExit: losses or gradients differ by more than 1e-4 of their size.
    """
    plain, ours = sides.values()
    for side in (plain, ours):
        side()  # the optimizer's state is there before anything is measured
    runs = [(plain(), ours()) for _ in range(repeat)]
    seconds, peaks = [min(side) for side in zip(*runs, strict=True)], [peak_of(plain), peak_of(ours)]
    whole, other = (
        torch.cat([torch.zeros(1) if g is None else g.flatten() for g in side.gradients]) for side in (plain, ours)
    )  # fmt: skip
    apart = float((whole - other).norm() / whole.norm())
    if not (math.isclose(plain.loss, ours.loss, rel_tol=1e-4) and apart <= 1e-4):
        raise SystemExit(
            f"the sides must compute the same: losses {plain.loss} and {ours.loss}, gradients {apart:.2g} apart"
        )
    return {
        "seconds": dict(zip(sides, seconds, strict=True)),
        "bytes": dict(zip(sides, peaks, strict=True)),
        "time_ratio": seconds[0] / seconds[1],
        "memory_ratio": peaks[0] / peaks[1],
    }


def model_options(about: str | None) -> argparse.ArgumentParser:
    """What measurements on a made model can be told, and its defaults: its size, repeats, where the result goes."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the table as JSON")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    return parser


def step_options(about: str | None, vocabularies: list[int], trains: Sequence[str]) -> argparse.ArgumentParser:
    """``model_options``, and what is trained on which vocabularies."""
    parser = model_options(about)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=vocabularies)
    parser.add_argument("--train", choices=["lora", "full"], nargs="+", default=trains)
    return parser


def report_steps(
    options: argparse.Namespace, rows: Sequence[dict[str, Any]], sizes: Mapping[str, str], sides: Mapping[str, str]
) -> None:
    """Print the rows as a table, and write them where ``--out`` says.

    Args:
        options: of ``step_options``.
        rows: each what ``side_by_side`` gives and what was measured.
        sizes: column of the table -> key of a row.
        sides: column of the table -> name of the side.
    """
    print(f"width {options.width}, {options.layers} layers, float32, one thread, torch {torch.__version__}\n")
    lines = [
        (
            *(str(r[key]) for key in sizes.values()),
            *(f"{r['seconds'][side]:.2f} s" for side in sides.values()), f"{r['time_ratio']:.2f}x",
            *(f"{r['bytes'][side] / 2**20:.0f} MB" for side in sides.values()), f"{r['memory_ratio']:.2f}x",
        )
        for r in rows
    ]  # fmt: skip
    print(markdown((*sizes, *sides, "time", *sides, "memory"), lines))
    settings = {"width": options.width, "layers": options.layers, "threads": 1, "torch": torch.__version__}
    write_json(options.out, {**settings, "rows": rows})


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
