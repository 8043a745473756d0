"""Five-fold cross-validation of the recipe ``drive`` on DRIVE's 20 training photographs, whose test half has no masks.

    python scripts/drive.py --root DRIVE --out runs/drive --run 4:7500 --run 1:100 --run 4:100 --run 8:100
    python scripts/drive.py --root DRIVE --out runs/drive --run 4:7500 --fold 3     (folds may run side by side)
    python scripts/drive.py --root DRIVE --out runs/drive --run 4:7500 --processes 2

``--run SIDE:STEPS`` trains five models of that slot side, each annealed over so many steps, and scores each on the four
photographs it has not seen. What is done is not done again. ``--processes N`` gives one model N cores: each process
takes its share of every batch (DDP). The scores of the folds that are there stand in
``results.json`` and ``tables.md``, beside one threshold on the filtered green channel, fitted on the same 16
photographs; ``drive.jpg`` shows the best, median and worst photograph of the first run, ``curve.svg`` how they learnt.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from ufo_tune import show
from ufo_tune.config import Protocol, Recipe
from ufo_tune.core import masks
from ufo_tune.core.images import sample_image
from ufo_tune.core.types import Prediction, Sample
from ufo_tune.datasets.drive import Drive, load
from ufo_tune.engine.evaluate import evaluate
from ufo_tune.engine.load import load as load_model
from ufo_tune.engine.predictions import Stored, from_row
from ufo_tune.metrics.dice import Metric, Pixels

NUMBERS = range(21, 41)
FOLDS = 5
HIT, WRONG, MISSED = (64, 200, 96), (240, 64, 64), (64, 128, 255)
"""Colours of vessels found, painted where there are none, and missed."""


def held_out(fold: int) -> list[int]:
    """The photographs that a fold does not train on: every fifth."""
    return list(NUMBERS)[fold::FOLDS]


@dataclass(frozen=True)
class Run:
    """Five models of one slot side and length."""

    side: int
    steps: int
    out: Path
    root: str
    processes: int = 1

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"side{self.side}_steps{self.steps}"

    @property
    def title(self) -> str:
        """For people."""
        return f"slot side {self.side}, {self.steps} steps"

    def folder(self, fold: int) -> Path:
        """Everything of one fold."""
        return self.out / self.name / f"fold{fold}"

    def samples(self, fold: int) -> Drive:
        """What a fold is scored on."""
        return load(self.root, "training", task="res", numbers=held_out(fold))

    def do(self, fold: int, overrides: dict[str, str]) -> None:
        """Train and score one fold, unless that was done."""
        folder = self.folder(fold)
        if (folder / "result.json").exists():
            return
        folder.mkdir(parents=True, exist_ok=True)
        suite = folder / "held.yaml"  # its photographs are left out of the training (data.exclude_eval)
        given = {"root": self.root, "splits": "[training]", "options.numbers": str(held_out(fold)), "reference": "[]"}
        protocol = Protocol.load("drive", given)
        protocol.save(suite)
        recipe = Recipe.load(
            "drive",
            {
                "data.mixture.0.root": self.root,
                "model.codec.slot_side": str(self.side),
                "train.max_steps": str(self.steps),
                "eval.protocols": f"[{suite}]",
                **overrides,
            },
        )
        shutil.rmtree(folder / "run", ignore_errors=True)
        seconds, cpu = trained(recipe, folder / "run", self.processes)
        if self.log(fold)[-1]["step"] < self.steps:
            raise SystemExit(f"{folder}: told to stop before the last step; this fold begins anew next time")
        model = load_model(folder / "run")
        started = time.process_time()
        evaluate(model, protocol, out=folder / "eval", progress=False)
        result = {
            "train_seconds": seconds,
            "train_cpu_seconds": cpu,
            "eval_cpu_seconds": time.process_time() - started,
            "parameters": sum(p.numel() for p in model.parameters()),
        }
        (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n")

    @property
    def folds(self) -> list[int]:
        """Those that are done."""
        return [f for f in range(FOLDS) if (self.folder(f) / "result.json").exists()]

    def predictions(self) -> list[tuple[Sample, Prediction]]:
        """The photographs of all folds that are done, each with what the model that has not seen it said."""
        found = []
        for fold in self.folds:
            rows = Stored(self.folder(fold) / "eval" / "training")
            found += [(s, from_row(rows[s.source])) for s in self.samples(fold)]
        return found

    def measured(self) -> dict[str, float]:
        """Mean steps, time and size of a fold's model."""
        results = [json.loads((self.folder(f) / "result.json").read_text()) for f in self.folds]
        steps = [self.log(f)[-1]["step"] for f in self.folds]
        return {"steps": statistics.mean(steps)} | {k: statistics.mean(r[k] for r in results) for k in results[0]}

    def log(self, fold: int) -> list[dict[str, float]]:
        """What the training wrote down."""
        return [json.loads(line) for line in (self.folder(fold) / "run" / "log.jsonl").read_text().splitlines()]

    def curve(self) -> list[tuple[float, float]]:
        """(step, one minus the Dice loss of the training windows), a mean over the folds."""
        values: dict[int, list[float]] = {}
        for fold in self.folds:
            for row in self.log(fold):
                values.setdefault(int(row["step"]), []).extend([1 - row["loss/dice"]] if "loss/dice" in row else [])
        return [(float(step), statistics.mean(v)) for step, v in sorted(values.items()) if len(v) == len(self.folds)]

    def held_out_curve(self) -> list[tuple[float, float]]:
        """(step, Dice of the held-out photographs) of the first fold, where it was scored on the way."""
        rows = [(row["step"], v) for row in self.log(self.folds[0]) for k, v in row.items() if k.endswith("/Dice")]
        return [*rows, (self.log(self.folds[0])[-1]["step"], self.first_dice())] if rows else []

    def first_dice(self) -> float:
        """Of the first fold that is done."""
        rows = json.loads((self.folder(self.folds[0]) / "eval" / "metrics.json").read_text())
        return float(rows["splits"]["training"]["Dice"])


def trained(recipe: Recipe, out: Path, processes: int) -> tuple[float, float]:
    """Train in so many processes, which share the recipe's batch; the seconds, and the CPU-seconds of all of them."""
    section = recipe.train
    batch, rest = divmod(section.per_device_train_batch_size, processes)
    if rest:
        raise SystemExit(
            f"--processes: must divide the batch (got {processes} for {section.per_device_train_batch_size} windows)"
        )
    file = out.with_name("recipe.yaml")
    share = section.model_copy(update={"per_device_train_batch_size": batch})
    recipe.model_copy(update={"train": share}).save(file)
    # accelerate's own launcher takes one process on CPUs, however many it is told.
    launch = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", "ufo_tune"]
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", *launch, "train", str(file), "--out", str(out)]
    if code := subprocess.run(command, check=False).returncode:
        raise SystemExit(code)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic() - started, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def scores(pairs: Sequence[tuple[Sample, Prediction]]) -> dict[str, float]:
    """Values of the metric ``dice``, and the spread of the photographs' Dice."""
    metric = Metric()
    for sample, prediction in pairs:
        metric.update(sample, prediction)
    each = [dice(sample, prediction) for sample, prediction in pairs]
    return {**metric.compute(), "sd": statistics.stdev(each), "worst": min(each), "best": max(each)}


def dice(sample: Sample, prediction: Prediction) -> float:
    """Inside the field of view of one photograph."""
    found: Pixels = Metric().score(sample, prediction)
    return 2 * found.hit / (2 * found.hit + found.wrong + found.missed)


def baseline(root: str) -> list[tuple[Sample, Prediction]]:
    """One threshold on a difference of two blurs of the green channel; blurs and threshold fitted on 16 photographs."""
    samples = list(load(root, "training", task="res", numbers=list(NUMBERS)))
    blurs = [(fine, coarse) for fine in (0.7, 1.0, 1.5) for coarse in (5.0, 8.0, 12.0)]
    levels = np.arange(0.5, 12.0, 0.25)
    table = np.array([[_dices(s, *blur, levels) for blur in blurs] for s in samples])  # [20, blurs, levels]
    found = []
    for fold in range(FOLDS):
        held = [n - NUMBERS[0] for n in held_out(fold)]
        seen = np.delete(table, held, axis=0).mean(0)  # [blurs, levels]
        blur, level = np.unravel_index(seen.argmax(), seen.shape)
        for i in held:
            mask = _darker(samples[i], *blurs[blur]) > levels[level]
            found.append((samples[i], Prediction(masks=(masks.encode(mask),))))
    return found


def _darker(sample: Sample, fine: float, coarse: float) -> np.ndarray:
    """How much darker than its surroundings each pixel is, [H, W]; what lies outside the field of view has no say."""
    image = sample_image(sample)
    assert image is not None and sample.targets is not None and sample.targets.ignore is not None
    inside = (~masks.decode(sample.targets.ignore)).astype(np.float64)

    def blurred(sigma: float) -> np.ndarray:
        weight = np.maximum(ndimage.gaussian_filter(inside, sigma), 1e-6)
        return np.asarray(ndimage.gaussian_filter(image[..., 1] * inside, sigma) / weight)

    return blurred(coarse) - blurred(fine)


def _dices(sample: Sample, fine: float, coarse: float, levels: np.ndarray) -> np.ndarray:
    """Dice at each level, from the counts of darker pixels."""
    targets = sample.targets
    assert targets is not None and targets.masks is not None and targets.ignore is not None
    inside = ~masks.decode(targets.ignore)
    values, vessel = _darker(sample, fine, coarse)[inside], masks.decode(targets.masks[0])[inside]
    hits, painted = ((np.sort(v)[None] > levels[:, None]).sum(1) for v in (values[vessel], values))
    return 2 * hits / (painted + vessel.sum())


def picture(pairs: Sequence[tuple[Sample, Prediction]], height: int = 420) -> Image.Image:
    """Photograph, truth and prediction of the best, the median and the worst photograph."""
    ranked = sorted(pairs, key=lambda pair: -dice(*pair))
    images, captions = [], []
    for name, (sample, prediction) in zip(
        ("best", "median", "worst"), (ranked[0], ranked[len(ranked) // 2], ranked[-1]), strict=True
    ):
        photograph = sample_image(sample)
        assert photograph is not None and sample.targets is not None and sample.targets.masks and prediction.masks
        assert sample.targets.ignore is not None
        inside = ~masks.decode(sample.targets.ignore)
        truth, said = (masks.decode(r[0]) & inside for r in (sample.targets.masks, prediction.masks))
        white = np.full(photograph.shape, 255, dtype=np.uint8)
        drawn, compared = white.copy(), white.copy()
        drawn[truth] = 0
        for where, colour in ((truth & said, HIT), (said & ~truth, WRONG), (truth & ~said, MISSED)):
            compared[where] = colour
        size = (round(photograph.shape[1] * height / photograph.shape[0]), height)
        images += [Image.fromarray(p).resize(size, Image.Resampling.LANCZOS) for p in (photograph, drawn, compared)]
        captions += [
            f"{name}: {sample.image_id}",
            "vessels drawn by hand",
            f"Dice {dice(sample, prediction):.3f}; green: found, red: too much, blue: missed",
        ]
    return show.sheet(images, captions, 3)


def tables(runs: Sequence[Run], root: str) -> tuple[str, dict[str, Any]]:
    """The Markdown table of all runs, and its numbers."""
    rows: dict[str, Any] = {"one threshold": scores(baseline(root)) | {"photographs": len(NUMBERS)}}
    for run in runs:
        pairs = run.predictions()
        rows[run.title] = {**scores(pairs), **run.measured(), "photographs": len(pairs)}
    columns = {
        "Dice": "Dice",
        "sd": "sd of photographs",
        "worst": "worst",
        "best": "best",
        "F1": "F1 (pooled)",
        "sensitivity": "sensitivity",
        "specificity": "specificity",
        "photographs": "photographs",
        "steps": "steps",
        "train_cpu_seconds": "CPU-seconds a model",
    }
    lines = ["| model | " + " | ".join(columns.values()) + " |", "|---" * (1 + len(columns)) + "|"]
    for name, row in rows.items():
        shown = (_shown(row[k]) if k in row else "" for k in columns)
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n", rows


def _shown(value: float) -> str:
    return f"{value:.3f}" if value <= 1 else f"{value:.0f}"


def report(runs: Sequence[Run], root: str, out: Path) -> None:
    """Write what the folds that are done say."""
    done = [run for run in runs if run.folds]
    text, rows = tables(done, root)
    (out / "tables.md").write_text(text)
    (out / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(text)
    if done:
        pairs = done[0].predictions()
        picture(pairs).save(out / "drive.jpg", quality=88, subsampling=0)
        each = sorted((s.image_id, dice(s, p)) for s, p in pairs)
        print("  ".join(f"{name.partition('_')[0]} {value:.3f}" for name, value in each))
    events = {f"{run.title}, training windows": run.curve() for run in done}
    events |= {f"{run.title}, held out (fold {run.folds[0]})": run.held_out_curve() for run in done}
    events = {name: points for name, points in events.items() if points}
    (out / "curve.svg").write_text(show.curves(events, title="DRIVE: Dice while learning", y="Dice"))


def main() -> None:
    """Run what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder of DRIVE's training/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--run", action="append", required=True, metavar="SIDE:STEPS")
    parser.add_argument("--fold", action="append", type=int, choices=range(FOLDS), help="only this one (all)")
    parser.add_argument("--processes", type=int, default=1, help="that train one model together (%(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe")
    args = parser.parse_args()
    os.environ.setdefault("DRIVE", args.root)
    pairs = [text.split(":") for text in args.run]
    runs = [Run(int(side), int(steps), args.out, args.root, args.processes) for side, steps in pairs]
    overrides = dict(text.split("=", 1) for text in args.set)
    for run in runs:
        for fold in args.fold or range(FOLDS):
            run.do(fold, overrides)
    report(runs, args.root, args.out)


if __name__ == "__main__":
    main()
