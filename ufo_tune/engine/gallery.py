"""The quickstart's pictures: what the trained model says about held-out scenes, and what each slot token sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import torch

from ufo_tune import show
from ufo_tune.config import DecodeSection
from ufo_tune.core.masks import decode as decode_rle
from ufo_tune.core.retrieval import mask_logits, slot_queries
from ufo_tune.core.types import Prediction, Sample
from ufo_tune.core.views import crop_logits
from ufo_tune.data.collate import Collator
from ufo_tune.data.open import open_dataset
from ufo_tune.engine.answering import Answering, grouped
from ufo_tune.engine.sources import Asked, ask
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
    return ask(task, model.templates.get(task, ""), model.task_options.get(task, {}))


def _answers(model: UfoModel, task: str) -> list[tuple[Sample, Prediction]]:
    """One sample of each of the first crowded test scenes, answered."""
    samples = open_dataset("scenes", "", "test", task, _OPTIONS.get(task, {}))
    chosen = [samples[k] for k in range(_SCENES)]
    answering = Answering(model, _asked(model, task), DecodeSection(constrained=True))
    return list(answering.predictions(chosen, grouped(chosen)))


def _slot_maps(model: UfoModel, file: Path) -> None:
    """The paper's figure: each ``<MASK>`` token alone, beside the mask that all of them make."""
    asked = _asked(model, "res")
    ((sample, prediction), *_) = _answers(model, "res")
    collator = Collator(model.processor, asked.task, asked.template, model.codec, asked.encode_options)
    batch = collator.rows([(sample,)], None)
    assert batch is not None and prediction.masks  # one short row; the grammar leaves nothing but a mask
    grammar = asked.task.grammar(sample, model.codec, asked.template)
    (generation,) = model.predict(batch.to(model.device), DecodeSection(constrained=True), [grammar])
    count = model.codec.slot_tokens
    queries, _, _ = slot_queries(generation.ids, generation.hidden, generation.slot_id, count)  # [1, S, D]
    alone = torch.cat(
        [mask_logits(queries[:1, s : s + 1], generation.image_features) for s in range(count)]
    )  # [S, h, w]
    maps = crop_logits(alone, generation.views, sample.size)  # [S, H, W]
    merged = decode_rle(prediction.masks[0])
    show.slot_maps(np.asarray(sample.image), maps.cpu(), merged, caption=sample.text).save(file)
