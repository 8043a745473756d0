"""The page a quickstart ends with: what changed, what it cost, what it looks like, what to do next.

    quickstart_report(summary, Path("quickstart"))  # quickstart/index.html

Everything but the summary is read from the folder, and what is not there is left out, so that the page of a run that
was cut short can still be written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ufo_tune import show
from ufo_tune.config import Recipe
from ufo_tune.engine.html import code, figure, fold, gallery, page, paragraph, table
from ufo_tune.show import palette

Events = dict[str, list[tuple[float, float]]]
"""Name -> (step or seconds, value)."""
HIT = 0.5
"""A picture whose own score (IoU, AP, match) reaches this is a hit."""
ERRORS = {"AbsRel": 0.1}
"""Metrics of which less is better, and up to which value a picture is a hit."""
_SHOWN = 4
"""Hits, and misses, of each task."""
_NAMES = {
    "rec": "phrase to box",
    "res": "phrase to mask",
    "detection": "all boxes",
    "instance_segmentation": "all masks",
    "semantic_segmentation": "every pixel",
    "depth": "depth",
    "caption": "captions",
    "vqa": "questions",
}
_WAYS = {
    "rec": "boxes",
    "res": "masks",
    "detection": "parallel detections",
    "semantic_segmentation": "label maps",
    "depth": "depth",
}
"""In what a model that learns a task answers."""
_SHAPES = "circle,square,triangle,star,cross"
_EXAMPLES = {
    "rec": '--task rec --text "the red circle"',
    "detection": f'--task detection --classes "{_SHAPES}"',
    "semantic_segmentation": f'--task semantic_segmentation --classes "{_SHAPES},background"',
    "depth": "--task depth",
    "caption": "--task caption",
}
"""What one may ask about a picture."""


def quickstart_report(summary: Mapping[str, Any], out: Path) -> Path:
    """Write ``index.html``.

    Args:
        summary: as in ``summary.json``: ``seconds``, ``before``, ``after``, ``n``, ``artifacts`` (name -> path
            relative to ``out``) and, where known, ``phases`` (name -> seconds) and ``n_before``.
        out: the quickstart's folder: ``run/log.jsonl``, ``run/recipe.yaml``, ``eval/<task>/<split>/pictures``.
    Returns:
        The page.
    """
    artifacts: Mapping[str, str] = summary.get("artifacts", {})
    log = out / artifacts.get("run", "run") / "log.jsonl"
    losses, scores = events(log, [_headline(metrics) for metrics in summary["after"].values() if metrics])
    sections = [("", _intro(summary) + _cards(summary)), ("Before and after", table(score_rows(summary)))]
    if "teaser" in artifacts:
        seen = figure(artifacts["teaser"], "Held-out scenes, answered by the merged model.")
        sections.append(("What it says now", seen))
    if scores:
        drawn = show.curves(scores, title="Scores on held-out scenes", x="seconds of training", y="score")
        sections.append(("Score against time", f"<figure>{drawn}</figure>"))
    if losses:
        drawn = show.curves(losses, title="Losses", x="step", y="loss", log=True)
        sections.append(("Training", f"<figure>{drawn}</figure>"))
    if summary.get("phases"):
        sections.append(("Where the time went", time_split(summary["phases"])))
    for task in summary["after"]:
        sections += _hits_and_misses(out, out / artifacts.get("evaluation", "eval") / task, task)
    if "slot_maps" in artifacts:
        text = "Each <MASK> token answers for its own place inside every image cell; together they make the mask."
        sections.append(("What every mask token sees", figure(artifacts["slot_maps"], text)))
    recipe = out / artifacts.get("run", "run") / "recipe.yaml"
    if recipe.exists():
        sections.append(("What was trained", _trained(recipe)))
    sections.append(("Try next", _next(out, artifacts, summary["after"])))
    path = out / "index.html"
    path.write_text(page("An existing model learned to point", sections), encoding="utf-8")
    return path


def events(log: Path, headlines: Sequence[str] = ()) -> tuple[Events, Events]:
    """A run's ``log.jsonl`` as curves.

    Args:
        log: one JSON object a line; a last line that was cut off when a run died is left out.
        headlines: metrics to keep.
    Returns:
        Loss by step, and score of held-out samples by seconds of training.
    """
    losses: Events = {}
    scores: Events = {}
    lines = log.read_text(encoding="utf-8").split("\n")[:-1] if log.exists() else []
    for line in lines:
        values = json.loads(line)
        for name, value in values.items():
            if name.startswith("loss/"):
                losses.setdefault(name.removeprefix("loss/"), []).append((values["step"], value))
            elif name.count("/") == 2 and name.rpartition("/")[2] in headlines:
                protocol, _, metric = name.split("/")
                label = f"{protocol.removeprefix('scenes_')} {metric}"
                scores.setdefault(label, []).append((values["seconds"], value))
    return losses, scores


def score_rows(summary: Mapping[str, Any]) -> list[dict[str, object]]:
    """Rows of every metric before and after, with how many samples stand behind them."""
    n_before = summary.get("n_before", summary["n"])
    rows: list[dict[str, object]] = []
    for task, after in summary["after"].items():
        before = summary["before"].get(task, {})
        for metric, value in after.items():
            row: dict[str, object] = {"task": task, "metric": _title(metric)}
            if metric in before:
                row |= {"before": before[metric]}
            row |= {"after": value}
            if metric in before:
                row |= {"change": f"{value - before[metric]:+.3f}" if isinstance(value, float) else "\u2013"}
            rows.append(row | {"n before": n_before.get(task, 0), "n after": summary["n"].get(task, 0)})
    return rows


def time_split(phases: Mapping[str, float]) -> str:
    """A bar of the phases, each as wide as the time it took, with the seconds below."""
    total = max(sum(phases.values()), 1e-9)
    colours = {name: palette.LINES[i % len(palette.LINES)] for i, name in enumerate(phases)}
    spans = "".join(
        f'<span style="width:{100 * seconds / total:.2f}%;background:{colours[name]}"></span>'
        for name, seconds in phases.items()
    )
    keys = "".join(
        f'<span><i style="background:{colours[name]}"></i>{escape(name)} {_duration(seconds)}</span>'
        for name, seconds in phases.items()
    )
    return f'<div class="bar" aria-hidden="true">{spans}</div>\n<div class="keys">{keys}</div>'


def _title(metric: str) -> str:
    return f"{metric} (less is better)" if metric in ERRORS else metric


def _headline(metrics: Mapping[str, Any]) -> str:
    """The metric that stands for a task: AP50 where there is one, else the first."""
    return "AP50" if "AP50" in metrics else next(iter(metrics))


def _intro(summary: Mapping[str, Any]) -> str:
    *most, last = [way for task, way in _WAYS.items() if task in summary["after"]] or ["words"]
    ways = f"{', '.join(most)} and {last}" if most else last
    return paragraph(
        "A small vision-language model that could name what it sees, but not say where, was taught to answer with "
        f"{ways} in {_duration(summary['seconds'])}. All scores are on scenes it has not seen, by generation."
    )


def _cards(summary: Mapping[str, Any]) -> str:
    """The headline metric of each task: now, then, and on how many samples."""
    cards = []
    for task, metrics in summary["after"].items():
        if not metrics:
            continue
        metric = _headline(metrics)
        now, then = metrics[metric], summary["before"].get(task, {}).get(metric)
        was = ""
        if then is not None:
            gain = then - now if metric in ERRORS else now - then
            way = "up" if gain > 0 else "down" if gain < 0 else "soft"
            was = f'before {then:.3f}, <span class="{way}">{now - then:+.3f}</span>, '
        name = f"{_NAMES.get(task, task)} \u00b7 {_title(metric)}"
        cards.append(
            f'<div class="card"><div class="name">{escape(name)}</div>'
            f'<div class="now">{now:.3f}</div><div class="then">{was}n = {summary["n"].get(task, 0)}</div></div>'
        )
    return '\n<div class="cards">\n' + "\n".join(cards) + "\n</div>"


def _hits_and_misses(out: Path, folder: Path, task: str) -> list[tuple[str, str]]:
    """The pictures that an evaluation left, told apart by the score in their captions."""
    figures: dict[bool, list[str]] = {True: [], False: []}
    for captions in sorted(folder.glob("*/pictures/captions.json")):
        for name, caption in json.loads(captions.read_text(encoding="utf-8")).items():
            figures[_is_hit(caption)].append(figure((captions.parent / name).relative_to(out), caption))
    return [
        (f"{_NAMES.get(task, task).capitalize()}: {'hits' if hit else 'misses'}", gallery(found[:_SHOWN]))
        for hit, found in figures.items()
        if found
    ]


def _is_hit(caption: str) -> bool:
    """Whether the score at the end of a caption, "(IoU 0.71)", is a good one."""
    score = re.search(r"\((\S+) (-?[\d.]+|nan)\)$", caption)
    if score is None:
        return False
    return float(score[2]) <= ERRORS[score[1]] if score[1] in ERRORS else float(score[2]) >= HIT


def _trained(file: Path) -> str:
    """The resolved recipe in short and, folded, in full."""
    recipe = Recipe.load(str(file))
    model, train = recipe.model, recipe.train
    mixture = "; ".join(f"{e.task} from {e.dataset}, weight {e.weight:g}" for e in recipe.data.mixture)
    adapter = f"LoRA of rank {model.lora.r}" if model.language == "lora" else model.language
    facts = [
        {"part": "language model", "how": adapter},
        {"part": "vision tower", "how": model.vision},
        {"part": "projector", "how": model.projector},
        {"part": "tokens", "how": "only the new rows" if model.train_tokens == "new" else "all rows, head, final norm"},
        {"part": "objectives", "how": ", ".join(recipe.objectives)},
        {"part": "data", "how": mixture},
        {
            "part": "steps",
            "how": f"{f'{train.max_seconds:g} s' if train.max_seconds else train.max_steps}, "
            f"{train.per_device_train_batch_size} rows each, learning rate {train.learning_rate:g}",
        },
    ]
    return table(facts) + fold("the resolved recipe", code(file.read_text(encoding="utf-8").splitlines()))


def _next(out: Path, artifacts: Mapping[str, str], tasks: Collection[str]) -> str:
    """Commands that work from where the quickstart was started."""
    here = out / artifacts.get("model", "merged")
    scene = out / artifacts.get("scene", "pictures/scene.png")
    asked = [words for task, words in _EXAMPLES.items() if task in tasks]
    return "\n".join(
        [
            paragraph("Ask it about a picture:"),
            code([f"ufo-tune predict {here} {scene} {words} --out answers" for words in asked]),
            paragraph("Measure it again, on all held-out scenes:"),
            code([f"ufo-tune eval {here} --suite scenes_rec,scenes_res --out scores"]),
            paragraph("Teach it, or a model of your size, from your own pictures:"),
            code(
                [
                    "ufo-tune data validate my.jsonl",
                    "ufo-tune recipes ls",
                    "ufo-tune recipes copy quickstart my.yaml   # then set data.mixture and model.base",
                    "ufo-tune check my.yaml",
                    "ufo-tune train my.yaml --out runs/my",
                ]
            ),
        ]
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
