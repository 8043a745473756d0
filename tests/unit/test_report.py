"""Reports: well-formed, escaped, complete in one file, and true to the numbers they are given."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from ufo_tune.config import Recipe
from ufo_tune.engine import html
from ufo_tune.engine.quickstart_report import events, quickstart_report, score_rows, time_split

VOID = {"meta", "img", "br", "hr", "link", "input"}
NASTY = "<script>alert('1')</script> & \"x\""


class Reader(HTMLParser):
    """Refuses tags that are not closed in order; keeps the text and the attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(text: str) -> Reader:
    """Parsed; with nothing from elsewhere and nothing that runs."""
    reader = Reader(text)
    for tag, attributes in reader.tags:
        assert tag not in {"script", "link", "iframe", "object"}
        for name in ("src", "href"):
            value = attributes.get(name) or ""
            assert "//" not in value and not value.startswith("/"), value
        assert not any(name.startswith("on") for name in attributes)
        if tag == "img":
            assert attributes.get("alt")
    assert "url(" not in text and "@import" not in text
    return reader


def test_everything_given_is_escaped() -> None:
    sections = [
        (NASTY, html.paragraph(NASTY) + html.table([{NASTY: NASTY}]) + html.code([NASTY])),
        ("", html.gallery([html.figure("a b&c.png", NASTY, NASTY)]) + html.fold(NASTY, "<p>x</p>")),
    ]
    reader = read(html.page(NASTY, sections))
    said = "".join(reader.text)
    assert said.count(NASTY) == 9  # title, h1, h2, p, th, td, code, figcaption, summary
    assert dict(next(a for t, a in reader.tags if t == "img"))["src"] == "a%20b%26c.png"


def test_a_table_has_a_column_for_every_key() -> None:
    reader = read(html.table([{"a": 1, "b": 0.12345}, {"b": 2.0, "c": "x"}]))
    cells = [t.strip() for t in reader.text if t.strip()]
    assert cells == ["a", "b", "c", "1", "0.123", "2.000", "x"]
    assert sum(t == "td" for t, _ in reader.tags) == 6
    read(html.table([]))


def summary() -> dict[str, object]:
    return {
        "seconds": 754.0,
        "before": {"rec": {"Acc@0.5": 0.01}, "detection": {"AP": 0.0, "AP50": 0.0}, "vqa": {"exact_match": 0.9}},
        "after": {"rec": {"Acc@0.5": 0.875}, "detection": {"AP": 0.5, "AP50": 0.75}, "vqa": {"exact_match": 0.89}},
        "n": {"rec": 400, "detection": 100, "vqa": 800},
        "n_before": {"rec": 100, "detection": 20, "vqa": 800},
        "phases": {"train <fast>": 600.0, "evaluate": 154.0},
        "artifacts": {"report": "index.html", "model": "merged", "run": "run", "evaluation": "eval"},
    }


def folder(out: Path) -> None:
    (out / "run").mkdir()
    lines = [{"step": s, "seconds": s * 2.0, "loss/next_token": 3.0 / s, "lr": 1.0} for s in (10, 20)]
    lines.append({"step": 20, "seconds": 41.0, "scenes_rec/test/Acc@0.5": 0.5, "scenes_rec/test/n": 9})
    (out / "run" / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3', "utf-8")
    Recipe.from_dict({"model": {"base": "embedded"}, "data": {"mixture": [{"task": "rec", "dataset": "scenes"}]}}).save(
        out / "run" / "recipe.yaml"
    )
    pictures = out / "eval" / "rec" / "test" / "pictures"
    pictures.mkdir(parents=True)
    captions = {"00.jpg": "\u201cthe <b>\u201d: 1 found (Acc@0.5 1.00)", "01.jpg": "x: 1 found (Acc@0.5 0.00)"}
    for name in captions:
        Image.new("RGB", (8, 8)).save(pictures / name)
    (pictures / "captions.json").write_text(json.dumps(captions), "utf-8")


def test_the_log_becomes_curves(tmp_path: Path) -> None:
    folder(tmp_path)
    losses, scores = events(tmp_path / "run" / "log.jsonl", ["Acc@0.5"])
    assert losses == {"next_token": [(10, 0.3), (20, 0.15)]}
    assert scores == {"rec Acc@0.5": [(41.0, 0.5)]}
    assert events(tmp_path / "nowhere") == ({}, {})


def test_rows_say_what_changed() -> None:
    rows = score_rows(summary())
    assert [(r["task"], r["metric"], r["change"]) for r in rows] == [
        ("rec", "Acc@0.5", "+0.865"),
        ("detection", "AP", "+0.500"),
        ("detection", "AP50", "+0.750"),
        ("vqa", "exact_match", "-0.010"),
    ]
    assert (rows[0]["n before"], rows[0]["n after"]) == (100, 400)


def test_the_time_split_adds_up() -> None:
    reader = read(time_split({"a": 30.0, "b": 90.0, "<c>": 0.0}))
    widths = [(a["style"] or "").split(";")[0] for t, a in reader.tags if t == "span" and "style" in a]
    assert widths == ["width:25.00%", "width:75.00%", "width:0.00%"]
    assert "".join(reader.text).strip().startswith("a 30 s") and "<c> 0 s" in "".join(reader.text)
    read(time_split({}))


def test_the_quickstart_page_is_whole(tmp_path: Path) -> None:
    folder(tmp_path)
    written = quickstart_report(summary(), tmp_path)
    reader = read(written.read_text("utf-8"))
    said = "".join(reader.text)
    for expected in ("12 min 34 s", "0.875", "0.750", "n = 400", "train <fast>", "the resolved recipe", "merged"):
        assert expected in said, expected
    assert "Phrase to box: hits" in said and "Phrase to box: misses" in said
    assert sum(t == "svg" for t, _ in reader.tags) == 2
    images = [a["src"] or "" for t, a in reader.tags if t == "img"]
    assert len(images) == 2 and all((tmp_path / src).exists() for src in images)


@pytest.mark.parametrize("command", ["predict", "train", "eval", "recipes ls", "data validate"])
def test_the_page_says_what_to_try_next(tmp_path: Path, command: str) -> None:
    assert f"ufo-tune {command}" in quickstart_report(summary(), tmp_path).read_text("utf-8")
