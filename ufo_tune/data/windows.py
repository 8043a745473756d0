"""Windows at native resolution: a training sample becomes a random square of its own pixels, maybe turned.

    image, sample = Windows(samples, 96, dihedral=True)(image, sample, rng)

For structures that vanish when the whole image is shrunk to what the model sees. ``Protocol.tiling`` asks such a model
about a whole image, tile by tile.

What leaves the window is dropped, box, mask and label together. A phrase keeps its object, of which a part may be cut
off: windows without any of its pixels are drawn again, and the last resort is one around a pixel of it. Neither is
there much to learn where the middle is not scored (``Targets.ignore``), so that these are drawn again too. Words such
as "left" or "above" forbid the turns.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from ufo_tune.core import masks as masks_
from ufo_tune.core.boxes import clip
from ufo_tune.core.types import Rle, Sample, Samples, Targets
from ufo_tune.data.augment import SIDED, select
from ufo_tune.errors import ConfigError

UPRIGHT = re.compile(
    r"\b(top|bottom|up|down|upper|lower|above|below|over|under|beneath|north|south|horizontal|vertical|upside|tall|wide"
    r"|sideways|standing|lying|laying|(high|low)(er|est)?\b)",
    re.IGNORECASE,
)
"""Words that a quarter turn or an upside-down picture makes wrong; longer words with these beginnings count."""
TRIES = 4
"""Windows drawn until one shows a pixel of the phrase's object, and is scored in the middle."""

Window = tuple[int, int, int, int]
"""Top, left, height and width in pixels."""


class Windows:
    """Cuts random windows and turns them by the symmetries of the square.

    Args:
        samples: the first of them is looked at, whether they can be cut at all.
        side: of the window in pixels, at most the image's own; 0: the whole image.
        dihedral: one of the eight turns and mirror images, each as likely.
        where: the entry, for messages.

    Raises:
        ConfigError: samples that are answered in free text, whose truth cannot be cut.
    """

    def __init__(self, samples: Samples, side: int, *, dihedral: bool = False, where: str = "window") -> None:
        first = samples[0]
        if first.targets is not None and (first.targets.text or first.history):
            raise ConfigError(
                f"{where}.window: cutting or turning a picture may change what is true of it (got {first.source}, task "
                f"{first.task}); set window: 0 and dihedral: false"
            )
        self._side, self._dihedral = side, dihedral

    def __call__(self, image: np.ndarray, sample: Sample, rng: np.random.Generator) -> tuple[np.ndarray, Sample]:
        """A window [h, w, 3] uint8 of the image [H, W, 3], and the sample with its targets cut and turned alike.

        A sample without targets comes back as it is.
        """
        if sample.targets is None:
            return image, sample
        if self._side:
            window = self._window(sample, rng)
            image = image[_slices(window)]
            sample = sample.with_(size=window[2:], targets=cut(sample.targets, window, keep=bool(sample.text)))
        if self._dihedral:
            transpose, mirror, upend = (bool(c) for c in rng.random(3) < 0.5)
            if turnable(sample):
                image = turn_map(image, transpose, mirror, upend)
                assert sample.targets is not None
                targets = turn(sample.targets, sample.size, transpose, mirror, upend)
                sample = sample.with_(size=image.shape[:2], targets=targets)
        return np.ascontiguousarray(image), sample

    def _window(self, sample: Sample, rng: np.random.Generator) -> Window:
        size = np.array(sample.size)  # H, W
        sides = np.minimum(self._side, size)
        seen = _drawn(sample) if sample.text else np.zeros((0, 0), dtype=bool)
        ignored = _ignored(sample)
        for _ in range(TRIES):
            y, x = (int(c) for c in rng.integers(0, size - sides, endpoint=True))
            window = (y, x, int(sides[0]), int(sides[1]))
            shows = not seen.any() or seen[_slices(window)].any()
            if shows and not ignored[y + sides[0] // 2, x + sides[1] // 2]:
                return window
        if not seen.any():
            return window
        places = np.argwhere(seen)  # [pixels, 2]
        inside = places[int(rng.integers(len(places)))]
        corner = rng.integers(np.maximum(inside - sides + 1, 0), np.minimum(inside, size - sides), endpoint=True)
        return int(corner[0]), int(corner[1]), int(sides[0]), int(sides[1])


def turnable(sample: Sample) -> bool:
    """Whether no word of the question, such as "left" or "above", becomes wrong when the picture is turned."""
    words = " ".join((sample.text, *sample.classes))
    return not (SIDED.search(words) or UPRIGHT.search(words))


def cut(targets: Targets, window: Window, *, keep: bool) -> Targets:
    """The targets of a window, in its own pixels.

    Args:
        targets: of the whole image.
        window: inside the image.
        keep: objects of which nothing is left stay, with an empty mask and a box without area.
    """
    top, left, height, width = window

    def runs(rles: tuple[Rle, ...] | None) -> tuple[Rle, ...] | None:
        if not rles:
            return rles
        return masks_.encode_many(masks_.decode_many(rles)[:, top : top + height, left : left + width])

    moved = targets.boxes - targets.boxes.new_tensor([left, top, left, top])  # [N, 4]
    boxes = clip(moved, (height, width))
    rles = runs(targets.masks)
    if rles is not None:  # what is left of the object may be smaller than its cut box
        boxes = torch.where((moved != boxes).any(1, keepdim=True), masks_.boxes_of(rles), boxes)
        there = masks_.area(rles) > 0  # [N]
    else:
        there = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)  # [N]
    maps = _each_map(targets, lambda values: values[_slices(window)])
    whole = replace(maps, boxes=boxes, masks=rles, ignore=_one(runs, targets.ignore))
    return whole if keep else select(whole, there)


def turn(targets: Targets, size: tuple[int, int], transpose: bool, mirror: bool, upend: bool) -> Targets:
    """The targets of an image of ``size`` (H, W) after ``turn_map``; normals turn with the picture."""

    def runs(rles: tuple[Rle, ...] | None) -> tuple[Rle, ...] | None:
        if not rles:
            return rles
        return tuple(masks_.encode(turn_map(masks_.decode(r), transpose, mirror, upend)) for r in rles)

    height, width = size[::-1] if transpose else size
    x0, y0, x1, y1 = targets.boxes[:, [1, 0, 3, 2]].T if transpose else targets.boxes.T
    x0, x1 = (width - x1, width - x0) if mirror else (x0, x1)
    y0, y1 = (height - y1, height - y0) if upend else (y0, y1)
    found = _each_map(targets, lambda values: turn_map(values, transpose, mirror, upend))
    normals = found.normals
    if normals is not None:
        sign = np.array([-1 if mirror else 1, -1 if upend else 1, 1], dtype=normals.dtype)
        normals = np.ascontiguousarray(normals[..., [1, 0, 2] if transpose else [0, 1, 2]] * sign)  # [H, W, 3]
    boxes = torch.stack([x0, y0, x1, y1], dim=1)  # [N, 4]
    return replace(found, boxes=boxes, masks=runs(targets.masks), ignore=_one(runs, targets.ignore), normals=normals)


def turn_map(values: np.ndarray, transpose: bool, mirror: bool, upend: bool) -> np.ndarray:
    """Values [H, W, ...] with rows and columns swapped, then left and right, then top and bottom, as asked."""
    turned = values.swapaxes(0, 1) if transpose else values  # [W, H, ...]
    turned = turned[:, ::-1] if mirror else turned
    return turned[::-1] if upend else turned


def _each_map(targets: Targets, change: Callable[[np.ndarray], np.ndarray]) -> Targets:
    def changed(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else np.ascontiguousarray(change(values))

    return replace(
        targets,
        label_map=changed(targets.label_map),
        depth=changed(targets.depth),
        normals=changed(targets.normals),
    )


def _one(runs: Callable[[tuple[Rle, ...]], tuple[Rle, ...] | None], rle: Rle | None) -> Rle | None:
    found = None if rle is None else runs((rle,))
    return found[0] if found else None


def _slices(window: Window) -> tuple[slice, slice]:
    top, left, height, width = window
    return slice(top, top + height), slice(left, left + width)


def _drawn(sample: Sample) -> np.ndarray:
    """The pixels [H, W] bool of the sample's objects: of their masks or, without masks, their boxes."""
    targets = sample.targets
    assert targets is not None
    if targets.masks is not None:
        return np.asarray(masks_.decode_many(targets.masks, sample.size).any(0))
    drawn = np.zeros(sample.size, dtype=bool)
    for x0, y0, x1, y1 in targets.boxes.tolist():
        drawn[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = True
    return drawn


def _ignored(sample: Sample) -> np.ndarray:
    """The pixels [H, W] bool that are not scored."""
    rle = sample.targets.ignore if sample.targets is not None else None
    return np.zeros(sample.size, dtype=bool) if rle is None else masks_.decode(rle)
