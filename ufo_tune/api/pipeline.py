"""``pipeline("segment", model="org/model")``: a model and one question, with the outputs of transformers' pipelines.

It is a callable of our own, not one of transformers' registry: those tie a task to one class of Hugging Face models and
one way to generate, and our answers are decoded by the model's own task.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Pillow

from ufo_tune.api.model import Model, load
from ufo_tune.api.result import Result
from ufo_tune.errors import ConfigError
from ufo_tune.plugins import did_you_mean
from ufo_tune.show.maps import normal_colours

VERBS = ("segment", "locate", "detect", "segment_all", "semantic", "depth", "normals", "caption", "ask")
"""Methods of ``Model`` that take a picture."""
ALIASES = {
    "depth-estimation": "depth",
    "image-segmentation": "segment_all",
    "image-text-to-text": "ask",
    "object-detection": "detect",
    "zero-shot-object-detection": "detect",
}
"""What transformers calls them."""


def pipeline(task: str, model: str | Path | Model, **options: Any) -> Pipeline:
    """A function of pictures, as ``transformers.pipeline`` makes them.

    Args:
        task: a method of ``Model`` (``segment``, ``detect``, ...), or transformers' name for it.
        model: what ``load`` takes, or a loaded one.
        options: of ``load``, such as ``device`` and ``dtype``.
    Raises:
        ConfigError: no such task, or options for a model that is loaded already.
        ModelError: no such model.
    """
    verb = ALIASES.get(task, task)
    if verb not in VERBS:
        raise ConfigError(f"pipeline: no such task (got {task!r}); {did_you_mean(task, [*VERBS, *ALIASES])}")
    if isinstance(model, Model) and options:
        raise ConfigError(f"pipeline: the model is loaded already (got {', '.join(options)}); give these to load")
    return Pipeline(verb, model if isinstance(model, Model) else load(model, **options))


class Pipeline:
    """One method of a model, with transformers' outputs.

    Attributes:
        model: that answers.
        task: the method's name.
    """

    def __init__(self, task: str, model: Model) -> None:
        self.task = task
        self.model = model
        self._ask: Callable[..., Any] = getattr(model, task)

    def __call__(self, image: Any, *asked: Any, threshold: float = 0.0, **options: Any) -> Any:
        """The answers as plain values.

        Args:
            image: a file, RGB pixels, a ``PIL.Image.Image``, or a list of them. Nothing is downloaded.
            asked: the phrase, the classes or the question, as the method takes it.
            threshold: objects that are less sure are left out.
            options: further arguments of the method.
        Returns:
            For one picture a list of ``{"score", "label", "mask"}`` (``PIL.Image.Image``, mode L, 0 or 255) or
            ``{"score", "label", "box": {"xmin", "ymin", "xmax", "ymax"}}`` of the objects that were found; of a label
            map one such mask for each class that occurs, its score None; ``{"predicted_depth", "depth"}`` or
            ``{"predicted_normals", "normals"}`` (a tensor, and a picture of it); ``[{"generated_text"}]`` for words.
            For a list of pictures or phrases a list of these.
        """
        found = self._ask(image, *asked, **options)
        if isinstance(found, Result):
            return plain(found, threshold)
        return [plain(result, threshold) for result in found]


def plain(result: Result, threshold: float = 0.0) -> list[dict[str, Any]] | dict[str, Any]:
    """One result as transformers' pipelines give theirs; see ``Pipeline.__call__``."""
    if result.depth is not None:
        near, far = float(result.depth.min()), float(result.depth.max())
        shades = (result.depth - near) / max(far - near, 1e-6) * 255  # as transformers scales them
        return {
            "predicted_depth": torch.from_numpy(result.depth),
            "depth": Pillow.fromarray(shades.astype(np.uint8)),
        }
    if result.normals is not None:
        colours = Pillow.fromarray(normal_colours(result.normals))
        return {"predicted_normals": torch.from_numpy(result.normals), "normals": colours}
    if result.label_map is not None:
        present = np.unique(result.label_map[result.label_map >= 0]).tolist()
        return [_masked(None, result.classes[n], result.label_map == n) for n in present]
    if not len(result.boxes) and result.text:
        return [{"generated_text": result.text}]
    sure = [n for n in np.flatnonzero(result.found).tolist() if result.scores[n] >= threshold]
    if result.masks is not None:
        return [_masked(float(result.scores[n]), result.labels[n], result.masks[n]) for n in sure]
    corners = ("xmin", "ymin", "xmax", "ymax")
    return [
        {
            "score": float(result.scores[n]),
            "label": result.labels[n],
            "box": dict(zip(corners, result.boxes[n].astype(int).tolist(), strict=True)),
        }
        for n in sure
    ]


def _masked(score: float | None, label: str, mask: np.ndarray) -> dict[str, Any]:
    return {"score": score, "label": label, "mask": Pillow.fromarray(mask.astype(np.uint8) * 255)}
