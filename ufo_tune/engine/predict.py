"""Use a model on pictures: ``Predictor`` in Python, ``predict_files`` for the command line.

    predictor = Predictor("quickstart/merged")
    prediction = predictor("photo.jpg", task="res", text="the red ball")
    first = predictor("photo.jpg", task="conversation", text="Where is it?")
    said = {"history": [("Where is it?", first.text)], "boxes": first.boxes}
    more = predictor("photo.jpg", task="conversation", text="Segment it.", **said)

What goes in is a file or pixels, what comes out is pixels of that picture; bins and tokens stay inside.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Pillow
from PIL import ImageOps
from torch import Tensor
from tqdm.auto import tqdm

from ufo_tune import outputs, plugins, show, templates
from ufo_tune.config import DecodeSection, TilingSection
from ufo_tune.core.images import image_size
from ufo_tune.core.types import Image, Prediction, Sample, Targets
from ufo_tune.engine.answering import Answering, grouped
from ufo_tune.engine.load import load
from ufo_tune.engine.map_files import write_maps
from ufo_tune.engine.predictions import to_row
from ufo_tune.engine.sources import Asked, ask, trained_wording
from ufo_tune.errors import ConfigError, DataError, ModelError
from ufo_tune.models.ufo import read_settings

DECODE = DecodeSection(max_new_tokens=128, constrained=True, batch_size=4)
"""Room for a caption; answers with boxes and masks end long before, and can always be read."""
_ARGUMENTS = {"phrase": "--text PHRASE", "question": "--text QUESTION", "classes": "--classes NAME,NAME"}
"""Field of a question -> what the command line gives for it."""
_SMALL, _LARGE = 512, 1600
"""Overlays of smaller pictures are enlarged, those of larger ones shrunk, to this long side in pixels."""
_TOGETHER = 16
"""Most questions about one picture that share a look at it."""


class Predictor:
    """A loaded model that answers questions about pictures.

    Args:
        path: a run, merged model or prepared base; or a model that is loaded already (it stays on its device).
        decode: limits of generation.
        tiling: pictures are asked about tile by tile (tasks that can join the answers); None: whole.
    Raises:
        ModelError: no such model, or a damaged one.
    """

    def __init__(
        self,
        path: str | Path | torch.nn.Module,
        *,
        decode: DecodeSection = DECODE,
        tiling: TilingSection | None = None,
    ) -> None:
        if isinstance(path, torch.nn.Module):
            self.model: Any = path.eval()
        else:
            device = "cuda" if torch.cuda.is_available() else "cpu"
            self.model = load(path).to(device).eval()
        self.decode = decode
        self.tiling = tiling

    def __call__(
        self,
        image: str | Path | np.ndarray | Any,
        task: str,
        *,
        text: str = "",
        classes: Sequence[str] = (),
        history: Sequence[tuple[str, str]] = (),
        boxes: Sequence[Sequence[float]] | Tensor = (),
        template: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> Prediction:
        """The answer to one question about one picture.

        Args:
            image: a file, RGB pixels [H, W, 3] uint8, or a ``PIL.Image.Image``.
            task: rec, res, detection, instance_segmentation, vqa, caption, conversation, ...
            text: the phrase or question.
            classes: names to look for (grid tasks).
            history: questions and answers before this question (vqa, conversation).
            boxes: xyxy pixels, one for each ``<bbox>`` and ``<mask>`` in ``history`` and ``text`` (conversation): those
                of the predictions whose texts the history holds, and those that the question points at.
            template: wording; the one the model was trained with, or the task's own, where it is not given.
            options: keyword options of the task (``rows`` and ``cols`` of the grid, ...).
        Returns:
            Boxes and masks in pixels of the picture, upright as a viewer shows it.
        Raises:
            ConfigError: unknown task, template or option.
            DataError: the picture cannot be read, or the question is empty.
        """
        sample = to_sample(image, task, text, classes).with_(history=tuple(history))
        if len(boxes):
            given = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)  # [N, 4]
            sample = sample.with_(targets=Targets(given, labels=torch.zeros(len(given), dtype=torch.long)))
        asked = self.asked(task, template, options)
        ((_, prediction),) = self.answering(asked).predictions([sample], [(0,)])
        return prediction

    def answers(self, samples: Sequence[Sample], asked: Asked, tiling: TilingSection | None = None) -> list[Prediction]:
        """The answers to many questions of one task, in their order.

        Questions with the same ``image_id`` share one look at their picture where the template allows it (the image
        stands before the question, and a question has one answer).

        Args:
            samples: see ``to_samples``.
            asked: the task in words.
            tiling: instead of the predictor's own.
        Raises:
            ConfigError: the task cannot join tiles.
            DataError: a picture cannot be read, or a question is empty.
        """
        if not samples:
            return []
        tiling = tiling or self.tiling
        alone = tiling is not None or not all(self._has_own_question(sample, asked) for sample in samples)
        groups = grouped(samples, pack=1 if alone else _TOGETHER)
        found = Answering(self.model, asked, self.decode, tiling).predictions(samples, groups)
        places = [index for group in groups for index in group]
        ordered = sorted(zip(places, (prediction for _, prediction in found), strict=True), key=lambda pair: pair[0])
        return [prediction for _, prediction in ordered]

    def _has_own_question(self, sample: Sample, asked: Asked) -> bool:
        """Whether the picture's tokens do not depend on the question: the rule of ``data.collate.pack``."""
        dialogue = asked.task.encode(sample, asked.template, self.model.codec, None, **asked.encode_options)
        (turn, *further) = dialogue.turns
        return not (further or dialogue.crops or turn.question) and all(
            answer.question is not None for answer in turn.answers
        )

    def asked(self, task: str, template: str | None = None, options: dict[str, Any] | None = None) -> Asked:
        """The task in the words and with the options of the training, unless the arguments say otherwise.

        Raises:
            ConfigError: unknown task, template or option.
        """
        known = getattr(self.model, "task_options", {}).get(task, {})
        return ask(task, template or trained_wording(self.model, task), {**known, **(options or {})})

    def answering(self, asked: Asked) -> Answering:
        """The model, ready for one task."""
        return Answering(self.model, asked, self.decode, self.tiling)


def to_sample(image: str | Path | np.ndarray | Any, task: str, text: str = "", classes: Sequence[str] = ()) -> Sample:
    """A question about a picture, without truth.

    Raises:
        DataError: the picture cannot be read, or the words are none.
    """
    words, names = _words(task, text), _names_of(task, classes)
    pixels = _pixels(image)
    source = str(pixels) if isinstance(pixels, Path) else "image"
    return Sample(pixels, image_size(pixels), task, words, names, source=source)


def to_samples(images: Sequence[Any], task: str, texts: Sequence[str], classes: Sequence[str] = ()) -> list[Sample]:
    """A question about each picture; those about the same one have the same ``image_id``, and it is opened once.

    Raises:
        DataError: a picture cannot be read, or the words are none.
    """
    known: dict[Any, Sample] = {}
    samples = []
    for image, text in zip(images, texts, strict=True):
        key = str(image) if isinstance(image, str | Path) else id(image)
        if key not in known:
            known[key] = to_sample(image, task, "", classes).with_(image_id=str(len(known)))
        samples.append(known[key].with_(text=_words(task, text)))
    return samples


def tiles(side: int) -> TilingSection | None:
    """Tiles of so many pixels; none for 0.

    Raises:
        ConfigError: no whole number, or a negative one.
    """
    at_least(0, tile=side)
    return TilingSection(side=side) if side else None


def at_least(least: int, **given: int) -> None:
    """Refuse numbers that are too small, by name.

    Raises:
        ConfigError: one is, or is no whole number.
    """
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ConfigError(f"{name}: is out of range (got {value!r}); give a whole number, {least} or more")


def overlay(sample: Sample, prediction: Prediction, *, scale_to: int | None = None, min_score: float = 0.3) -> Any:
    """``show.draw_prediction`` at a size that suits a screen, or the one that is given; a ``PIL.Image.Image``."""
    side = scale_to or min(max(_SMALL, *sample.size), _LARGE)
    return show.draw_prediction(sample, prediction, scale_to=side, min_score=min_score)


def predict_files(
    path: str | Path,
    images: Sequence[Path],
    task: str,
    *,
    text: str = "",
    classes: Sequence[str] = (),
    tile: int = 0,
    out: Path,
    progress: bool = True,
    warn: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Ask the same question about files; write ``<name>.json`` and ``<name>.overlay.png`` for each as it is answered.

    Args:
        path: a run, merged model or prepared base.
        images: files of any size and mode.
        task: rec, res, detection, instance_segmentation, vqa, ...
        text: the phrase or question.
        classes: names to look for (grid tasks).
        tile: side in pixels of the tiles that are asked about one by one; 0: every picture is seen whole.
        out: folder, made where it is not there.
        progress: show a bar.
        warn: told that a base has learnt no task at all, so that its answers mean nothing.
    Returns:
        What was written as JSON, one for each image: ``boxes`` xyxy in pixels, ``masks`` as COCO run lengths with
        ``counts`` as text, ``scores``, ``labels`` as names, ``answer`` in words (``<bbox>`` and ``<mask>`` stand
        for its objects), the ``overlay``'s path, and those of ``map_files.write_maps`` where the answer is depth,
        normals or a label map.
    Raises:
        ConfigError: no images, unknown task, or ``out`` cannot be a folder.
        DataError: a picture cannot be read (known of most before the model is loaded), or the question is empty.
        ModelError: no such model, a damaged one, or one that learnt other tasks.
    """
    if not images:
        raise ConfigError("predict: no images (got none); give one file at least")
    outputs.folder(out)
    tiling = tiles(tile)
    samples = [to_sample(file, task, text, classes) for file in images]
    predictor = Predictor(path, tiling=tiling)
    learnt = sorted(predictor.model.templates)
    if learnt and task not in learnt:
        raise ModelError(
            f"predict: {path} has not learnt {task} (got a model of {', '.join(learnt)}); ask for one of its tasks, or "
            f"train it on {task}"
        )
    if not learnt:
        warn(f"predict: {path} is a base that has learnt no task: its answers mean nothing; train it first")
    asked = predictor.asked(task)
    # All ask the same: a question that cannot be asked is refused here, before a bar or folder is there.
    asked.task.encode(samples[0], asked.template, predictor.model.codec, None)
    answers = predictor.answering(asked).predictions(samples, grouped(samples))
    out.mkdir(parents=True, exist_ok=True)
    names = _names(images)
    rows = []
    bar = tqdm(answers, total=len(samples), desc="predict", unit="image", disable=not progress)
    for name, (sample, prediction) in zip(names, bar, strict=True):
        picture = out / f"{name}.overlay.png"
        overlay(sample, prediction).save(picture)
        row = to_json(sample, prediction) | write_maps(prediction, out, name) | {"overlay": str(picture)}
        text = json.dumps(row, indent=1, ensure_ascii=False) + "\n"
        # A file's name may be in no UTF-8; such characters are then written as JSON escapes them.
        (out / f"{name}.json").write_text(text, encoding="utf-8", errors="backslashreplace")
        rows.append(row)
    return rows


def arguments_for(folder: Path) -> str:
    """The arguments of ``ufo-tune predict`` for the first task that a model learnt; empty where it learnt none.

    Args:
        folder: of the model.
    Raises:
        ModelError: it is not one of ours.
    """
    learnt: dict[str, templates.Wording] = read_settings(folder).get("templates", {})
    if not learnt:
        return ""
    task, wording = next(iter(learnt.items()))
    template = templates.load(wording or plugins.find("tasks", task).TEMPLATE)
    given = [argument for field, argument in _ARGUMENTS.items() if template.asks(field)]
    return " ".join(["--task", task, *given])


def to_json(sample: Sample, prediction: Prediction) -> dict[str, Any]:
    """A prediction for people and other programs: names instead of class numbers, everything in pixels.

    Depth, normals and label maps are not in it; ``map_files.write_maps`` writes them.
    """
    row = to_row(sample, replace(prediction, depth=None, normals=None, label_map=None))
    return {
        "image": row.pop("source"),
        "size": list(sample.size),
        "task": sample.task,
        "text": sample.text,
        "classes": list(sample.classes),
        "answer": row.pop("text"),
        **row,
        "labels": show.names(sample, prediction),
    }


def _pixels(image: str | Path | np.ndarray | Any) -> Image:
    """A path or RGB pixels [H, W, 3] uint8."""
    if isinstance(image, str | Path):
        return Path(image)
    if not isinstance(image, Pillow.Image):
        return np.asarray(image)
    if image.mode[0] in "IF":
        raise DataError(f"image: has more than 8 bits (got mode {image.mode}); give its path, or convert it")
    upright = ImageOps.exif_transpose(image).convert("RGBA")
    opaque = Pillow.new("RGBA", upright.size, "white")  # as files with transparency are read
    return np.array(Pillow.alpha_composite(opaque, upright).convert("RGB"))  # [H, W, 3]


def _words(task: str, text: Any) -> str:
    """A phrase or question without blanks around it."""
    if not isinstance(text, str):
        raise DataError(f"{task}: the phrase or question is no text (got {text!r:.80}); give a str")
    return text.strip()


def _names_of(task: str, classes: Any) -> tuple[str, ...]:
    """Names of classes; a text alone is one name."""
    given = (classes,) if isinstance(classes, str) else classes
    names = tuple(given) if isinstance(given, Iterable) else (given,)
    if not all(isinstance(name, str) for name in names):
        raise DataError(f"{task}: the classes are no names (got {classes!r:.80}); give a list of str")
    return names


def _names(images: Sequence[Path]) -> list[str]:
    """A file name for each image; those that share one are numbered."""
    names: list[str] = []
    for image in images:
        stem = Path(image).stem
        number = 1
        while (name := stem if number == 1 else f"{stem}-{number}") in names:
            number += 1
        names.append(name)
    return names
