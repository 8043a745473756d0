"""The demo without a browser: who may ask what, what becomes of it, and HTML that holds what people type."""

from __future__ import annotations

import ast
import inspect
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests import tiny
from ufo_tune import cli, show
from ufo_tune.core import masks
from ufo_tune.core.types import Prediction, Sample
from ufo_tune.demo import asking, panel, server
from ufo_tune.demo.asking import Answer, Desk, Question, _tasks
from ufo_tune.engine.closeup import ask_closely
from ufo_tune.errors import ConfigError, DataError
from ufo_tune.show.overlay import layer


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    folder = tmp_path_factory.mktemp("demo")
    tiny.model("llava", folder).save(folder / "model")
    return Desk(folder / "model", max_pixels=10_000)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.fromarray(tiny.image(size=(60, 80))).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_a_question_gives_words_and_then_the_answer(desk: Desk, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = threading.Event()

    def patient(*arguments: Any) -> Any:
        """The model, which does not go on before its first words were heard: a slow listener would skip them."""
        *asked, watch = arguments
        return ask_closely(*asked, lambda texts: (watch(texts), heard.wait(timeout=60)))

    monkeypatch.setattr(asking, "ask_closely", patient)
    answers = desk.answers(Question(photo, "res", "the ball"))
    first = next(answers)
    heard.set()
    *grown, answer = answers
    assert all(isinstance(texts, tuple) for texts in [first, *grown])
    assert isinstance(answer, Answer) and answer.sample.source == "photo.png" and answer.sample.size == (60, 80)
    expected = desk.predictor(photo, "res", text="the ball")
    assert answer.prediction.masks == expected.masks and len(answer.slots) == 1


def test_history_and_boxes_reach_the_model(desk: Desk, photo: Path) -> None:
    """A box of an earlier answer is in the prompt: a question that has none to give is refused."""
    said = Question(photo, "conversation", "and now?", history=(("where?", "at <bbox>."),), boxes=((1, 2, 30, 40),))
    assert isinstance(list(desk.answers(said))[-1], Answer)
    with pytest.raises(DataError, match=r"photo\.png: .*points at object 1 \(got 1 objects\)"):
        list(desk.answers(replace(said, text="and at <bbox>?")))


@pytest.mark.parametrize(
    ("size", "text", "says"),
    [
        ((101, 100), "x", r"^photo\.png: image is too large \(got 101x100 pixels\)"),
        ((9, 9), " ", r"the phrase is empty"),
    ],
)
def test_what_cannot_be_asked_names_the_picture_without_its_folder(
    desk: Desk, tmp_path: Path, size: tuple[int, int], text: str, says: str
) -> None:
    Image.new("RGB", size).save(tmp_path / "photo.png")
    with pytest.raises(DataError, match=says) as caught:
        next(iter(desk.answers(Question(tmp_path / "photo.png", "res", text))))
    assert str(tmp_path) not in str(caught.value)


def test_who_leaves_stops_the_model(desk: Desk, photo: Path) -> None:
    answers = desk.answers(Question(photo, "caption"))
    next(answers)
    answers.close()
    assert not [t for t in threading.enumerate() if t.name == "ufo-tune demo"]


def test_a_fault_of_the_model_reaches_the_page(desk: Desk, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> Answer:
        time.sleep(0.05)
        raise ZeroDivisionError("broken")

    monkeypatch.setattr(desk, "_answer", broken)
    with pytest.raises(ZeroDivisionError):
        list(desk.answers(Question(photo, "caption")))


def test_tasks_are_those_of_the_training_and_chat(desk: Desk) -> None:
    assert {"rec", "res", "detection", "depth", "vqa", "conversation"} <= set(desk.tasks)  # a base that says nothing
    assert [desk.asks(t) for t in ("res", "detection", "depth", "vqa")] == ["phrase", "classes", "", "question"]
    assert _tasks({"vqa": "scenes_vqa", "my.task": "mine", "rec": "scenes_rec"}) == (
        "rec",
        "vqa",
        "my.task",
        "conversation",
    )


@pytest.mark.parametrize("pixels", [0, 100_000_001])
def test_bounds_of_pictures_have_bounds(pixels: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--max-pixels is out of range"):
        Desk(tmp_path, max_pixels=pixels)


def bitmap() -> np.ndarray:
    made = np.zeros((48, 64), dtype=bool)
    made[10:30, 20:50] = True
    made[15:20, 30:40] = False
    return made


def answer(text: str = "", name: str = "the ball", slots: bool = True) -> Answer:
    image = np.full((48, 64, 3), 128, dtype=np.uint8)
    mask = masks.encode(bitmap())
    prediction = Prediction(masks.boxes_of([mask]), (mask,), torch.tensor([0.75]), text=text)
    alone = torch.linspace(-3, 3, 4 * 6 * 8).reshape(4, 6, 8)
    return Answer(Sample(image, (48, 64), "res", name, source="a.png"), prediction, (alone if slots else None,))


class Reader(HTMLParser):
    """Tags, attributes and texts of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts += data


def test_an_objects_shape_covers_its_mask_and_nothing_else() -> None:
    path = panel._runs(bitmap(), (48 * 3, 64 * 3))  # felt at 192 pixels: three for each of the mask
    felt = np.zeros((48 * 3, 64 * 3), dtype=bool)
    bars = re.findall(r"M(\d+) ([\d.]+)h(\d+)v([\d.]+)h-(\d+)z", path)
    for x, y, across, down, back in bars:
        assert across == back
        felt[round(float(y)) : round(float(y) + float(down)), int(x) : int(x) + int(across)] = True
    assert (felt == bitmap().repeat(3, axis=0).repeat(3, axis=1)).all()


def test_every_picture_and_object_is_named() -> None:
    found = Reader(panel.picture(answer()))
    named = [a for t, a in found.tags if t == "img"]
    assert len(named) == 4 and all(a["alt"] and a["src"].startswith("data:image/webp;base64,") for a in named)
    (shape,) = [a for t, a in found.tags if t == "g"]
    assert shape["tabindex"] == "0" and shape["role"] == "button" and shape["aria-label"] == "mask 1: the ball 0.75"
    assert not re.search(r'(?:src|href)="(?!data:)', panel.picture(answer()))  # nothing is fetched


def test_a_mask_without_slots_and_a_box_are_drawn_too() -> None:
    assert "ufo-closeup" not in panel.picture(answer(slots=False))
    boxed = Answer(answer().sample, Prediction(torch.tensor([[1.0, 2, 30, 40], [5, 5, 5, 5]])), ())
    shapes = [a for t, a in Reader(panel.picture(boxed)).tags if t == "g"]
    assert [s["aria-label"] for s in shapes] == ["box 1: the ball"]  # that of no extent is left out


@pytest.mark.parametrize("typed", ["<script>alert(1)</script>", "{{this}} ${value} `x`", '"><img src=x>', "a & b"])
def test_what_people_type_is_text(typed: str) -> None:
    for html in (
        panel.words(answer(f"I see {typed}", typed), tiny.CODEC, [(typed, typed)]),
        panel.picture(answer(name=typed)),
        panel.progress((f"I see {typed}",), tiny.CODEC, typed),
        panel.fault(typed),
    ):
        found = Reader(html)
        assert typed in found.texts and not re.search(r"\$\{|\{\{|`", html)
        assert not [t for t, a in found.tags if t == "script" or a.get("src") == "x"]


def test_words_of_an_answer() -> None:
    def said(text: str) -> str:
        return " ".join(Reader(panel.words(answer(text), tiny.CODEC)).texts.split())

    assert said("") == "the ball1 mask."
    assert "It is mask 1, near box 2." in said("It is <mask>, near <bbox>.")
    assert said("<box>1,2,3,4</box>").endswith("1 mask.") and said("<DEPTH>" * 4).endswith("1 mask.")


def test_progress_counts_parallel_answers_and_hides_half_a_box() -> None:
    texts = ("circle,<box>1,2,3,4</box>", "circle,<box>5,6,7,8</box>", "background", "sta")
    said = Reader(panel.progress(texts, tiny.CODEC, "")).texts
    assert "4 points" in said and "circle \u00d7 2" in said and "background" not in said and "sta" not in said
    assert "12" not in Reader(panel.progress(("at <box>12,3",), tiny.CODEC, "")).texts


def test_a_layer_over_the_picture_is_what_draw_paints() -> None:
    image = tiny.image(size=(48, 64))
    rgba, (x0, y0, *_) = layer(bitmap(), (230, 159, 0), (48, 64), 2)
    laid = Image.fromarray(image).convert("RGBA")
    laid.alpha_composite(Image.fromarray(rgba), (x0, y0))
    drawn = np.asarray(show.draw(image, masks=bitmap()[None], colours=[(230, 159, 0)], scale_to=None), dtype=int)
    assert abs(np.asarray(laid.convert("RGB"), dtype=int) - drawn).max() <= 3  # rounding of alpha and colour
    assert (drawn != image).any(axis=2).sum() > 400


def test_addresses_ports_and_examples(tmp_path: Path) -> None:
    assert [server.is_loopback(h) for h in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "192.168.0.7", "example")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"cannot listen at 127.0.0.1:{port}"):
            server._free("127.0.0.1", port)
    assert 0 < server._free("127.0.0.1", 0) < 65536
    with pytest.raises(ConfigError, match="--port is out of range"):
        server._free("127.0.0.1", 70_000)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ConfigError, match="--examples has no pictures"):
        server._pictures(tmp_path)
    for name in ("b.png", "a.JPG"):
        Image.new("RGB", (3, 3)).save(tmp_path / name)
    assert [p.name for p in server._pictures(tmp_path)] == ["a.JPG", "b.png"]


def test_without_gradio_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = server.importlib.util.find_spec
    monkeypatch.setattr(server.importlib.util, "find_spec", lambda name: None if name == "gradio" else real(name))
    assert cli.main(["demo", str(tmp_path), "--host", "0.0.0.0"]) == 2
    printed = capsys.readouterr()
    warning, error = printed.err.splitlines()
    assert warning.startswith("warning: demo: --host 0.0.0.0 lets everybody") and printed.out == ""
    assert error == "error: demo: needs gradio (got no such package); pip install 'ufo-tune[demo]'"


def test_the_downloaded_row_is_that_of_predict(desk: Desk, photo: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="the page needs gradio")
    from ufo_tune.demo.page import _View
    from ufo_tune.engine.predict import predict_files

    view = _View(desk, tmp_path)
    list(view.ask(str(photo), "res", "the ball", _talk()))
    (file,) = tmp_path.glob("*/photo.res.json")
    written = json.loads(file.read_text("utf-8"))
    (row,) = predict_files(desk.predictor.model, [photo], "res", text="the ball", out=tmp_path / "out", progress=False)
    row.pop("overlay")
    assert written == json.loads(json.dumps(row)) | {"image": "photo.png"}


def test_a_talk_goes_on_about_the_same_picture_only(
    desk: Desk, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gradio", reason="the page needs gradio")
    from ufo_tune.demo.page import _View

    asked: list[Question] = []

    def answers(question: Question) -> Iterator[Answer]:
        """At each question a box and its placeholder."""
        asked.append(question)
        sample = Sample(np.zeros((48, 64, 3), dtype=np.uint8), (48, 64), question.task, question.text, source="a.png")
        yield Answer(sample, Prediction(torch.tensor([[1.0, 2, 30, 40]]), text="at <bbox>"), ())

    monkeypatch.setattr(desk, "answers", answers)
    view, talk = _View(desk, tmp_path), _talk()
    for picture, task, text in (
        ("a.png", "conversation", "one?"),
        ("a.png", "conversation", "two?"),
        ("b.png", "conversation", "three?"),
        ("b.png", "vqa", "four?"),
        ("b.png", "res", "five"),
        ("b.png", "res", "six"),
    ):
        *_, last = view.ask(picture, task, text, talk)
        talk = last[4]
    assert [q.history for q in asked] == [(), (("one?", "at <bbox>"),), (), (), (), ()]
    assert [len(q.boxes) for q in asked] == [0, 1, 0, 0, 0, 0]
    (said,) = view.ask(None, "vqa", "where?", talk)
    assert "there is none" in said[0] and len(asked) == 6


def _talk() -> object:
    from ufo_tune.demo.page import Talk

    return Talk()


def test_the_space_is_the_same_demo() -> None:
    """Its settings are those that a Space reads, and it gives ``serve`` nothing that it does not take."""
    space = Path(__file__).parents[2] / "scripts" / "space"
    settings = yaml.safe_load((space / "README.md").read_text("utf-8").split("---")[1])
    assert settings["sdk"] == "gradio" and settings["app_file"] == "app.py" and (space / "app.py").is_file()
    pins = (space.parents[1] / "constraints.txt").read_text("utf-8").splitlines()
    assert f"gradio=={settings['sdk_version']}" in pins
    assert (space / "requirements.txt").read_text("utf-8").split() == ["ufo-tune[demo]"]
    calls = [n for n in ast.walk(ast.parse((space / "app.py").read_text("utf-8"))) if isinstance(n, ast.Call)]
    (given,) = [{k.arg for k in call.keywords} for call in calls if getattr(call.func, "id", "") == "serve"]
    assert given <= set(inspect.signature(server.serve).parameters) and {"host", "examples"} <= given
