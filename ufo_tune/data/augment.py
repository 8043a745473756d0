"""Augmentation that moves image, boxes and masks together, and knows when to leave a sample alone.

    image, sample = Augment(flip=0.5, crop=0.5)(image, sample, rng)

What may move follows from the sample, not from its task's name:

* answered in free text: nothing moves, no colour changes; the truth cannot be moved with it;
* a phrase or question with boxes: its boxes stay whole; a crop that cannot keep them is not made;
* otherwise (grids): objects that a crop cuts off are dropped, box, mask and label together.

Words such as "left" or "clockwise" forbid the flip, colour words the change of hue. Cropped images are not resized:
that is the family's own step. torchvision is imported only when an option asks for something.

Source: kinds and ranges of UFO (ufo.md 11.7).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ufo_tune import _torchvision
from ufo_tune.core import boxes as boxes_
from ufo_tune.core import masks as masks_
from ufo_tune.core.types import Rle, Sample, Targets
from ufo_tune.errors import ConfigError

SIDED = re.compile(
    r"\b(on|the|far|top|bottom|lower|upper|back|front)?(left|right)"  # RefCOCO's people leave out blanks
    r"|\b(east|west|clockwise|counter-?clockwise|anti-?clockwise|o'?clock)"
    r"|\b(first|second|third|fourth|fifth|sixth|last|1st|2nd|3rd|[4-9]th)\b",
    re.IGNORECASE,
)
"""Words that a mirror makes wrong; longer words with these beginnings (leftmost, rightwards) count.

People count from the left: the second cup is another one in the mirror."""
COLOURS = re.compile(
    r"\b(light|dark|multi)?(red|orange|yellow|green|blue|cyan|purple|violet|pink|magenta|brown|gold|golden|beige|teal"
    r"|turquoise|maroon|navy|olive|tan|tanned|blonde?|brunette|ginger|khaki|peach|cream|mustard|amber|bronze|copper"
    r"|crimson|scarlet|burgundy|salmon|coral|rose|fuchsia|mauve|plum|lavender|lilac|indigo|aqua|lime|rainbow"
    r"|redhead\w*|colou?r\w*)(dish|ish|y)?s?\b",
    re.IGNORECASE,
)
"""Words that another hue makes wrong."""
MIN_SIDE = 1.0
"""Pixels: a cropped box without mask that is thinner is gone."""


class Augment:
    """Random flips, crops and colours. All off by default.

    Args:
        flip: probability of a mirror image.
        crop: probability of a crop.
        crop_range: sides of a crop as parts of the image's shorter side (grids); above 1 reaches along the longer one.
        phrase_range: sides of a crop as parts of the image's own sides, for samples with a phrase.
        jitter: probability of other colours.
        jitter_strength: most change of brightness, contrast, saturation (parts) and hue (of the colour circle, <= 0.5).

    Raises:
        ConfigError: an option is out of range, or torchvision is not installed.
    """

    def __init__(
        self,
        *,
        flip: float = 0.0,
        crop: float = 0.0,
        crop_range: Sequence[float] = (0.64, 1.5),
        phrase_range: Sequence[float] = (0.8, 1.0),
        jitter: float = 0.0,
        jitter_strength: Sequence[float] = (0.4, 0.4, 0.4, 0.1),
    ) -> None:
        for name, value in (("flip", flip), ("crop", crop), ("jitter", jitter)):
            _require(isinstance(value, int | float) and 0 <= value <= 1, name, value, "a probability, 0 to 1")
        for name, span in (("crop_range", crop_range), ("phrase_range", phrase_range)):
            _require(len(span) == 2 and 0 < span[0] <= span[1], name, span, "two numbers, 0 < low <= high")
        strong = len(jitter_strength) == 4 and min(jitter_strength) >= 0 and max(jitter_strength[:3]) <= 1
        _require(strong and jitter_strength[3] <= 0.5, "jitter_strength", jitter_strength, "[0..1, 0..1, 0..1, 0..0.5]")
        self.flip, self.crop, self.jitter = float(flip), float(crop), float(jitter)
        self._crop_range, self._phrase_range = tuple(crop_range), tuple(phrase_range)
        self._strength = tuple(jitter_strength)
        if self.active and not _torchvision.available():
            raise ConfigError(
                "data.augment: torchvision is not installed (got options that need it); "
                "pip install 'ufo-tune[augment]', or remove the options"
            )

    @property
    def active(self) -> bool:
        """Whether anything can happen at all."""
        return max(self.flip, self.crop, self.jitter) > 0

    def __call__(self, image: np.ndarray, sample: Sample, rng: np.random.Generator) -> tuple[np.ndarray, Sample]:
        """Another image [H', W', 3] uint8 and the sample with its targets moved; ``sample.image`` is left as it is.

        Args:
            image: [H, W, 3] uint8, the pixels of ``sample.image``.
            sample: with targets; one without comes back as it is.
            rng: every random number is taken from here, the same number of them for every sample.
        """
        flip, crop, jitter = rng.random(3) < (self.flip, self.crop, self.jitter)
        place, colours = rng.random(4), rng.random(4)
        if not (flip or crop or jitter) or sample.targets is None or free_text(sample):
            return image, sample
        words = " ".join((sample.text, sample.targets.text, *sample.classes))
        pixels = torch.tensor(image).permute(2, 0, 1)  # [3, H, W]
        scene = _Scene(pixels, sample.targets)
        if crop and (window := self._window(sample, place)) is not None:
            scene.crop(*window, whole=bool(sample.text))
        if flip and not SIDED.search(words):
            scene.flip()
        if jitter:
            scene.recolour(self._factors(colours, hue=not COLOURS.search(words)))
        moved = np.ascontiguousarray(scene.pixels.permute(1, 2, 0).numpy())  # [H', W', 3]
        return moved, sample.with_(size=moved.shape[:2], targets=scene.targets)

    def _window(self, sample: Sample, place: np.ndarray) -> tuple[int, int, int, int] | None:
        """Top, left, height and width of a crop in whole pixels, or None where none can be made."""
        size = np.asarray(sample.size, dtype=np.float64)  # H, W
        targets = sample.targets
        assert targets is not None
        if targets.depth is not None:  # a crop that is scaled up again changes what size says about distance
            return None
        low, high = self._phrase_range if sample.text else self._crop_range
        sides = (low + (high - low) * place[:2]) * (size if sample.text else size.min())  # [2] h, w
        sides = np.clip(np.round(sides), 1, size)
        first, last = np.zeros(2), size - sides  # [2] range of the top left corner
        if sample.text:
            boxes = _bounds(targets)
            first = np.maximum(first, np.ceil(boxes[:, [3, 2]].max(0).values.numpy() - sides))
            last = np.minimum(last, np.floor(boxes[:, [1, 0]].min(0).values.numpy()))
            if (first > last).any():
                return None
        top, left = np.floor(first + (last - first + 1) * place[2:]).astype(int)
        return int(top), int(left), int(sides[0]), int(sides[1])

    def _factors(self, colours: np.ndarray, hue: bool) -> tuple[float, float, float, float]:
        factors = 1 + (2 * colours[:3] - 1) * self._strength[:3]
        turn = float((2 * colours[3] - 1) * self._strength[3]) if hue else 0.0
        return float(factors[0]), float(factors[1]), float(factors[2]), turn


class _Scene:
    """Pixels and targets that move together, as torchvision's tv_tensors."""

    def __init__(self, pixels: Tensor, targets: Targets) -> None:
        from torchvision import tv_tensors
        from torchvision.transforms.v2 import functional

        self._tv, self._do = tv_tensors, functional
        self.pixels = tv_tensors.Image(pixels)  # [3, H, W]
        self.targets = targets

    def flip(self) -> None:
        self._move(self._do.horizontal_flip)
        if (normals := self.targets.normals) is not None:  # what faced left faces right
            self.targets = replace(self.targets, normals=normals * np.array([-1, 1, 1], normals.dtype))

    def crop(self, top: int, left: int, height: int, width: int, whole: bool) -> None:
        """Cut a window out; objects that leave it are dropped unless ``whole`` says that none does."""
        before = self.targets
        self._move(lambda x: self._do.crop(x, top, left, height, width))
        if whole or not len(before.boxes):
            return
        x0, y0, x1, y1 = before.boxes.unbind(1)
        cut = (x0 < left) | (y0 < top) | (x1 > left + width) | (y1 > top + height)  # [N]
        boxes = self.targets.boxes
        if self.targets.masks is not None:  # what is left of the object may be smaller than its cut box
            boxes = torch.where(cut[:, None], masks_.boxes_of(self.targets.masks), boxes)
            keep = masks_.area(self.targets.masks) > 0
        else:
            keep = ((boxes[:, 2:] - boxes[:, :2]).amin(1) >= MIN_SIDE) | ~cut
        self.targets = select(replace(self.targets, boxes=boxes), keep)

    def recolour(self, factors: tuple[float, float, float, float]) -> None:
        brightness, contrast, saturation, hue = factors
        pixels = self._do.adjust_brightness(self.pixels, brightness)
        pixels = self._do.adjust_contrast(pixels, contrast)
        pixels = self._do.adjust_saturation(pixels, saturation)
        self.pixels = self._do.adjust_hue(pixels, hue) if hue else pixels

    def _move(self, move: Any) -> None:
        old, size = self.targets, tuple(self.pixels.shape[-2:])
        boxes = move(self._tv.BoundingBoxes(old.boxes, format="XYXY", canvas_size=size))
        self.pixels = move(self.pixels)

        def array(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else self._pixels(move, values)

        def vectors(values: np.ndarray | None) -> np.ndarray | None:
            if values is None:
                return None
            return np.moveaxis(self._pixels(move, np.moveaxis(values, -1, 0)), 0, -1)  # [H, W, 3]

        def runs(rles: tuple[Rle, ...] | None) -> tuple[Rle, ...] | None:
            return masks_.encode_many(self._pixels(move, masks_.decode_many(rles))) if rles else rles

        ignore = runs(None if old.ignore is None else (old.ignore,))
        self.targets = replace(
            old,
            boxes=boxes_.clip(boxes.as_subclass(Tensor), tuple(self.pixels.shape[-2:])),
            masks=runs(old.masks),
            ignore=ignore[0] if ignore else None,
            label_map=array(old.label_map),
            depth=array(old.depth),
            normals=vectors(old.normals),
        )

    def _pixels(self, move: Any, values: np.ndarray) -> np.ndarray:
        """Move values [..., H, W] of any type."""
        moved: np.ndarray = move(self._tv.Mask(torch.tensor(values))).numpy()
        return moved


def select(targets: Targets, keep: Tensor) -> Targets:
    """The objects where ``keep`` [N] is true."""
    masks = targets.masks
    if masks is not None:
        masks = tuple(m for m, k in zip(masks, keep.tolist(), strict=True) if k)
    crowd = None if targets.crowd is None else targets.crowd[keep]
    return replace(targets, boxes=targets.boxes[keep], masks=masks, labels=targets.labels[keep], crowd=crowd)


def _bounds(targets: Targets) -> Tensor:
    """What must stay inside: [N or 2N, 4] boxes, and the masks' own bounds where there are masks."""
    if not targets.masks:
        return targets.boxes
    drawn = masks_.area(targets.masks) > 0
    return torch.cat([targets.boxes, masks_.boxes_of(targets.masks)[drawn]])  # [N + drawn, 4]


def free_text(sample: Sample) -> bool:
    """Whether a sample with targets is answered in words, which cannot be moved with the picture."""
    targets = sample.targets
    assert targets is not None
    return bool(targets.text or sample.history) or (bool(sample.text) and not len(targets.boxes))


def _require(holds: bool, name: str, value: Any, right: str) -> None:
    if not holds:
        raise ConfigError(f"data.augment.{name}: is out of range (got {value!r}); give {right}")
