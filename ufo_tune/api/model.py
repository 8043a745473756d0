"""``load`` a model and ask it: a method for each thing that a model can be taught.

    model = load("org/model")
    model.segment("street.jpg", "the red bus").masks        # [1, H, W] bool
    model.segment("street.jpg", ["the red bus", "the kerb"])  # two results; the picture is seen once
    model.detect(["a.jpg", "b.jpg"], ["bus", "person"])     # two results
    model.tasks                                             # what it was trained on

One picture and one phrase give one ``Result``; a list (or tuple) of either gives a list of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
import torch

from ufo_tune.api.messages import Messages, in_batches, to_sample
from ufo_tune.api.result import Result
from ufo_tune.config import DecodeSection
from ufo_tune.core.types import Sample
from ufo_tune.engine import load as engine
from ufo_tune.engine import predict
from ufo_tune.errors import ConfigError, DataError, ModelError
from ufo_tune.models.ufo import UfoModel


class PillowImage(Protocol):
    """``PIL.Image.Image``, of which type checkers read this much."""

    @property
    def mode(self) -> str:
        """How pixels are kept: ``RGB``, ``L``, ..."""
        ...


Picture = str | Path | np.ndarray | PillowImage
"""A file, RGB pixels [H, W, 3] uint8, or a ``PIL.Image.Image``."""
Pictures = list[Any] | tuple[Any, ...]
"""Several of them."""
Texts = list[str] | tuple[str, ...]
"""Several phrases or questions."""
Classes = Sequence[str]
"""Names to look for."""


def load(
    path: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantization: str | None = None,
    revision: str | None = None,
    max_new_tokens: int = predict.DECODE.max_new_tokens,
    batch_size: int = predict.DECODE.batch_size,
) -> Model:
    """A model that ufo-tune wrote, ready to be asked.

    Args:
        path: a merged model or prepared base, a run's folder (its last checkpoint), or a repository of the Hub.
        device: ``cpu``, ``cuda``, ``cuda:1``, ...; ``auto`` is the first accelerator, or the CPU where there is none.
        dtype: ``float32``, ``bfloat16``, ``float16``; ``auto`` keeps that of the files, except that CPUs get float32.
        quantization: ``nf4`` or ``int8``, an empty string for none; default: as the run was trained.
        revision: branch, tag or commit of a repository.
        max_new_tokens: longest answer.
        batch_size: pictures that are looked at together; more need more memory.
    Raises:
        ConfigError: no such device, dtype or quantization, or a number that is too small.
        ModelError: no such model, or a damaged one.
    """
    predict.at_least(1, max_new_tokens=max_new_tokens, batch_size=batch_size)  # before anything is loaded
    where = _device(device)
    kept = "float32" if dtype == "auto" and where == "cpu" else dtype
    module = engine.load(path, dtype=kept, quantization=quantization, revision=revision)
    return Model(module.to(where), max_new_tokens=max_new_tokens, batch_size=batch_size)


class Model:
    """A model to ask. ``load`` makes one; a trained ``UfoModel`` can be given as well.

    Every method that asks takes one picture or a list of them, and one phrase or a list of them: one of both gives a
    ``Result``, a list of either a list of results in its order, and two lists are gone through side by side. Where the
    model's wording allows it, phrases about the same picture share one look at it.

    All of them raise:
        ConfigError: ``tile`` is negative.
        DataError: a picture cannot be read, a phrase is empty or no text, or there are not as many pictures as phrases.
        ModelError: the model was not trained for that; the message says what it was trained for.

    Args:
        module: the network, on its device; it is put into evaluation mode.
        max_new_tokens: longest answer.
        batch_size: pictures that are looked at together.

    Attributes:
        module: the ``UfoModel``: weights, processor, codec.
    """

    def __init__(
        self,
        module: UfoModel,
        *,
        max_new_tokens: int = predict.DECODE.max_new_tokens,
        batch_size: int = predict.DECODE.batch_size,
    ) -> None:
        predict.at_least(1, max_new_tokens=max_new_tokens, batch_size=batch_size)
        self.module = module
        decode = DecodeSection(max_new_tokens=max_new_tokens, constrained=True, batch_size=batch_size)
        self._predictor = predict.Predictor(module, decode=decode)

    @property
    def tasks(self) -> tuple[str, ...]:
        """What the model was trained on: ``res``, ``detection``, ``depth``, ..."""
        return tuple(sorted(self.module.templates))

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.module.device

    def __repr__(self) -> str:
        return f"Model({self.module.settings['family']}, {self.device}, tasks: {', '.join(self.tasks) or 'none'})"

    @overload
    def segment(self, image: Pictures, phrase: str | Texts, *, tile: int = 0) -> list[Result]: ...
    @overload
    def segment(self, image: Picture, phrase: Texts, *, tile: int = 0) -> list[Result]: ...
    @overload
    def segment(self, image: Picture, phrase: str, *, tile: int = 0) -> Result: ...
    def segment(self, image: Any, phrase: str | Texts, *, tile: int = 0) -> Any:
        """The mask of what a phrase names (task ``res``); an empty one where the model sees no such thing.

        Args:
            image: to look at.
            phrase: ``"the red bus"``.
            tile: side in pixels of the tiles that a large picture is asked about one by one; 0: it is seen whole.
        """
        return self._ask(("res",), image, phrase, tile=tile)

    @overload
    def locate(self, image: Pictures, phrase: str | Texts) -> list[Result]: ...
    @overload
    def locate(self, image: Picture, phrase: Texts) -> list[Result]: ...
    @overload
    def locate(self, image: Picture, phrase: str) -> Result: ...
    def locate(self, image: Any, phrase: str | Texts) -> Any:
        """The box of what a phrase names (task ``rec``).

        Args:
            image: to look at.
            phrase: ``"the red bus"``.
        """
        return self._ask(("rec",), image, phrase)

    @overload
    def detect(self, image: Pictures, classes: Classes) -> list[Result]: ...
    @overload
    def detect(self, image: Picture, classes: Classes) -> Result: ...
    def detect(self, image: Any, classes: Classes) -> Any:
        """Boxes of all objects of some classes, the surest first (task ``detection``).

        Args:
            image: to look at.
            classes: names to look for; all are asked for at once.
        """
        return self._ask(("detection",), image, classes=classes)

    @overload
    def segment_all(self, image: Pictures, classes: Classes) -> list[Result]: ...
    @overload
    def segment_all(self, image: Picture, classes: Classes) -> Result: ...
    def segment_all(self, image: Any, classes: Classes) -> Any:
        """Masks of all objects of some classes, the surest first (task ``instance_segmentation``).

        Args:
            image: to look at.
            classes: names to look for; all are asked for at once.
        """
        return self._ask(("instance_segmentation",), image, classes=classes)

    @overload
    def semantic(self, image: Pictures, classes: Classes) -> list[Result]: ...
    @overload
    def semantic(self, image: Picture, classes: Classes) -> Result: ...
    def semantic(self, image: Any, classes: Classes) -> Any:
        """The class of every pixel (task ``semantic_segmentation``), as ``Result.label_map``.

        Args:
            image: to look at.
            classes: names to choose from.
        """
        return self._ask(("semantic_segmentation",), image, classes=classes)

    @overload
    def depth(self, image: Pictures) -> list[Result]: ...
    @overload
    def depth(self, image: Picture) -> Result: ...
    def depth(self, image: Any) -> Any:
        """How far every pixel is (task ``depth``), as ``Result.depth`` in metres."""
        return self._ask(("depth",), image)

    @overload
    def normals(self, image: Pictures) -> list[Result]: ...
    @overload
    def normals(self, image: Picture) -> Result: ...
    def normals(self, image: Any) -> Any:
        """Which way every pixel's surface faces (task ``normals``), as ``Result.normals``."""
        return self._ask(("normals",), image)

    @overload
    def caption(self, image: Pictures) -> list[Result]: ...
    @overload
    def caption(self, image: Picture) -> Result: ...
    def caption(self, image: Any) -> Any:
        """A sentence about the picture (task ``caption``), as ``Result.text``."""
        return self._ask(("caption",), image)

    @overload
    def ask(self, image: Pictures, question: str | Texts) -> list[Result]: ...
    @overload
    def ask(self, image: Picture, question: Texts) -> list[Result]: ...
    @overload
    def ask(self, image: Picture, question: str) -> Result: ...
    def ask(self, image: Any, question: str | Texts) -> Any:
        """The answer to a question (task ``vqa``, or else ``conversation``), as ``Result.text``.

        Args:
            image: to look at.
            question: ``"How many people wait?"``.
        """
        return self._ask(("vqa", "conversation"), image, question)

    @overload
    def chat(self, messages: list[Messages]) -> list[Result]: ...
    @overload
    def chat(self, messages: Messages, image: Picture | None = None) -> Result: ...
    def chat(self, messages: Any, image: Any = None) -> Any:
        """The next answer of a conversation (task ``conversation``, or else ``vqa``), with the places it points at.

        ``<bbox>`` and ``<mask>`` in ``Result.text`` stand for its boxes and masks, in their order. ``Result.message``
        is the answer as a message, so that a conversation goes on with ``[*messages, result.message, question]``.

        Args:
            messages: as ``transformers`` has them, from the first question to the one to answer: ``{"role": "user",
                "content": "What is at <bbox>?", "boxes": [[x1, y1, x2, y2]]}``. ``content`` may be a list of parts of
                type ``text`` and ``image``. A message with ``<bbox>`` or ``<mask>`` in its text says with ``boxes``
                where they are, in pixels. A list of conversations gives a list of results.
            image: what it is about, where no message holds it. Without either it is about no picture.
        Raises:
            DataError: questions and answers do not take turns, or a message is not of that form.
        """
        task = self._trained("conversation", "vqa")
        if not in_batches(messages):
            return self._results([to_sample(messages, task, image)], task)[0]
        if image is not None:
            raise DataError("chat: one image for several conversations (got a list); put each into its first message")
        return self._results([to_sample(one, task) for one in messages], task)

    def predict(
        self,
        image: Any,
        task: str,
        *,
        text: str | Texts = "",
        classes: Classes = (),
        template: str | None = None,
        options: dict[str, Any] | None = None,
        tile: int = 0,
    ) -> Any:
        """Ask for any task, in any wording, whether or not the model was trained on it.

        Args:
            image: one or a list.
            task: file of ``ufo_tune/tasks/``, or a dotted module of your own.
            text: the phrase or question, or a list.
            classes: names to look for (grid tasks).
            template: wording; the one the model was trained with, or the task's own, where it is not given.
            options: keyword options of the task (``rows`` and ``cols`` of the grid, ...) that differ from the training.
            tile: side in pixels of tiles (tasks that can join their answers); 0: whole.
        Returns:
            A ``Result``, or a list of them, as the other methods.
        Raises:
            ConfigError: unknown task, template or option.
        """
        images = _listed(image)
        texts = _listed(text)
        if isinstance(image, list | tuple) and isinstance(text, list | tuple) and len(images) != len(texts):
            raise DataError(
                f"{task}: {len(images)} images for {len(texts)} texts; give one of either, or as many of both"
            )
        count = len(images) if isinstance(image, list | tuple) else len(texts)
        images, texts = (values * count if len(values) == 1 else values for values in (images, texts))
        samples = predict.to_samples(images, task, texts, classes)
        found = self._results(samples, task, template, options, tile)
        return found if isinstance(image, list | tuple) or isinstance(text, list | tuple) else found[0]

    def _ask(
        self, tasks: tuple[str, ...], image: Any, text: str | Texts = "", *, classes: Classes = (), tile: int = 0
    ) -> Any:
        """``predict`` with the first of some tasks that the model was trained on."""
        return self.predict(image, self._trained(*tasks), text=text, classes=classes, tile=tile)

    def _trained(self, *tasks: str) -> str:
        """The first of some tasks that the model was trained on.

        Raises:
            ModelError: it was trained on none of them.
        """
        for task in tasks:
            if task in self.tasks:
                return task
        raise ModelError(
            f"model: was not trained on {' or '.join(tasks)} (got {', '.join(self.tasks) or 'no task at all'}); ask "
            f"for one of its tasks, or train it on {tasks[0]}; model.predict(image, {tasks[0]!r}) asks all the same"
        )

    def _results(
        self,
        samples: Sequence[Sample],
        task: str,
        template: str | None = None,
        options: dict[str, Any] | None = None,
        tile: int = 0,
    ) -> list[Result]:
        asked = self._predictor.asked(task, template, options)
        answers = self._predictor.answers(samples, asked, predict.tiles(tile))
        return [Result(sample, answer) for sample, answer in zip(samples, answers, strict=True)]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _device(name: str) -> str:
    """Where weights go.

    Raises:
        ConfigError: there is no such device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"load: no such device (got {name!r}); give auto, cpu, cuda or cuda:1") from error
    if device.type != "cpu" and (device.index or 0) >= _count(device.type):
        raise ConfigError(f"load: no such accelerator is there (got {name!r}); give auto or cpu")
    return name


def _count(kind: str) -> int:
    """How many accelerators of a kind there are."""
    if kind == "cuda":
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return torch.accelerator.device_count() if there is not None and there.type == kind else 0
