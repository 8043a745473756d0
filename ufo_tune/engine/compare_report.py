"""The page of a comparison: every difference with its interval, and the pictures that changed most.

write_comparison(differences, Path("runs/a/eval"), Path("runs/b/eval"), Path("a_or_b"))   # a_or_b/compare.html
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ufo_tune.engine import analysis
from ufo_tune.engine.compare import Difference, Pair, pairs, to_json
from ufo_tune.engine.html import figure, gallery, page, paragraph, table
from ufo_tune.engine.report import picture, said

_SHOWN = 6
"""Pictures for each direction of each split."""


def write_comparison(differences: Sequence[Difference], a: Path, b: Path, out: Path) -> Path:
    """``compare.json``, ``compare.html`` and its pictures in ``out``.

    Args:
        differences: what ``compare`` gave for these folders.
        a: an evaluation.
        b: another one.
        out: folder, made where it is not there.
    Returns:
        The page.
    """
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    text = json.dumps({"a": str(a), "b": str(b), "differences": to_json(differences)}, indent=1)
    (out / "compare.json").write_text(text + "\n", encoding="utf-8")
    intro = paragraph(f"A is {a}. B is {b}. Differences are B minus A.") + paragraph(
        "Intervals hold 95 % of a paired bootstrap: pictures are drawn with replacement, the same for both, and every "
        "value is computed anew on them. \u201cB not above A\u201d is the share of the resamples where that is so.",
        soft=True,
    )
    sections = [("", intro), ("Differences", table(rows(differences)))]
    for pair in pairs(a, b):
        for title, changed in _changed(pair).items():
            if changed:
                sections.append((f"{pair.name}, {pair.split}: {title}", _gallery(pair, title, changed, out)))
    path = out / "compare.html"
    path.write_text(page("Two evaluations compared", sections), encoding="utf-8")
    return path


def rows(differences: Sequence[Difference]) -> list[dict[str, object]]:
    """A table of differences, for people."""
    return [
        {
            "protocol": d.protocol,
            "split": d.split,
            "value": d.value,
            "A": d.a,
            "B": d.b,
            "B - A": f"{d.difference:+.4f}",
            "95 % interval": f"{d.low:+.4f} to {d.high:+.4f}",
            "": "clear" if d.clear else "may be luck" if d.low < d.high else "equal",
            "B not above A": f"{d.not_above:.1%}",
            "n": d.n,
            "pictures": d.pictures,
            "resamples": d.resamples,
        }
        for d in differences
    ]


def _changed(pair: Pair) -> dict[str, list[tuple[int, float]]]:
    """Samples whose own score differs most, by direction: (number, B minus A)."""
    both = [analysis.read(folder) for folder in (pair.a, pair.b)]
    if both[0] is None or both[1] is None:
        return {}
    other = dict(both[1].samples)
    gains = [
        (index, theirs - ours)
        for index, (source, ours) in enumerate(both[0].samples)
        if ours is not None and (theirs := other.get(source)) is not None
    ]
    order = sorted(gains, key=lambda gain: (gain[1], gain[0]))
    return {
        "score of B far above A": [gain for gain in order[::-1] if gain[1] > 0][:_SHOWN],
        "score of B far below A": [gain for gain in order if gain[1] < 0][:_SHOWN],
    }


def _gallery(pair: Pair, title: str, changed: Sequence[tuple[int, float]], out: Path) -> str:
    figures = []
    for (index, gain), (a, b) in zip(changed, pair.cases([i for i, _ in changed]), strict=True):
        name = f"{pair.name}_{pair.split}_{'up' if gain > 0 else 'down'}_{index}.jpg"
        path = out / "pictures" / name
        picture(a.sample, {"A": a.prediction, "B": b.prediction}).save(path, quality=90)
        caption = f"{said(a.sample, b.prediction)} ({gain:+.2f})"
        figures.append(figure(path.relative_to(out), caption, alt=f"{title}: {caption}"))
    return gallery(figures)
