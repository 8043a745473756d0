"""HTML reports without scripts or outside files: ``page`` of ``table`` and ``gallery`` sections, and that of ``eval``.

html = page("Results", [("Scores", table(rows)), ("Pictures", gallery([figure("a.jpg", "a red bus")]))])
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ufo_tune.core.types import Prediction, Sample
from ufo_tune.metrics._base import MetricLike

GALLERY = 12
"""Pictures drawn for each split: its first samples, so that two evaluations show the same ones."""
_PICTURES = "pictures"
_CAPTIONS = "captions.json"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; padding: 0 1rem; color: #1b1f24;
       background: #fff }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #d5dbe1 }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #e4e8ec; text-align: left; white-space: nowrap }
td.number { text-align: right }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); gap: 1rem }
figure { margin: 0 } figure img { width: 100%; image-rendering: auto; border-radius: 4px }
figcaption { font-size: .85rem; color: #4a545e; overflow-wrap: anywhere }
pre { background: #f4f6f8; padding: .8rem; overflow-x: auto; border-radius: 4px }
@media (prefers-color-scheme: dark) {
  body { background: #14181c; color: #dfe5ea } h2, th, td { border-color: #39424b }
  figcaption { color: #a3aeb8 } pre { background: #1f252b } }
"""


def page(title: str, sections: Sequence[tuple[str, str]]) -> str:
    """A whole HTML document.

    Args:
        title: plain text.
        sections: heading (plain text; may be empty) and HTML of each part.
    """
    name = escape(title)
    parts = [(f"<h2>{escape(heading)}</h2>\n" if heading else "") + html for heading, html in sections]
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{name}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_STYLE}</style>\n</head>\n'
        f"<body>\n<h1>{name}</h1>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """An HTML table: a column for every key, in order of first appearance; empty where a row lacks it."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    head = "".join(f"<th>{escape(c)}</th>" for c in columns)
    body = "".join("<tr>" + "".join(_cell(row.get(c, "")) for c in columns) + "</tr>\n" for row in rows)
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>'


def figure(img_path: str | Path, caption: str) -> str:
    """A picture with its caption.

    Args:
        img_path: relative to the page, so that the folder can be moved.
        caption: plain text.
    """
    source = quote(Path(img_path).as_posix())
    text = escape(caption)
    return f'<figure><img src="{source}" alt="{text}" loading="lazy"><figcaption>{text}</figcaption></figure>'


def gallery(figures: Sequence[str]) -> str:
    """Figures side by side, as many in a row as fit."""
    return '<div class="gallery">\n' + "\n".join(figures) + "\n</div>"


def draw_gallery(
    folder: Path, shown: Sequence[tuple[Sample, Prediction]], new_metric: Callable[[], MetricLike]
) -> list[Path]:
    """Overlays of predictions under ``folder/pictures``, each with its own score in the caption.

    Args:
        folder: of one split.
        shown: samples and what was predicted.
        new_metric: an empty metric; its first value on the single sample is the picture's score.
    """
    from ufo_tune import show  # pictures only where they are asked for

    pictures = folder / _PICTURES
    pictures.mkdir(parents=True, exist_ok=True)
    captions: dict[str, str] = {}
    for number, (sample, prediction) in enumerate(shown):
        metric = new_metric()
        metric.update(sample, prediction)
        name, value = next(iter(metric.compute().items()))
        path = pictures / f"{number:02d}.jpg"
        show.draw(sample, prediction).save(path, quality=90)
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
        html = f"<p>{escape(about)}</p>\n<p><small>{escape(facts)}</small></p>\n"
        sections.append((name, html + table(evaluation_rows(name, document))))
        for split in document["splits"]:
            if figures := pictures(folders[name] / split, out):
                sections.append((f"{name}, {split}: the first {len(figures)}", gallery(figures)))
    path = out / "report.html"
    path.write_text(page(f"Evaluation of {checkpoint}", sections), encoding="utf-8")
    return path


def _cell(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"<td>{escape(str(value))}</td>"
    return f'<td class="number">{value:.3f}</td>' if isinstance(value, float) else f'<td class="number">{value}</td>'


def _said(sample: Sample, prediction: Prediction) -> str:
    """Question and answer in few words."""
    asked = f"\u201c{sample.text}\u201d" if sample.text else sample.source
    if prediction.text:
        truth = f", truth \u201c{sample.targets.text}\u201d" if sample.targets and sample.targets.text else ""
        return f"{asked}: \u201c{prediction.text}\u201d{truth}"
    count = len(prediction.boxes) or len(prediction.masks or ())
    return f"{asked}: {count} found" + (f", {prediction.invalid} unreadable" if prediction.invalid else "")
