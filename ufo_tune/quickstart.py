"""The embedded default, end to end: an existing tiny model that sees and talks is taught to point.

Prepare the shipped base, measure it, train it by ``recipes/quickstart.yaml``, measure it again on the same held-out
scenes, merge and verify, draw, and report. What it does is what a user does with a big model.
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
from pathlib import Path
from typing import Any

import torch

from ufo_tune.config import Protocol, Recipe
from ufo_tune.engine import gallery
from ufo_tune.engine.evaluate import evaluate
from ufo_tune.engine.hub import merge
from ufo_tune.engine.load import load
from ufo_tune.engine.prepare import prepare
from ufo_tune.engine.quickstart_report import quickstart_report
from ufo_tune.engine.suites import parse_suites
from ufo_tune.engine.train import train
from ufo_tune.errors import ConfigError

TASKS = {
    "rec": ("Acc@0.5",),
    "res": ("cIoU", "gIoU"),
    "detection": ("AP", "AP50"),
    "instance_segmentation": ("AP", "AP50"),
    "vqa": ("exact_match",),
}
"""Task -> metrics of the summary; the protocol of a task is ``eval/scenes_<task>.yaml``."""
SAMPLES = {"rec": 400, "res": 400, "detection": 100, "instance_segmentation": 100, "vqa": 800}
"""Held-out samples of each task (scenes for the grid tasks)."""
BEFORE = {"rec": 100, "res": 100, "detection": 20, "instance_segmentation": 20, "vqa": 800}
"""The same for the base: it scores 0 where it must point, which few samples show; talking is compared on all."""

PROCESSES = 2
"""Of the training where there is no accelerator; the recipe's rows are per process."""


def quickstart(out: Path, overrides: dict[str, str] | None = None) -> dict[str, Any]:
    """Run everything and write ``summary.json``, ``index.html``, ``merged/`` and pictures.

    Args:
        out: folder to write; an earlier quickstart's folder is refused, so that nothing is lost.
        overrides: of the recipe, as on the command line of ``train``.
    Returns:
        The summary.
    Raises:
        ConfigError: ``out`` holds something already.
    """
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out}: is not empty; choose another --out, or delete it to start again")
    out.mkdir(parents=True, exist_ok=True)
    clock = _Clock()
    recipe = Recipe.load("quickstart", overrides)
    with clock("prepare"):
        base = prepare("embedded", out / "base", codec=recipe.model.codec)
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"base": str(base)})})
    with clock("evaluate the base"):
        before = _scores(base, BEFORE)
    with clock("train"):
        run = _train(recipe, out / "run")
    with clock("evaluate"):
        after = _scores(run, SAMPLES, out / "eval")
    with clock("merge"):
        differences = merge(out / "run", out / "merged")
    with clock("draw"):
        artifacts = gallery.draw(load(out / "merged"), out)
    shutil.rmtree(out / "base")  # the merged model replaces it
    summary = {
        "seconds": clock.total(),
        "before": before,
        "after": after,
        "n": SAMPLES,
        "n_before": BEFORE,
        "phases": clock.phases,
        "merge_difference": differences,
        "artifacts": {"report": "index.html", "model": "merged", "run": "run", "evaluation": "eval", **artifacts},
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    quickstart_report(summary, out)
    return summary


def protocols() -> dict[str, Protocol]:
    """Task -> the protocol on held-out scenes."""
    return {task: parse_suites(f"scenes_{task}:test")[f"scenes_{task}"] for task in TASKS}


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
    model = load(path)
    scores = {}
    for task, protocol in protocols().items():
        found = evaluate(model, protocol, limit=samples[task], out=out and out / task)["test"]
        scores[task] = {name: round(found[name], 4) for name in (*TASKS[task], "invalid")}
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
