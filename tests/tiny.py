"""Tiny random models and dialogues for tests: plumbing, not accuracy."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from ufo_tune import plugins
from ufo_tune.core import answers
from ufo_tune.core.codec import Codec
from ufo_tune.core.types import NO_SIZE, Answer, Batch, Dialogue, Sample, Slot, Turn
from ufo_tune.models import tiny
from ufo_tune.models.ufo import UfoModel

FAMILIES = tuple(kind for name in plugins.names("models") for kind in tiny.kinds(name))
CODEC = Codec(num_bins=64, slot_side=2)


def model(family: str, folder: Path, tiles: int | str = 0, **options: object) -> UfoModel:
    """A random model of a family, in evaluation mode; the same for the same options."""
    path = tiny.build(family, folder / "base", **{"kv_heads": 2, **options})
    further = {"tiles": tiles} if tiles else {}
    built: UfoModel = _module(family).build(str(path), CODEC, dtype=torch.float32, **further)
    return built.eval()


def takes(family: str, option: str, value: object) -> bool:
    """Whether the family's ``build`` has an option that can take such a value."""
    found = inspect.signature(_module(family).build).parameters.get(option)
    return found is not None and type(value).__name__ in str(found.annotation)


def _module(family: str) -> ModuleType:
    return plugins.find("models", family.partition("/")[0])


def image(seed: int = 0, size: tuple[int, int] = (40, 56)) -> np.ndarray:
    """Noise, RGB."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def sample(picture: np.ndarray | None) -> Sample:
    """A sample that shows a picture, or is text only."""
    return Sample(
        picture, NO_SIZE if picture is None else (picture.shape[0], picture.shape[1]), "detection", source="tiny#0"
    )


def grid_dialogue(n: int = 3, question: str = "detect red circle") -> Dialogue:
    """n parallel answers of different length at grid points: a box, a mask, background, in turn."""
    kinds = (
        Answer(f"red,{answers.box((3, 4, 20, 30), CODEC)}", point=(0.2, 0.3)),
        Answer(f"circle,{answers.slots(CODEC)}", (Slot("mask", np.ones((40, 56), dtype=bool)),), point=(0.7, 0.5)),
        Answer("background", point=(0.9, 0.9)),
    )
    return Dialogue((Turn(question, tuple(kinds[i % 3] for i in range(n))),))


def map_dialogue() -> Dialogue:
    """A depth map that is known in part, and normals that face the camera in part."""
    depth = np.linspace(1, 9, 40 * 56, dtype=np.float32).reshape(40, 56)
    depth[:, :20] = 0
    normals = np.zeros((3, 40, 56), dtype=np.float32)
    normals[2, :20] = -1
    said = Answer(
        answers.slots(CODEC, depth=True) * 4, (Slot("depth", depth), *(Slot("normal", part) for part in normals))
    )
    return Dialogue((Turn("depth and normals", (said,)),))


def batch(
    built: UfoModel, dialogues: list[Dialogue], pictures: list[np.ndarray] | None = None, train: bool = True
) -> Batch:
    """One row per dialogue."""
    pictures = pictures or [image(i) for i in range(len(dialogues))]
    return built.processor.batch(dialogues, pictures, [(sample(p),) for p in pictures], train)
