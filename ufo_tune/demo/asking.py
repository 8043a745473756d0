"""Questions of a page to a model: what may be asked, the words while they come, and the answer with its slot maps."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor

from ufo_tune import plugins
from ufo_tune.core.images import MAX_PIXELS, image_size
from ufo_tune.core.types import Prediction, Sample, Targets
from ufo_tune.engine.closeup import ask_closely, slot_maps
from ufo_tune.engine.predict import Predictor, to_sample
from ufo_tune.engine.sources import Asked
from ufo_tune.errors import ConfigError, DataError

CHAT = "conversation"
"""What everybody may ask, whatever the model was trained for."""
TITLES = {
    "res": "Outline it (mask)",
    "rec": "Find it (box)",
    "instance_segmentation": "Outline all (masks)",
    "detection": "Find all (boxes)",
    "semantic_segmentation": "Label every pixel",
    "depth": "Depth",
    "normals": "Surface normals",
    "caption": "Describe",
    "vqa": "Ask",
    "conversation": "Chat",
}
"""What people may call a task; one that is not here goes by its name."""
Turn = tuple[str, str]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Question:
    """What the page asks. ``boxes`` are those of the objects in ``history`` (see task ``conversation``)."""

    image: Path
    task: str
    text: str = ""
    classes: tuple[str, ...] = ()
    history: tuple[Turn, ...] = ()
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said; ``slots`` has [S, h, w] logits of each slot token for every mask, None for an empty one."""

    sample: Sample
    prediction: Prediction
    slots: tuple[Tensor | None, ...]


class Desk:
    """A loaded model that takes questions one at a time.

    Args:
        path: a run, merged model or prepared base.
        max_pixels: larger pictures are refused before they are decoded.
    Raises:
        ConfigError: ``max_pixels`` is out of range.
        ModelError: no such model, or a damaged one.
    """

    def __init__(self, path: str | Path, *, max_pixels: int) -> None:
        if not 1 <= max_pixels <= MAX_PIXELS:
            raise ConfigError(f"demo: --max-pixels is out of range (got {max_pixels}); give 1 to {MAX_PIXELS}")
        self.predictor = Predictor(path)
        self.max_pixels = max_pixels
        self.tasks = _tasks(self.predictor.model.templates)

    def asked(self, task: str) -> Asked:
        """A task in the words of the training."""
        return self.predictor.asked(task)

    def asks(self, task: str) -> str:
        """What a person has to give: a ``phrase``, a ``question``, ``classes``, or nothing (an empty string)."""
        template = self.asked(task).template
        return next((field for field in ("phrase", "question", "classes") if template.asks(field)), "")

    def answers(self, question: Question) -> Iterator[tuple[str, ...] | Answer]:
        """The texts of the answers as they grow, several times, and last the whole answer.

        The model works in a thread of its own, and stops at its next token where nobody listens any more.

        Raises:
            DataError: the picture is too large or unreadable, or the question cannot be asked.
        """
        sample, asked = self._sample(question), self.asked(question.task)
        said: SimpleQueue[tuple[str, ...] | Answer | Exception] = SimpleQueue()
        left = threading.Event()

        def watch(texts: tuple[str, ...]) -> None:
            if left.is_set():
                raise _Left
            said.put(texts)

        def work() -> None:
            try:
                said.put(self._answer(sample, asked, watch))
            except _Left:
                pass
            except Exception as error:  # raised again below, where somebody listens
                said.put(error)

        thread = threading.Thread(target=work, name="ufo-tune demo", daemon=True)
        thread.start()
        try:
            while True:
                now = said.get()
                while isinstance(now, tuple) and not said.empty():
                    now = said.get()  # a slow listener skips to the newest
                if isinstance(now, Exception):
                    raise now
                yield now
                if isinstance(now, Answer):
                    return
        finally:
            left.set()
            thread.join()  # the next question finds the model free

    def _answer(self, sample: Sample, asked: Asked, watch: Any) -> Answer:
        model = self.predictor.model
        prediction, generation = ask_closely(model, asked, self.predictor.decode, sample, watch)
        return Answer(sample, prediction, slot_maps(generation, prediction, model.codec, sample.size))

    def _sample(self, question: Question) -> Sample:
        """The question as a sample. Messages name the picture as the person does, without folders of the server."""
        name = question.image.name
        try:
            image_size(question.image, max_pixels=self.max_pixels)
            sample = to_sample(question.image, question.task, question.text, question.classes)
        except DataError as error:
            raise DataError(str(error).replace(str(question.image), name)) from error
        boxes = torch.tensor(question.boxes, dtype=torch.float32).reshape(-1, 4)  # [N, 4]
        targets = Targets(boxes, labels=torch.zeros(len(boxes), dtype=torch.long)) if len(boxes) else None
        return sample.with_(source=name, history=question.history, targets=targets)


class _Left(Exception):
    """Nobody waits for the answer any more."""


def _tasks(trained: Sequence[str]) -> tuple[str, ...]:
    """The tasks to choose from: those trained, or all of a model that does not say; and chat."""
    offered = list(trained) or plugins.names("tasks")
    return tuple(dict.fromkeys([*(name for name in TITLES if name in offered), *offered, CHAT]))
