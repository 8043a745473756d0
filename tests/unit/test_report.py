"""Reports: well-formed, escaped, complete in one file, and true to the numbers they are given."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ufo_tune import show
from ufo_tune.config import Recipe
from ufo_tune.core import masks
from ufo_tune.core.types import Prediction, Sample, Targets
from ufo_tune.engine import html
from ufo_tune.engine.analysis import Analysis, groups_of, pick
from ufo_tune.engine.analysis import read as analysis_of
from ufo_tune.engine.predictions import Case
from ufo_tune.engine.quickstart_report import events, quickstart_report, score_rows, time_split
from ufo_tune.engine.report import draw_gallery, pictures, write_evaluation
from ufo_tune.engine.sanity import Line
from ufo_tune.plugins import find

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


def errors() -> dict[str, object]:
    """A summary in which one thing got better by falling and another worse by falling."""
    changed: dict[str, object] = {
        "before": {"depth": {"AbsRel": 0.9}, "vqa": {"exact_match": 0.9}},
        "after": {"depth": {"AbsRel": 0.041}, "vqa": {"exact_match": 0.8}},
        "n": {"depth": 100, "vqa": 800},
    }
    return {**summary(), **changed}


def test_an_error_that_falls_is_good_news(tmp_path: Path) -> None:
    text = quickstart_report(errors(), tmp_path).read_text("utf-8")
    assert '<span class="up">-0.859</span>' in text and '<span class="down">-0.100</span>' in text
    assert [row["metric"] for row in score_rows(errors())] == ["AbsRel (less is better)", "exact_match"]
    assert "to answer with depth in" in text and "--task depth --out" in text and "--task rec" not in text


def test_a_small_error_is_a_hit(tmp_path: Path) -> None:
    pictures = tmp_path / "eval" / "depth" / "test" / "pictures"
    pictures.mkdir(parents=True)
    captions = {"00.jpg": "near (AbsRel 0.04)", "01.jpg": "far (AbsRel 0.60)", "02.jpg": "nothing (AbsRel nan)"}
    (pictures / "captions.json").write_text(json.dumps(captions), "utf-8")
    said = "".join(read(quickstart_report(errors(), tmp_path).read_text("utf-8")).text)
    hits, misses = (said.index(f"Depth: {kind}") for kind in ("hits", "misses"))
    assert hits < said.index("near (") < misses < said.index("far (") < said.index("nothing (")


@pytest.mark.parametrize("command", ["predict", "train", "eval", "recipes ls", "data validate"])
def test_the_page_says_what_to_try_next(tmp_path: Path, command: str) -> None:
    assert f"ufo-tune {command}" in quickstart_report(summary(), tmp_path).read_text("utf-8")


# -- the report of an evaluation -------------------------------------------------------------------------------------


def truth(boxes: list[list[float]], *, rectangles: bool = False, **more: object) -> Sample:
    """A sample of 200 x 100 pixels with boxes, or with their rectangles as masks."""
    size = (100, 200)
    rles = None
    if rectangles:
        bitmaps = np.zeros((len(boxes), *size), dtype=bool)
        for bitmap, (x0, y0, x1, y1) in zip(bitmaps, boxes, strict=True):
            bitmap[int(y0) : int(y1), int(x0) : int(x1)] = True
        rles = masks.encode_many(bitmaps)
    text = str(more.pop("answer", ""))
    targets = Targets(torch.tensor(boxes).reshape(-1, 4), rles, torch.zeros(len(boxes)).long(), text=text)
    return Sample(None, size, "any", targets=targets, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sample", "groups"),
    [
        (truth([[0, 0, 31, 33]]), [("size", "small (below 32\u00b2 pixels)")]),  # 1023 pixels
        (truth([[0, 0, 32, 32]]), [("size", "medium")]),  # 1024
        (truth([[0, 0, 96, 96]]), [("size", "large (96\u00b2 pixels and more)")]),
        (truth([[0, 0, 96, 96], [0, 0, 4, 4], [0, 0, 5, 5]]), [("size", "small (below 32\u00b2 pixels)")]),  # median
        (truth([[0, 0, 19, 10]], rectangles=True), [("size", "below 1 % of the image")]),  # 190 of 20000
        (truth([[0, 0, 20, 10]], rectangles=True), [("size", "1 to 10 %")]),
        (truth([[0, 0, 100, 20]], rectangles=True), [("size", "above 10 %")]),
        (truth([], rectangles=True), [("size", "nothing to find")]),
        (truth([[0, 0, 32, 32]], text="the dog"), [("size", "medium"), ("words of the question", "1 to 2")]),
        (truth([], text="what is it?", answer="a dog"), [
            ("words of the question", "3 to 4"), ("words of the true answer", "1 to 2"),
        ]),
        (truth([], text="word " * 17), [("words of the question", "17 and more")]),
    ],
)  # fmt: skip
def test_samples_are_grouped_by_size_and_length(sample: Sample, groups: list[tuple[str, str]]) -> None:
    assert [(by, name) for by, name, _ in groups_of(sample)] == groups


def test_pictures_to_look_at() -> None:
    scored = [(0, 0.5), (1, 0.9), (2, 0.1), (3, 0.9), (4, 0.0), (5, 0.7)]
    assert pick(scored, [4]) == {"best": [1, 3, 5], "worst": [2, 0], "unreadable": [4]}
    assert pick(scored, [], higher_is_better=False)["best"] == [4, 2, 0]
    many = pick([(i, i / 100) for i in range(100)], [7, 3])
    assert (many["best"], many["worst"]) == ([99, 98, 97, 96, 95, 94], [0, 1, 2, 4, 5, 6])
    assert pick([], []) == {"best": [], "worst": [], "unreadable": []}


def test_histogram_counts() -> None:
    reader = read(show.histogram([0.0, 0.04, 0.05, 0.99, 1.0], 20, title=NASTY, x="IoU"))
    bars = [text for text in reader.text if ": " in text]
    counts = [int(text.rpartition(": ")[2]) for text in bars]
    assert counts == [2, 1, *[0] * 16, 0, 2]
    tall = [float(a["height"] or 0) for t, a in reader.tags if t == "rect"]
    assert max(tall) == tall[0] == tall[-1] == pytest.approx(2 * tall[1], abs=0.1)
    read(show.histogram([], 5))
    assert "-3 to" in show.histogram([-3.0, 2.0], 5)


def write(folder: Path, analysis: Analysis) -> None:
    """What an evaluation leaves, as far as the report reads it."""
    analysis.write(folder)
    protocol = {"description": NASTY, "decode": {"batch_size": 8}, "dataset": "d", "metric": "m"}
    protocol["reference"] = [{"model": "Someone", "split": "val", "AP": 0.25, "source": "a paper"}]
    values = {"AP": 0.5, "n": 4, "invalid": 1, "seconds": 2.0}
    document = {"protocol": protocol, "splits": {"val": values}, "template": "t", "weights": "abc", "limit": 0}
    (folder.parent / "metrics.json").write_text(json.dumps({**document, "ufo_tune": "0"}), "utf-8")


def test_report_is_written_from_files_alone(tmp_path: Path) -> None:
    folder = tmp_path / "det" / "val"
    folder.mkdir(parents=True)
    analysis = Analysis(
        breakdown=[{"by": "size", "group": "medium", "AP": 0.123, "n": 3, "invalid": 0}],
        score="AP",
        samples=[("a", 0.0), ("b", 1.0), ("c", None), ("d", 0.9)],
        curves={"precision <IoU 0.5>": ([0.0, 0.5, 1.0], [1.0, 0.75, 0.25])},
        sanity=[Line("fine", 0.0, "0 of 9"), Line("bad <one>", 0.5, f"50 % {NASTY}", True)],
        pictures={},
    )
    write(folder, analysis)
    assert analysis_of(folder).sanity == analysis.sanity
    text = write_evaluation(tmp_path, "runs/x", {"det": tmp_path / "det"}).read_text("utf-8")
    reader = read(text)
    said = "".join(reader.text)
    for expected in ("WARNING", "bad <one>", "medium", "0.123", "AP of 3 of 4 samples", "a paper", "weights abc"):
        assert expected in said, expected
    assert said.index("bad <one>") < said.index("0 of 9")  # warnings first
    assert "precision <IoU 0.5>" in said and sum(t == "svg" for t, _ in reader.tags) == 2


def test_pictures_are_named_after_what_they_show(tmp_path: Path) -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    box = torch.tensor([[2.0, 2, 9, 9]])
    sample = Sample(image, (20, 30), "rec", text="it", targets=Targets(box, labels=torch.zeros(1).long()), source="s")
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / "old.jpg")
    shown = {"best": [Case(sample, Prediction(box))], "unreadable": [Case(sample, Prediction(text="?", invalid=1))]}
    drawn = draw_gallery(tmp_path, shown, find("metrics", "rec_accuracy").Metric)
    assert [p.name for p in drawn] == ["best_00.jpg", "unreadable_00.jpg"]
    assert not (tmp_path / "pictures" / "old.jpg").exists()
    captions = json.loads((tmp_path / "pictures" / "captions.json").read_text("utf-8"))
    assert captions["best_00.jpg"].endswith("(mean_IoU 1.00)")
    assert Image.open(drawn[0]).width > 2 * 320  # truth and prediction side by side
    assert {kind: len(found) for kind, found in pictures(tmp_path, tmp_path).items()} == {"best": 1, "unreadable": 1}
