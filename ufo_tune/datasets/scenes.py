"""``scenes``: synthetic pictures of 1-6 textured, shaded, partly hidden shapes with everything known about them.

Nothing is stored: scene ``k`` of a split is a pure function of (seed, split, k). The splits ``train``, ``val``,
``test`` and ``pretrain`` use different random streams. Samples of one scene share ``image_id``, so they can be packed.
Of semantic segmentation every pixel is a shape or ``background``; depth is that of upright objects on a plane, 1.5 to
9.5 m away; captions name every object from left to right, and ``references`` are all that are true.

    samples = load("", "val", task="rec", size=100)
    samples[0].text, samples[0].targets.boxes
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from ufo_tune.core.lazy import Lazy
from ufo_tune.core.masks import encode_many
from ufo_tune.core.types import Rle, Sample, Targets
from ufo_tune.datasets._scene_language import WEIGHTS, WORDS, Teller
from ufo_tune.datasets._scene_layout import (
    COLOURS,
    SHAPES,
    SIZES,
    SPLITS,
    STREAM_PHRASES,
    STREAM_QUESTIONS,
    TEXTURES,
    Draws,
    generator,
)
from ufo_tune.datasets._scene_questions import captions
from ufo_tune.datasets._scene_questions import questions as _ask
from ufo_tune.datasets._scene_render import Scene, draw
from ufo_tune.errors import ConfigError

__all__ = ["COLOURS", "LABELS", "SHAPES", "SIZES", "TASKS", "TEXTURES", "WORDS", "Scenes", "load", "scene"]

TASKS = ("rec", "res", "detection", "instance_segmentation", "semantic_segmentation", "depth", "caption", "vqa")
LABELS = (*SHAPES, "background")
"""Classes of label maps: every pixel is of one."""
_PER_PHRASE, _PER_QUESTION = ("rec", "res"), ("vqa",)
_MIN_SIDE, _MAX_SIDE = 32, 2048
_Weights = tuple[tuple[str, float], ...]


@lru_cache(maxsize=16)
def scene(seed: int, split: str, k: int, side: int = 128, max_objects: int = 6) -> Scene:
    """Scene ``k`` of a split: image, objects from near to far, owner map, visible boxes; ``.depth()`` for metres.

    Args:
        seed: The set's seed, 0 .. 2**32 - 1.
        split: ``train``, ``val``, ``test`` or ``pretrain``.
        k: Number of the scene.
        side: Image side in pixels.
        max_objects: Largest number of objects.
    """
    return draw(f"{split}#{k}", seed, SPLITS[split], k, side=side, most=max_objects)


@lru_cache(maxsize=16)
def _rles(seed: int, split: str, k: int, side: int, max_objects: int) -> tuple[Rle, ...]:
    return encode_many(scene(seed, split, k, side, max_objects).masks())


@lru_cache(maxsize=16)
def _phrases(seed: int, split: str, k: int, side: int, max_objects: int, count: int) -> list[tuple[int, str]]:
    rng = generator(seed, SPLITS[split], k, STREAM_PHRASES)
    return Teller(scene(seed, split, k, side, max_objects), Draws(rng)).phrases(count)


@lru_cache(maxsize=16)
def _questions(
    seed: int, split: str, k: int, side: int, max_objects: int, count: int, weights: _Weights
) -> list[tuple[str, str, str]]:
    rng = generator(seed, SPLITS[split], k, STREAM_QUESTIONS)
    return _ask(Teller(scene(seed, split, k, side, max_objects), Draws(rng)), count, dict(weights))


def _label_map(drawn: Scene) -> tuple[tuple[str, ...], Targets]:
    """A class for every pixel: the shape of the object that it shows, or the background."""
    numbers = [LABELS.index(thing.shape) for thing in drawn.things]
    table = np.array([*numbers, LABELS.index("background")], dtype=np.int16)
    return LABELS, Targets(label_map=table[drawn.owner])  # an owner of -1 takes the table's last


def _depth(drawn: Scene) -> tuple[tuple[str, ...], Targets]:
    return (), Targets(depth=drawn.depth())


def _caption(drawn: Scene) -> tuple[tuple[str, ...], Targets]:
    """All true captions, the strict one first. Nothing about them is drawn, so any generator will do."""
    texts = captions(Teller(drawn, Draws(generator(0))))
    return (), Targets(text=texts[0], references=texts)


_WHOLE: dict[str, Callable[[Scene], tuple[tuple[str, ...], Targets]]] = {
    "semantic_segmentation": _label_map,
    "depth": _depth,
    "caption": _caption,
}
"""Tasks about the whole picture: classes and truth."""


@dataclass(frozen=True)
class _ImageIds(Lazy[str]):
    """The image id of every sample, made when asked for: a million strings would be memory for nothing."""

    stem: str
    repeat: int
    length: int

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[str]:
        for k in range(self.length // self.repeat):
            yield from itertools.repeat(f"{self.stem}#{k}", self.repeat)

    def _make(self, number: int) -> str:
        return f"{self.stem}#{number // self.repeat}"


@dataclass(frozen=True)
class Scenes(Lazy[Sample]):
    """The samples of one task on one split. Holds options only: cheap to pickle and to copy to workers."""

    split: str
    task: str
    size: int
    seed: int
    side: int
    max_objects: int
    repeat: int  # samples per scene
    weights: _Weights

    @property
    def image_ids(self) -> Sequence[str]:
        """The image of every sample, without drawing any."""
        return _ImageIds(self._stem(), self.repeat, len(self))

    def __len__(self) -> int:
        return self.size * self.repeat

    def _make(self, number: int) -> Sample:
        k, part = divmod(number, self.repeat)
        key = (self.seed, self.split, k, self.side, self.max_objects)
        source = f"scenes/{self.split}#{k}"
        text = ""
        classes: tuple[str, ...] = SHAPES
        if self.task in _PER_QUESTION:
            kind, text, answer = _questions(*key, self.repeat, self.weights)[part]
            classes, targets, source = (), Targets(text=answer), f"{source}.{part} {kind}"
        elif self.task in _PER_PHRASE:
            which, text = _phrases(*key, self.repeat)[part]
            targets, source = self._targets(key, [which]), f"{source}.{part}"
        elif self.task in _WHOLE:
            classes, targets = _WHOLE[self.task](scene(*key))
        else:
            targets = self._targets(key, range(len(scene(*key).things)))
        return Sample(
            image=scene(*key).image,
            size=(self.side, self.side),
            task=self.task,
            text=text,
            classes=classes,
            targets=targets,
            source=source,
            image_id=f"{self._stem()}#{k}",
        )

    def _stem(self) -> str:
        return f"scenes/{self.seed}/{self.side}/{self.max_objects}/{self.split}"

    def _targets(self, key: tuple[int, str, int, int, int], which: Sequence[int]) -> Targets:
        drawn, rles = scene(*key), _rles(*key)
        return Targets(
            boxes=torch.from_numpy(drawn.boxes[list(which)].astype(np.float32)),  # [N, 4]
            masks=tuple(rles[i] for i in which),
            labels=torch.tensor([SHAPES.index(drawn.things[i].shape) for i in which]),
        )


def load(
    root: str,
    split: str,
    *,
    task: str,
    size: int = 20000,
    seed: int = 0,
    side: int = 128,
    max_objects: int = 6,
    phrases: int = 4,
    questions: int = 8,
    kinds: Sequence[str] | Mapping[str, float] | None = None,
) -> Scenes:
    """The synthetic set; sample ``i`` of rec and res is phrase ``i % phrases`` of scene ``i // phrases``.

    Args:
        root: Not used: nothing is stored. Any value is taken.
        split: ``train``, ``val``, ``test`` or ``pretrain``.
        task: One of ``TASKS``.
        size: Number of scenes; rec and res have ``phrases`` samples of each, vqa ``questions``.
        seed: Another seed is another set, 0 .. 2**32 - 1.
        side: Image side in pixels, 32 .. 2048.
        max_objects: Largest number of objects in a scene, 1 .. 6.
        phrases: Referring phrases per scene.
        questions: Questions per scene.
        kinds: Kinds of questions (names of ``_scene_language.QUESTIONS``): a list picks some and keeps their default
            weights, a mapping gives weights, None is the default mixture.

    Raises:
        ConfigError: unknown split, task or kind, or a number out of range.
    """
    del root
    _check_name("split", split, tuple(SPLITS))
    _check_name("task", task, TASKS)
    limits = {"size": (size, 1, 2**32 - 1), "seed": (seed, 0, 2**32 - 1), "side": (side, _MIN_SIDE, _MAX_SIDE)}
    limits |= {"max_objects": (max_objects, 1, 6), "phrases": (phrases, 1, 64), "questions": (questions, 1, 64)}
    for name, (value, low, high) in limits.items():
        if not isinstance(value, int) or not low <= value <= high:
            raise ConfigError(f"scenes.{name}: out of range (got {value!r}); give a whole number {low} .. {high}")
    repeat = phrases if task in _PER_PHRASE else questions if task in _PER_QUESTION else 1
    return Scenes(split, task, size, seed, side, max_objects, repeat, _weights(kinds))


def _weights(kinds: Sequence[str] | Mapping[str, float] | None) -> _Weights:
    chosen = WEIGHTS if kinds is None else kinds if isinstance(kinds, Mapping) else {k: WEIGHTS.get(k) for k in kinds}
    weights = []
    for name, weight in chosen.items():
        _check_name("kinds", name, tuple(WEIGHTS))
        if weight is None or not weight > 0:
            raise ConfigError(f"scenes.kinds.{name}: bad weight (got {weight!r}); give a number above 0")
        weights.append((name, float(weight)))
    if not weights:
        raise ConfigError("scenes.kinds: is empty (got nothing); name at least one kind, or leave the option out")
    return tuple(weights)


def _check_name(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"scenes.{option}: no such name (got {value!r}); known: {', '.join(known)}")
