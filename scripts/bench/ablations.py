"""Which of UFO's choices pay at tiny scale: the default against one change at a time, over seeds, on held-out scenes.

    python scripts/bench/ablations.py [--steps 300] [--seeds 0 1 2] [--jobs 2] [--doc docs/ablations.md] [--out a.json]

Every run fine-tunes the same base by the same recipe for the same number of steps; runs of one seed see the same data
in the same order, so differences are taken within seeds. Each run takes one thread; ``--jobs`` of them go side by side.
Finished runs lie in ``--work`` and are not done again while base and recipe stay the same. ``--base`` takes what a
recipe's ``model.base`` takes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import yaml
from _measure import markdown, write_json

from ufo_tune import resources
from ufo_tune.config import Protocol, Recipe
from ufo_tune.engine import load
from ufo_tune.engine.evaluate import evaluate
from ufo_tune.engine.predictions import fingerprint
from ufo_tune.engine.train import train
from ufo_tune.models.ufo import UfoModel

METRICS = {
    "res": ("boundary_IoU", "gIoU", "cIoU"),
    "instance_segmentation": ("AP50",),
    "detection": ("AP50",),
}
"""Task -> what is compared; each is asked by ``eval/scenes_<task>.yaml``."""
DEFAULT = "default"


@dataclass(frozen=True)
class Variant:
    """One change to the model or to the wording."""

    what: str
    change: Callable[[UfoModel], None] = lambda model: None
    image_attention: str = "full"


def _one_slot_token(model: UfoModel) -> None:
    model.processor.codec = replace(model.codec, slot_side=1)


def _local_at_input(model: UfoModel) -> None:
    model.re_add_local = False


def _features_before(model: UfoModel) -> None:
    model.retrieve_from = "input"


VARIANTS = {
    DEFAULT: Variant(
        "16 slot tokens, bidirectional image attention, `<LOCAL>` features re-added in every layer, image features "
        "after the language model"
    ),
    "one_slot_token": Variant("1 slot token for a mask", _one_slot_token),
    "causal_image": Variant("causal attention between image tokens", image_attention="causal"),
    "local_at_input": Variant("`<LOCAL>` features at the input only", _local_at_input),
    "features_before": Variant("image features before the language model", _features_before),
}


@dataclass(frozen=True)
class Settings:
    """What all runs share."""

    base: str
    weights: str  # fingerprint of the base
    base_options: dict[str, Any]
    steps: int
    batch: int
    samples: int  # held-out scenes of each task


def recipe(base: Path, templates: Path, seed: int, settings: Settings) -> Recipe:
    """The quickstart's recipe on the tasks that are compared, for a number of steps instead of a time."""
    document = resources.read_yaml(resources.locate("recipes", "quickstart"))
    document["model"]["base"] = str(base)
    mixture = [e for e in document["data"]["mixture"] if e["task"] in METRICS]
    document["data"]["mixture"] = [{**e, "template": str(templates / f"{e['template']}.yaml")} for e in mixture]
    document["train"] |= {
        "max_steps": settings.steps, "max_seconds": 0, "per_device_train_batch_size": settings.batch, "seed": seed,
        "save_steps": 0, "logging_steps": max(1, settings.steps // 10), "report_to": [],
    }  # fmt: skip
    document["eval"] = {}
    return Recipe.from_dict(document)


def one(name: str, seed: int, settings: Settings, work: Path) -> dict[str, Any]:
    """Train and score one variant; what an earlier call left in ``work`` is taken as it is."""
    folder = work / f"{name}-{seed}"
    kept = folder / "result.json"
    plan = recipe(Path("base"), Path("templates"), seed, settings).model_dump(mode="json")
    wanted = {"variant": name, "seed": seed, "settings": asdict(settings), "recipe": plan}
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text())
        if {k: found.get(k) for k in wanted} == wanted:
            return found
    shutil.rmtree(folder, ignore_errors=True)
    torch.set_num_threads(1)
    base, templates = _prepare(VARIANTS[name], folder, settings)
    started = time.monotonic()
    model = load.load(train(recipe(base, templates, seed, settings), folder / "run", progress=False))
    trained = time.monotonic()
    scores = {task: _score(model, task, templates, settings.samples) for task in METRICS}
    result = {
        **wanted,
        "scores": scores,
        "train_seconds": round(trained - started, 1),
        "eval_seconds": round(time.monotonic() - trained, 1),
        "log": [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()],
    }
    write_json(kept, result)
    shutil.rmtree(folder / "run")
    shutil.rmtree(base)
    return result


def _prepare(variant: Variant, folder: Path, settings: Settings) -> tuple[Path, Path]:
    """The variant's base and its wordings, both as folders: what a variant changes travels with its weights."""
    model = _base(settings.base, settings.base_options)
    variant.change(model)
    model.save(folder / "base")
    templates = folder / "templates"
    templates.mkdir()
    for task in METRICS:
        wording = resources.read_yaml(resources.locate("data_templates", f"scenes_{task}"))
        wording["image_attention"] = variant.image_attention
        (templates / f"scenes_{task}.yaml").write_text(yaml.safe_dump(wording))
    return folder / "base", templates


def _base(name: str, options: dict[str, Any]) -> UfoModel:
    section = Recipe.load("quickstart").model
    codec = section.codec | {"slot_side": 4}  # the method's sixteen; the quickstart has no need of as many
    return load.base(name, section.family, codec, options)


def _score(model: UfoModel, task: str, templates: Path, samples: int) -> dict[str, float]:
    protocol = Protocol.load(f"scenes_{task}")
    changes = {
        "template": str(templates / f"scenes_{task}.yaml"),
        "options": {**protocol.options, "size": samples},
        "splits": ("test",),
    }
    found = evaluate(model, protocol.model_copy(update=changes), progress=False)["test"]
    return {name: found[name] for name in (*METRICS[task], "n", "invalid")}


def run_all(names: Sequence[str], seeds: Sequence[int], settings: Settings, work: Path, jobs: int) -> list[Any]:
    """All runs, seed by seed so that an interrupted series is of use."""
    os.environ["OMP_NUM_THREADS"] = "1"  # before the workers start: torch reads it once
    todo = [(name, seed) for seed in seeds for name in names]
    results = []
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(one, name, seed, settings, work): (name, seed) for name, seed in todo}
        for future in as_completed(futures):
            result = future.result()
            results.append(result)
            shown = " ".join(f"{t}/{m} {result['scores'][t][m]:.3f}" for t, ms in METRICS.items() for m in ms)
            print(
                f"[{len(results)}/{len(todo)}] {result['variant']} seed {result['seed']}: {shown}"
                f" (train {result['train_seconds']:.0f} s, eval {result['eval_seconds']:.0f} s)",
                flush=True,
            )
    return sorted(results, key=lambda r: (list(VARIANTS).index(r["variant"]), r["seed"]))


def summary(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and spread of each variant and metric, and of its difference to the default within seeds."""
    columns = [(t, m) for t, ms in METRICS.items() for m in ms]
    value = {(r["variant"], r["seed"], t, m): r["scores"][t][m] for r in results for t, m in columns}
    seeds = sorted({r["seed"] for r in results})
    rows = []
    for name in dict.fromkeys(r["variant"] for r in results):
        for task, metric in columns:
            own = [value[name, s, task, metric] for s in seeds]
            plain = [value.get((DEFAULT, s, task, metric)) for s in seeds]
            gains = [a - b for a, b in zip(own, plain, strict=True) if b is not None]
            rows.append({
                "variant": name, "task": task, "metric": metric, "mean": mean(own), "std": _std(own),
                "difference": mean(gains) if gains else None, "difference_std": _std(gains),
                "worse_in": sum(g < 0 for g in gains), "seeds": len(seeds),
            })  # fmt: skip
    return rows


def _std(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """Two Markdown tables: values, and differences to the default."""
    columns = [(t, m) for t, ms in METRICS.items() for m in ms]
    names = list(dict.fromkeys(r["variant"] for r in rows))
    cell = {(r["variant"], r["task"], r["metric"]): r for r in rows}
    header = ["variant", *(f"{t} {m}" for t, m in columns)]
    values = [[n, *(f"{cell[n, *c]['mean']:.3f} +- {cell[n, *c]['std']:.3f}" for c in columns)] for n in names]
    text = markdown(header, values)
    if DEFAULT not in names:
        return text
    gains = [[n, *(_gain(cell[n, *c]) for c in columns)] for n in names if n != DEFAULT]
    return text + ("\n\nDifference to the default:\n\n" + markdown(header, gains) if gains else "")


def _gain(row: dict[str, Any]) -> str:
    return f"{row['difference']:+.3f} +- {row['difference_std']:.3f} (worse in {row['worse_in']}/{row['seeds']})"


READING = "\n## Against the paper\n"
"""The heading of what a person says about the tables."""


def document(rows: Sequence[dict[str, Any]], settings: Settings, results: Sequence[dict[str, Any]]) -> str:
    """``docs/ablations.md``."""
    variants = "\n".join(f"- `{n}`: {v.what}" for n, v in VARIANTS.items() if any(r["variant"] == n for r in rows))
    seconds = mean(r["train_seconds"] for r in results)
    return f"""# Ablations at tiny scale

Written by `python scripts/bench/ablations.py --doc docs/ablations.md`; the numbers are of that run.

Base `{Path(settings.base).name}`, fine-tuned for {settings.steps} steps of {settings.batch} rows
({seconds:.0f} s a run on one CPU thread, torch {torch.__version__}), then scored by generation on {settings.samples}
held-out scenes of each task. Mean +- standard deviation over {rows[0]["seeds"]} seeds; differences are taken within
seeds (same base, same data, same order), and "worse in" counts seeds.

{variants}

{tables(rows)}

What to keep in mind: the base was pre-trained with bidirectional image attention, which favours the default in
`causal_image`; its tower was trained to tell in words what is at each place, which favours `features_before`; masks and
grid points are new to it. Few steps favour `one_slot_token`: it has one coarse map to learn, not sixteen fine ones. A
tiny model after minutes of training says little about a large one.
"""


def _reading(doc: Path) -> str:
    """What was written by hand under the tables of an earlier run; it must be read again, not lost."""
    old = doc.read_text(encoding="utf-8") if doc.exists() else ""
    return old[old.index(READING) :] if READING in old else ""


def main() -> None:
    """Train, score and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="embedded", help="what a recipe's model.base takes")
    parser.add_argument("--base-options", type=yaml.safe_load, default={}, help="of a tiny base, as YAML")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--samples", type=int, default=60, help="held-out scenes of each task")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="variants to run")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one thread each")
    parser.add_argument("--work", type=Path, default=Path("runs/ablations"), help="folder of finished runs")
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    parser.add_argument("--doc", type=Path, help="write the tables as Markdown")
    options = parser.parse_args()
    weights = fingerprint(_base(options.base, options.base_options))
    settings = Settings(options.base, weights, options.base_options, options.steps, options.batch, options.samples)
    started = time.monotonic()
    results = run_all(options.only, options.seeds, settings, options.work, options.jobs)
    rows = summary(results)
    print(f"\n{tables(rows)}\n\n{time.monotonic() - started:.0f} s", file=sys.stdout)
    write_json(options.out, {"settings": asdict(settings), "rows": rows, "runs": results})
    if options.doc:
        options.doc.parent.mkdir(parents=True, exist_ok=True)
        text = document(rows, settings, results) + _reading(options.doc)
        options.doc.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
