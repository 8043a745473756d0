"""What the measurements share: training steps side by side, peak memory as the profiler sees it, tables, results."""

from __future__ import annotations

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


def side_by_side(plain: Side, ours: Side, repeat: int) -> tuple[tuple[float, float], tuple[int, int]]:
    """Alternate two sides that must compute the same: the fastest of ``repeat`` each in seconds, and their peak bytes.

    Raises:
        SystemExit: losses or gradients differ by more than 1e-4 of their size.
    """
    sides = (plain, ours)
    for side in sides:
        side()  # the optimizer's state is there before anything is measured
    seconds = [tuple(side() for side in sides) for _ in range(repeat)]
    peaks = (peak_of(plain), peak_of(ours))
    whole, other = (
        torch.cat([torch.zeros(1) if g is None else g.flatten() for g in side.gradients]) for side in sides
    )  # fmt: skip
    apart = float((whole - other).norm() / whole.norm())
    if not (math.isclose(plain.loss, ours.loss, rel_tol=1e-4) and apart <= 1e-4):
        raise SystemExit(
            f"the sides must compute the same: losses {plain.loss} and {ours.loss}, gradients {apart:.2g} apart"
        )
    return (min(s[0] for s in seconds), min(s[1] for s in seconds)), peaks


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
