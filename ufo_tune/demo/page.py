"""The page: a picture and a question on the left, the answer on the right. Needs the extra ``demo`` (gradio)."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from ufo_tune import show
from ufo_tune.demo import panel
from ufo_tune.demo.asking import TITLES, Answer, Box, Desk, Question, Turn
from ufo_tune.engine.predict import to_json
from ufo_tune.errors import UfoTuneError

_ASSETS = Path(__file__).parent / "assets"
_HINT = '<div class="ufo-hint">The answer is drawn here: point at a mask to see what each of its tokens sees.</div>'
_FIELDS = {
    "phrase": ("What is it?", "for instance: the red circle"),
    "question": ("Your question", "for instance: how many circles are there?"),
    "classes": ("Classes", "names, with commas between them, for instance: circle, square, star"),
}
"""Label and help of the text field, by what a task asks for."""
_SOFT = ("#4b5765", "#b3bdc8")
"""Remarks, on light and on dark: readable, which gradio's own grey is not (WCAG AA)."""
_LARGE = 2048
"""Long side in pixels that downloaded overlays have at most."""


@dataclass(slots=True)
class Talk:
    """What was said about one picture in one task, so that the next question can go on from it."""

    image: str = ""
    task: str = ""
    turns: list[Turn] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)


def page(desk: Desk, title: str, examples: Sequence[Path], queue: int, folder: Path) -> gr.Blocks:
    """The whole page.

    Args:
        desk: the model.
        title: what the model is called.
        examples: pictures to pick from.
        queue: questions that wait at most; the next one is told to come again.
        folder: for downloads; emptied by whoever made it.
    """
    view = _View(desk, folder)
    with gr.Blocks(analytics_enabled=False, title=f"{title} - ufo-tune", delete_cache=(3600, 3600)) as blocks:
        gr.HTML(
            "<h1>A model that points</h1>"
            f"<p>Boxes and masks are the plain answers of <code>{panel.clean(title)}</code>: "
            "no detection head, no mask decoder.</p>",
            elem_classes="ufo-head",
            js_on_load=None,
        )
        talk = gr.State(Talk())
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                image = gr.Image(
                    label="Picture", type="filepath", image_mode=None, sources=["upload", "clipboard"], height=230,
                    buttons=[], elem_id="ufo-image",
                )  # fmt: skip
                if examples:
                    gr.Examples([[str(e)] for e in examples], image, label="Or pick one of these", examples_per_page=12)
                choices = [(TITLES.get(t, t.replace("_", " ").capitalize()), t) for t in desk.tasks]
                task = gr.Radio(choices, value=desk.tasks[0], label="What to do", elem_id="ufo-task")
                text = gr.Textbox(**view.question(desk.tasks[0]), elem_id="ufo-text", lines=1, max_lines=4)
                with gr.Row():
                    ask = gr.Button("Ask", variant="primary", elem_id="ufo-ask", min_width=90)
                    stop = gr.Button("Stop", elem_id="ufo-stop", min_width=70)
                    clear = gr.Button("Start over", elem_id="ufo-clear", min_width=110)
            with gr.Column(scale=5, min_width=420):
                said = gr.HTML(elem_id="ufo-said", js_on_load=_asset("words.js"), min_height=30)
                seen = gr.HTML(_HINT, elem_id="ufo-seen", js_on_load=_asset("panel.js"))
                with gr.Row():
                    png = gr.DownloadButton("Download picture (PNG)", interactive=False, elem_id="ufo-png", size="md")
                    row = gr.DownloadButton("Download answer (JSON)", interactive=False, elem_id="ufo-json", size="md")
        outputs = [said, seen, png, row, talk]
        hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        task.change(view.field, task, text, queue=False, **hidden)
        asked = gr.on(
            [ask.click, text.submit], view.ask, [image, task, text, talk], outputs, concurrency_limit=1, **hidden
        )
        stop.click(view.stopped, None, said, cancels=[asked], queue=False, **hidden)
        clear.click(view.start_over, None, outputs, cancels=[asked], queue=False, **hidden)
    blocks.queue(max_size=queue, api_open=False, default_concurrency_limit=1)
    return blocks


def style() -> dict[str, Any]:
    """Theme and style sheet, for ``launch``: fonts of the reader's own system, nothing to fetch."""
    theme = gr.themes.Base(
        primary_hue="blue",
        neutral_hue="slate",
        radius_size="md",
        font=["system-ui", "-apple-system", "Segoe UI", "sans-serif"],
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
    )
    for name in ("body_text_color_subdued", "block_info_text_color", "block_label_text_color"):
        theme.set(**{name: _SOFT[0], f"{name}_dark": _SOFT[1]})
    theme.set(
        button_primary_background_fill_hover="*primary_700", button_primary_background_fill_hover_dark="*primary_700"
    )
    return {"theme": theme, "css": _asset("style.css")}


class _View:
    """What happens on the page's events."""

    def __init__(self, desk: Desk, folder: Path) -> None:
        self.desk = desk
        self.folder = folder

    def question(self, task: str) -> dict[str, Any]:
        """The text field that suits a task; hidden where the task asks for nothing."""
        asks = self.desk.asks(task)
        label, info = _FIELDS.get(asks, ("", ""))
        return {"label": label, "info": info, "visible": bool(asks)}

    def field(self, task: str) -> Any:
        """The same, for a task that was chosen just now."""
        return gr.Textbox(**self.question(task))

    def start_over(self) -> tuple[Any, ...]:
        """An empty answer."""
        return "", _HINT, _no_file(), _no_file(), Talk()

    def stopped(self) -> str:
        """What is said where somebody stopped an answer."""
        return '<p class="ufo-soft">Stopped.</p>'

    def ask(self, image: str | None, task: str, text: str, talk: Talk) -> Iterator[tuple[Any, ...]]:
        """Words while they come, then picture and files; what cannot be asked is one sentence."""
        none = (gr.skip(),) * 3
        if not image:
            yield panel.fault("picture: there is none (got nothing); upload one, or pick an example"), _HINT, *none
            return
        asks = self.desk.asks(task)
        goes_on = asks == "question" and (talk.image, talk.task) == (image, task)
        seen = gr.skip() if talk.image == image else _HINT  # nothing of another picture stays
        talk = talk if goes_on else Talk(image, task)
        question = Question(
            Path(image),
            task,
            "" if asks in ("classes", "") else text or "",
            tuple(name.strip() for name in (text or "").split(",") if name.strip()) if asks == "classes" else (),
            tuple(talk.turns),
            tuple(talk.boxes),
        )
        codec, said = self.desk.predictor.model.codec, question.text or ", ".join(question.classes)
        yield panel.progress((), codec, said), seen, *none
        try:
            for now in self.desk.answers(question):
                if isinstance(now, Answer):
                    yield self._answered(now, talk, keep=asks == "question")
                else:
                    yield panel.progress(now, codec, said), gr.skip(), *none
        except UfoTuneError as error:
            yield panel.fault(str(error)), gr.skip(), *none

    def _answered(self, answer: Answer, talk: Talk, *, keep: bool) -> tuple[Any, ...]:
        """The outputs of a whole answer; ``keep``: the next question goes on from it."""
        said = panel.words(answer, self.desk.predictor.model.codec, talk.turns)
        if keep:
            boxes = [tuple(box) for box in answer.prediction.boxes.tolist()]
            turns = [*talk.turns, (answer.sample.text, answer.prediction.text)]
            talk = Talk(talk.image, talk.task, turns, [*talk.boxes, *boxes])
        png, row = self._files(answer)
        return said, panel.picture(answer), _file(png), _file(row), talk

    def _files(self, answer: Answer) -> tuple[Path, Path]:
        """The answer as ``ufo-tune predict`` writes it."""
        sample = answer.sample
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        name = f"{Path(sample.source).stem}.{sample.task}"
        side = min(max(512, *sample.size), _LARGE)
        show.draw_prediction(sample, answer.prediction, scale_to=side).save(folder / f"{name}.png")
        written = json.dumps(to_json(sample, answer.prediction), indent=1, ensure_ascii=False)
        (folder / f"{name}.json").write_text(written + "\n", encoding="utf-8")
        return folder / f"{name}.png", folder / f"{name}.json"


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _file(path: Path) -> Any:
    return gr.DownloadButton(value=str(path), interactive=True)


def _no_file() -> Any:
    return gr.DownloadButton(value=None, interactive=False)
