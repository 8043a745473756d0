"""The report of an evaluation: a table with reference numbers, and pictures of what was said about each split.

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
from ufo_tune.core.types import Prediction, Sample
from ufo_tune.engine.html import figure, gallery, page, paragraph, table
from ufo_tune.metrics._base import MetricLike

GALLERY = 12
"""Pictures drawn for each split: its first samples, so that two evaluations show the same ones."""
_PICTURES = "pictures"
_CAPTIONS = "captions.json"
_SIDE = 320
"""Pixels of a picture's long side."""


def draw_gallery(
    folder: Path, shown: Sequence[tuple[Sample, Prediction]], new_metric: Callable[[], MetricLike]
) -> list[Path]:
    """Overlays of truth and prediction under ``folder/pictures``, each with its own score in the caption.

    Args:
        folder: of one split.
        shown: samples and what was predicted.
        new_metric: an empty metric; its first value on the single sample is the picture's score.
    """
    pictures = folder / _PICTURES
    pictures.mkdir(parents=True, exist_ok=True)
    captions: dict[str, str] = {}
    for number, (sample, prediction) in enumerate(shown):
        metric = new_metric()
        metric.update(sample, prediction)
        name, value = next(iter(metric.compute().items()))
        path = pictures / f"{number:02d}.jpg"
        _picture(sample, prediction).save(path, quality=90)
        captions[path.name] = f"{_said(sample, prediction)} ({name} {value:.2f})"
    (pictures / _CAPTIONS).write_text(json.dumps(captions, indent=1, ensure_ascii=False), encoding="utf-8")
    return [pictures / name for name in captions]


def pictures(folder: Path, base: Path) -> list[str]:
    """The figures that ``draw_gallery`` left in the folder of a split, for a page that lies in ``base``."""
    captions = folder / _PICTURES / _CAPTIONS
    if not captions.exists():
        return []
    found: dict[str, str] = json.loads(captions.read_text(encoding="utf-8"))
    return [figure((captions.parent / name).relative_to(base), caption) for name, caption in found.items()]


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
            if figures := pictures(folders[name] / split, out):
                sections.append((f"{name}, {split}: the first {len(figures)}", gallery(figures)))
    path = out / "report.html"
    path.write_text(page(f"Evaluation of {checkpoint}", sections), encoding="utf-8")
    return path


def _picture(sample: Sample, prediction: Prediction) -> Any:
    """What was predicted, beside the truth where that can be drawn."""
    seen = show.draw_prediction(sample, prediction, scale_to=_SIDE)
    t = sample.targets
    if t is None or not (len(t.boxes) or t.masks):
        return seen
    truth = show.draw_prediction(sample, Prediction(t.boxes, t.masks, labels=t.labels), scale_to=_SIDE)
    return show.sheet([truth, seen], ["truth", "prediction"], 2)


def _said(sample: Sample, prediction: Prediction) -> str:
    """Question and answer in few words."""
    asked = f"\u201c{sample.text}\u201d" if sample.text else sample.source
    if prediction.text:
        truth = f", truth \u201c{sample.targets.text}\u201d" if sample.targets and sample.targets.text else ""
        answer = re.sub(r"(<[A-Z]+>)\1+", lambda run: f"{run[1]} x {len(run[0]) // len(run[1])}", prediction.text)
        return f"{asked}: \u201c{answer}\u201d{truth}"
    count = len(prediction.boxes) or len(prediction.masks or ())
    return f"{asked}: {count} found" + (f", {prediction.invalid} unreadable" if prediction.invalid else "")
