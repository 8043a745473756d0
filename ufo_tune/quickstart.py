"""The embedded default, end to end: an existing tiny model that sees and talks is taught to point.

Prepare the shipped base, measure it, train it by a recipe, measure it again on the same held-out scenes, merge and
verify, draw, and report. What it does is what a user does with a big model. ``ufo-tune quickstart`` and ``ufo-tune
showcase`` differ in their recipe alone: every task that the recipe trains is measured.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ufo_tune import outputs
from ufo_tune.config import Recipe
from ufo_tune.engine import gallery
from ufo_tune.engine.evaluate import evaluate
from ufo_tune.engine.hub import merge
from ufo_tune.engine.load import load
from ufo_tune.engine.prepare import prepare
from ufo_tune.engine.quickstart_report import quickstart_report
from ufo_tune.engine.suites import parse_suites
from ufo_tune.engine.train import train
from ufo_tune.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Scored:
    """How a task is measured on held-out scenes, by the protocol ``eval/scenes_<task>.yaml``.

    Attributes:
        metrics: those of the summary.
        samples: how many held-out samples (scenes, for tasks about whole pictures).
        before: the same for the base: it scores 0 where it must point, which few samples show; talking is compared on
            all.
    """

    metrics: tuple[str, ...]
    samples: int
    before: int


TASKS = {
    "rec": Scored(("Acc@0.5",), 400, 100),
    "res": Scored(("cIoU", "gIoU"), 400, 100),
    "detection": Scored(("AP", "AP50"), 100, 20),
    "instance_segmentation": Scored(("AP", "AP50"), 100, 20),
    "semantic_segmentation": Scored(("mIoU",), 100, 20),
    "depth": Scored(("AbsRel",), 100, 20),
    "caption": Scored(("exact_match",), 400, 400),
    "vqa": Scored(("exact_match",), 800, 800),
}
"""What can be measured on scenes."""

PROCESSES = 2
"""Of the training where there is no accelerator; the recipe's rows are per process."""


def quickstart(out: Path, overrides: dict[str, str] | None = None, name: str = "quickstart") -> dict[str, Any]:
    """Run everything and write ``summary.json``, ``index.html``, ``merged/`` and pictures.

    Args:
        out: folder to write; an earlier quickstart's folder is refused, so that nothing is lost.
        overrides: of the recipe, as on the command line of ``train``.
        name: of the recipe: ``quickstart``, or ``showcase`` for every task that scenes can show.
    Returns:
        The summary.
    Raises:
        ConfigError: ``out`` holds something already, or cannot be a folder.
    """
    if outputs.folder(out).exists() and any(out.iterdir()):
        raise ConfigError(f"{out}: is not empty; choose another --out, or delete it to start again")
    out.mkdir(parents=True, exist_ok=True)
    clock = _Clock()
    recipe = Recipe.load(name, overrides)
    trained = {entry.task for entry in recipe.data.mixture}
    tasks = {task: scored for task, scored in TASKS.items() if task in trained}
    samples = {task: scored.samples for task, scored in tasks.items()}
    samples_before = {task: scored.before for task, scored in tasks.items()}
    with clock("prepare"):
        base = prepare("embedded", out / "base", codec=recipe.model.codec)
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"base": str(base)})})
    with clock("evaluate the base"):
        before = _scores(base, samples_before)
    with clock("train"):
        run = _train(recipe, out / "run")
    with clock("evaluate"):
        after = _scores(run, samples, out / "eval")
    with clock("merge"):
        differences = merge(out / "run", out / "merged")
    with clock("draw"):
        artifacts = gallery.draw(load(out / "merged"), out, [task for task in tasks if task != "vqa"])
    shutil.rmtree(out / "base")  # the merged model replaces it
    summary = {
        "seconds": clock.total(),
        "before": before,
        "after": after,
        "n": samples,
        "n_before": samples_before,
        "phases": clock.phases,
        "merge_difference": differences,
        "artifacts": {"report": "index.html", "model": "merged", "run": "run", "evaluation": "eval", **artifacts},
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    quickstart_report(summary, out)
    return summary


def _train(recipe: Recipe, out: Path) -> Path:
    """Train as a user does: here, or without an accelerator in two processes that share the cores.

    Small matrices hardly gain from a second thread, so two processes take in more rows a second than two threads.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if torch.accelerator.is_available() or cores < PROCESSES:
        return train(recipe, out)
    file = out.with_suffix(".yaml")
    recipe.save(file)
    launch = ["torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}", "-m", "ufo_tune"]
    command = [sys.executable, "-m", *launch, "train", str(file), "--out", str(out)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": str(cores // PROCESSES)})
    file.unlink()  # the run folder has its own
    return (out / "last").resolve()


def _scores(path: Path, samples: dict[str, int], out: Path | None = None) -> dict[str, dict[str, float]]:
    """Task -> metric -> value on the first so many held-out samples of each task."""
    model = load(path)
    scores = {}
    for task, limit in samples.items():
        (protocol,) = parse_suites(f"scenes_{task}:test").values()
        found = evaluate(model, protocol, limit=limit, out=out and out / task)["test"]
        scores[task] = {name: round(found[name], 4) for name in (*TASKS[task].metrics, "invalid")}
    return scores


class _Clock:
    """Wall seconds of each phase."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.phases[name] = round(time.monotonic() - started, 1)

    def total(self) -> float:
        """Seconds so far."""
        return round(sum(self.phases.values()), 1)
