"""The report of an evaluation: reference numbers, sanity, what lies behind the score, and the best and worst pictures.

    write_evaluation(out, "runs/x", {"scenes_rec": out / "scenes_rec"})  # out/report.html

Built from the files that ``evaluate`` wrote, so that it can be written again without a model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ufo_tune import show
from ufo_tune.core import placeholders
from ufo_tune.core.types import Prediction, Sample
from ufo_tune.engine import analysis as analysis_file
from ufo_tune.engine.analysis import Analysis, own_score
from ufo_tune.engine.html import figure, gallery, page, paragraph, table
from ufo_tune.engine.predictions import Case
from ufo_tune.engine.sanity import Line
from ufo_tune.metrics._base import MetricLike

_PICTURES = "pictures"
_CAPTIONS = "captions.json"
_SIDE = 320
"""Pixels of a picture's long side."""
_BINS = 20
"""Bars of a histogram."""


def draw_gallery(folder: Path, shown: Mapping[str, Sequence[Case]], new_metric: Callable[[], MetricLike]) -> list[Path]:
    """Overlays of truth and prediction under ``folder/pictures``, each with its own score in the caption.

    Args:
        folder: of one split.
        shown: best, worst, unreadable -> samples and what was predicted; the word starts the names of its files.
        new_metric: an empty metric; its value on the single sample is the picture's score.
    """
    pictures = folder / _PICTURES
    pictures.mkdir(parents=True, exist_ok=True)
    for old in pictures.glob("*.jpg"):
        old.unlink()
    captions: dict[str, str] = {}
    for kind, cases in shown.items():
        for number, case in enumerate(cases):
            metric = new_metric()
            metric.update(case.sample, case.prediction)
            name, value = own_score(metric.compute())
            path = pictures / f"{kind}_{number:02d}.jpg"
            picture(case.sample, {"prediction": case.prediction}).save(path, quality=90)
            captions[path.name] = f"{said(case.sample, case.prediction, case.answers)} ({name} {value:.2f})"
    (pictures / _CAPTIONS).write_text(json.dumps(captions, indent=1, ensure_ascii=False), encoding="utf-8")
    return [pictures / name for name in captions]


def pictures(folder: Path, base: Path) -> dict[str, list[str]]:
    """The figures that ``draw_gallery`` left in the folder of a split, by kind, for a page that lies in ``base``."""
    captions = folder / _PICTURES / _CAPTIONS
    if not captions.exists():
        return {}
    found: dict[str, list[str]] = {}
    for name, caption in json.loads(captions.read_text(encoding="utf-8")).items():
        drawn = figure((captions.parent / name).relative_to(base), caption)
        found.setdefault(name.rpartition("_")[0], []).append(drawn)
    return found


def evaluation_rows(name: str, document: Mapping[str, Any]) -> list[dict[str, object]]:
    """Table rows of one protocol: ours for every split, then the published references with their sources.

    Args:
        name: of the protocol.
        document: its ``metrics.json``.
    """
    protocol = document["protocol"]
    rows: list[dict[str, object]] = []
    for split, values in document["splits"].items():
        n = {k: values[k] for k in ("n", "invalid")}
        scores = {k: v for k, v in values.items() if k not in {"n", "invalid", "seconds"}}
        first = {"protocol": name, "split": split, "model": "this one", **n, **scores}
        rows.append(first | {"seconds": values["seconds"], "source": f"{protocol['dataset']}, {protocol['metric']}"})
    for reference in protocol["reference"]:
        if reference["split"] in document["splits"]:
            rows.append({"protocol": name, **reference})
    return rows


def write_evaluation(out: Path, checkpoint: str, folders: Mapping[str, Path]) -> Path:
    """``report.html`` in ``out``: one table of all protocols with reference numbers, and pictures of each split.

    Args:
        out: where the page goes; the folders lie below it.
        checkpoint: what was scored.
        folders: protocol -> folder that ``evaluate`` wrote.
    """
    documents = {n: json.loads((f / "metrics.json").read_text(encoding="utf-8")) for n, f in folders.items()}
    sections: list[tuple[str, str]] = []
    for name, document in documents.items():
        about = document["protocol"].get("description") or ""
        decode = ", ".join(f"{k} {v}" for k, v in document["protocol"]["decode"].items())
        facts = (
            f"template {document['template']}; decoding: {decode}; limit {document['limit'] or 'none'}; "
            f"weights {document['weights']}; ufo_tune {document['ufo_tune']}"
        )
        html = [paragraph(about), table(evaluation_rows(name, document)), paragraph(facts, soft=True)]
        sections.append((name, "\n".join(html)))
        for split in document["splits"]:
            sections += _behind(f"{name}, {split}", folders[name] / split, out)
    path = out / "report.html"
    path.write_text(page(f"Evaluation of {checkpoint}", sections), encoding="utf-8")
    return path


def sanity_list(lines: Sequence[Line]) -> str:
    """The lines of one split, warnings first."""
    rows = [
        {"": "WARNING" if line.warning else "ok", "looked at": line.name, "found": line.says}
        for line in sorted(lines, key=lambda line: not line.warning)
    ]
    suspicious = sum(line.warning for line in lines)
    head = f'<p class="down">{suspicious} of {len(lines)} look wrong; mend them before the score is believed.</p>'
    about = "These are diagnostics; no score is ever taken from another reading than the model's own."
    return (head if suspicious else "") + table(rows) + paragraph(about, soft=True)


def _behind(title: str, folder: Path, out: Path) -> list[tuple[str, str]]:
    """What lies behind the score of one split: sanity, groups, curves, pictures."""
    analysis = analysis_file.read(folder)
    if analysis is None:
        return []
    sections = [(f"{title}: sanity", sanity_list(analysis.sanity))]
    if analysis.breakdown:
        sections.append((f"{title}: by size and length", table(analysis.breakdown)))
    sections.append((f"{title}: sample by sample", _charts(analysis)))
    words = {"best": "the best", "worst": "the worst", "unreadable": "answers that could not be read"}
    for kind, figures in pictures(folder, out).items():
        sections.append((f"{title}: {words.get(kind, kind)}", gallery(figures)))
    return sections


def _charts(analysis: Analysis) -> str:
    """How the samples' own scores are spread, and the metric's curves."""
    scores = [score for _, score in analysis.samples if score is not None]
    of = f"{len(scores)} of {len(analysis.samples)} samples" if len(scores) < len(analysis.samples) else "all samples"
    html = show.histogram(scores, _BINS, title=f"{analysis.score} of {of}", x=analysis.score)
    if analysis.curves:
        events = {name: list(zip(x, y, strict=True)) for name, (x, y) in analysis.curves.items()}
        html += show.curves(events, title="Curves of the metric", x="recall", y="precision", smooth=False)
    return f"<figure>{html}</figure>"


def picture(sample: Sample, predictions: Mapping[str, Prediction]) -> Any:
    """What was predicted, each under its name, beside the truth where that can be drawn."""
    seen = {name: show.draw_prediction(sample, p, scale_to=_SIDE) for name, p in predictions.items()}
    if (truth := show.draw_truth(sample, scale_to=_SIDE)) is not None:
        seen = {"truth": truth, **seen}
    return show.sheet(list(seen.values()), list(seen), len(seen)) if len(seen) > 1 else next(iter(seen.values()))


def said(sample: Sample, prediction: Prediction, answers: Sequence[str] = ()) -> str:
    """Question and answer in few words; what could not be read stands as the only one of ``answers`` has it."""
    asked = f"\u201c{sample.text}\u201d" if sample.text else sample.source
    words = placeholders.located(prediction.text, prediction.boxes.tolist())
    if prediction.invalid and len(answers) == 1:
        words = answers[0]
    if words:
        truth = f", truth \u201c{sample.targets.text}\u201d" if sample.targets and sample.targets.text else ""
        answer = re.sub(r"(<[A-Z]+>)\1+", lambda run: f"{run[1]} x {len(run[0]) // len(run[1])}", words)
        return f"{asked}: \u201c{answer}\u201d{truth}"
    maps = (prediction.label_map, prediction.depth, prediction.normals)
    count = len(prediction.boxes) or len(prediction.masks or ())
    found = "a map" if any(m is not None for m in maps) else f"{count} found"
    return f"{asked}: {found}" + (f", {prediction.invalid} unreadable" if prediction.invalid else "")
