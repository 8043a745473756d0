"""The quickstart's pictures: what the trained model says about held-out scenes, and what each slot token sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import torch

from ufo_tune import show
from ufo_tune.config import DecodeSection
from ufo_tune.core.types import Prediction, Sample
from ufo_tune.data.open import open_dataset
from ufo_tune.engine.answering import Answering, grouped
from ufo_tune.engine.closeup import ask_closely, slot_maps
from ufo_tune.engine.sources import Asked, ask, trained_wording
from ufo_tune.models.ufo import UfoModel

_SCENES = 4
_SIDE = 384
_OPTIONS = {"rec": {"phrases": 1}, "res": {"phrases": 1}, "caption": {"max_objects": 3}}
"""Which samples of the scenes are drawn."""
_ASKED = {"semantic_segmentation": "every pixel", "depth": "every pixel", "caption": "the picture"}
"""What a task without words of its own is about, where it is not every shape."""


def draw(model: UfoModel, out: Path, tasks: Sequence[str]) -> dict[str, str]:
    """Write ``pictures/teaser.png``, ``pictures/slot_maps.png`` and ``pictures/scene.png``, a held-out scene as it is.

    Args:
        model: trained, with the templates of its run.
        out: the quickstart's folder.
        tasks: a row of the teaser each; ``res``, whose slots are drawn, is one that the model knows.
    Returns:
        Name -> path relative to ``out``.
    """
    model.eval()
    folder = out / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    images, captions = [], []
    for task in tasks:
        for sample, prediction in _answers(model, task):
            images.append(show.draw_prediction(sample, prediction, scale_to=_SIDE))
            captions.append(f"{task}: {sample.text or _ASKED.get(task, 'every shape')}")
    show.sheet(images, captions, _SCENES).save(folder / "teaser.png")
    _slot_maps(model, folder / "slot_maps.png")
    (scene,) = open_dataset("scenes", "", "test", "detection", {"size": 1})
    PIL.Image.fromarray(np.asarray(scene.image)).save(folder / "scene.png")
    return {name: f"pictures/{name}.png" for name in ("teaser", "slot_maps", "scene")}


def _asked(model: UfoModel, task: str) -> Asked:
    return ask(task, trained_wording(model, task), model.task_options.get(task, {}))


def _answers(model: UfoModel, task: str) -> list[tuple[Sample, Prediction]]:
    """One sample of each of the first crowded test scenes, answered."""
    samples = open_dataset("scenes", "", "test", task, _OPTIONS.get(task, {}))
    chosen = [samples[k] for k in range(_SCENES)]
    answering = Answering(model, _asked(model, task), DecodeSection(constrained=True))
    return list(answering.predictions(chosen, grouped(chosen)))


def _slot_maps(model: UfoModel, file: Path) -> None:
    """The paper's figure: each ``<MASK>`` token alone, beside the mask that all of them make."""
    sample = open_dataset("scenes", "", "test", "res", _OPTIONS["res"])[0]
    prediction, generation = ask_closely(model, _asked(model, "res"), DecodeSection(constrained=True), sample)
    assert prediction.masks  # the grammar leaves nothing but a mask
    (alone, *_) = slot_maps(generation, prediction, model.codec, sample.size, longest=max(sample.size))
    if alone is None:  # an empty mask comes of no slot
        alone = torch.zeros(model.codec.slot_tokens, *sample.size)
    show.slot_maps(np.asarray(sample.image), alone, prediction.masks[0], caption=sample.text).save(file)
