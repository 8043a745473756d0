"""Copy-paste: some objects of another sample of the same entry, at another size and place, over this one.

    image, sample = CopyPaste(samples, 0.5)(image, sample, rng)

Masks below are cut, their boxes follow, and objects of which nothing is left are dropped. Crowds are not pasted. Where
a dataset is not exhaustive (``Sample.absent``), only classes that were looked for in this picture are pasted: of any
other, unmarked objects might be there already. Pasted classes are no longer absent.

Source: Ghiasi et al. 2021 (arXiv 2012.07177), sec. 3; their standard scale jitter, no blending.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from ufo_tune.core import masks
from ufo_tune.core.images import sample_image
from ufo_tune.core.types import Rle, Sample, Samples
from ufo_tune.errors import ConfigError
from ufo_tune.tasks._truth import truth, whole_masks

SCALE = (0.8, 1.25)
"""Range of the other image's size, 1 being the largest at which it fits into this one."""
MIN_PIXELS = 10
"""Of an object that is pasted or covered: where fewer can be seen, it is gone."""


class CopyPaste:
    """Pastes objects of other samples, drawn from the generator it is given.

    Args:
        samples: where objects come from; their images are read on the way.
        probability: of pasting anything at all.
        most: objects that are pasted at once.
        where: the entry, for messages.

    Raises:
        ConfigError: the first sample has no masks, or is about a phrase or question.
    """

    def __init__(self, samples: Samples, probability: float, *, most: int = 100, where: str = "copy_paste") -> None:
        first = samples[0]
        if first.text or not first.classes:
            raise ConfigError(
                f"{where}.copy_paste: pasted objects would change what a phrase or question means (got task "
                f"{first.task}); set copy_paste: 0"
            )
        if first.targets is None or first.targets.masks is None:
            raise ConfigError(
                f"{where}.copy_paste: needs masks (got {first.source} without); add options: {{with_masks: true}} "
                "where the dataset has it, or set copy_paste: 0"
            )
        self._samples, self._probability, self._most = samples, probability, most

    def __call__(self, image: np.ndarray, sample: Sample, rng: np.random.Generator) -> tuple[np.ndarray, Sample]:
        """Another image [H, W, 3] uint8 of the same size, and the sample with what can be seen there.

        Args:
            image: [H, W, 3] uint8, the pixels of ``sample.image``; not changed.
            sample: with masks.
            rng: draws whether, from which sample, which objects, their size and their place.

        Raises:
            DataError: a sample without masks, with a mask of another size, or an image that cannot be read.
        """
        if rng.random() >= self._probability:
            return image, sample
        other = self._samples[int(rng.integers(len(self._samples)))]
        labels = _labels(sample, other)
        chosen = np.flatnonzero(labels >= 0)
        if not len(chosen) or other.source == sample.source:
            return image, sample
        chosen = np.sort(rng.permutation(chosen)[: 1 + int(rng.integers(min(len(chosen), self._most)))])
        rles = whole_masks(other)
        bitmaps = masks.decode_many([rles[i] for i in chosen])  # [P, h, w]
        patch, seen = _patch(bitmaps, sample_image(other), image.shape[:2], rng)
        if patch is None:
            return image, sample
        top, left, height, width = patch.window
        image = image.copy()
        image[top : top + height, left : left + width][patch.bitmaps.any(0)] = patch.pixels[patch.bitmaps.any(0)]
        return image, _covered(sample, patch, labels[chosen[seen]])


@dataclass(frozen=True, slots=True)
class _Patch:
    """What is pasted: a part of this image, and objects in it."""

    window: tuple[int, int, int, int]  # top, left, height, width
    pixels: np.ndarray  # [height, width, 3] uint8
    bitmaps: np.ndarray  # [P, height, width] bool

    def whole(self, size: tuple[int, int]) -> np.ndarray:
        """The bitmaps [P, H, W] on all of the image."""
        top, left, height, width = self.window
        found = np.zeros((len(self.bitmaps), *size), dtype=bool)
        found[:, top : top + height, left : left + width] = self.bitmaps
        return found


def _labels(sample: Sample, other: Sample) -> np.ndarray:
    """The label that each of the other's objects has here; -1: it may not be pasted."""
    targets = truth(other)
    labels = targets.labels.numpy()
    if other.classes != sample.classes:
        numbers = {name: number for number, name in enumerate(sample.classes)}
        labels = np.array([numbers.get(other.classes[k], -1) for k in labels], dtype=np.int64)
    allowed = np.ones(len(labels), dtype=bool) if targets.crowd is None else ~targets.crowd.numpy().astype(bool)
    if sample.absent is not None:
        looked_for = {sample.classes[k] for k in truth(sample).labels.tolist()}.union(sample.absent)
        allowed &= np.array([k >= 0 and sample.classes[k] in looked_for for k in labels], dtype=bool)
    return np.where(allowed, labels, -1)


def _patch(
    bitmaps: np.ndarray, pixels: np.ndarray | None, size: tuple[int, int], rng: np.random.Generator
) -> tuple[_Patch | None, np.ndarray]:
    """Objects [P, h, w] and their image [h, w, 3] at a random size and place in an image of ``size`` (H, W).

    Returns:
        None where nothing of them lies inside, and which objects [P] bool can be seen.
    """
    assert pixels is not None  # it has masks
    own = np.array(bitmaps.shape[1:])  # h, w
    scaled = np.maximum(1, np.round(own * min(size / own) * rng.uniform(*SCALE))).astype(int)
    room = size - scaled  # negative: it reaches beyond
    corner = rng.integers(np.minimum(room, 0), np.maximum(room, 0), endpoint=True)  # y, x of its top left corner
    first, last = np.maximum(corner, 0), np.minimum(corner + scaled, size)
    ys, xs = (
        ((np.arange(first[a], last[a]) - corner[a] + 0.5) * own[a] / scaled[a]).astype(int) for a in (0, 1)
    )  # the pixel of the other image under each one here
    placed = bitmaps[:, ys[:, None], xs[None]]  # [P, last - first]
    seen = placed.sum(axis=(1, 2)) >= MIN_PIXELS  # [P]
    if not seen.any():
        return None, seen
    rows, columns = (np.flatnonzero(placed[seen].any(axis=(0, a))) for a in (2, 1))
    y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    start = (np.array([y0, x0]) + first - corner) * own / scaled
    end = (np.array([y1, x1]) + first - corner) * own / scaled
    resized = Image.fromarray(pixels).resize(
        (int(x1 - x0), int(y1 - y0)), Image.Resampling.BILINEAR, box=(start[1], start[0], end[1], end[0])
    )
    window = (int(first[0] + y0), int(first[1] + x0), int(y1 - y0), int(x1 - x0))
    return _Patch(window, np.asarray(resized), placed[seen, y0:y1, x0:x1]), seen


def _covered(sample: Sample, patch: _Patch, labels: np.ndarray) -> Sample:
    """The sample with the patch over it; ``labels`` [P] are those of the pasted objects."""
    size, targets = sample.size, truth(sample)
    pasted = patch.whole(size)  # [P, H, W]
    clear = ~pasted.any(axis=0)  # [H, W]
    rles, boxes, gone = list(whole_masks(sample)), targets.boxes.clone(), set()
    for number in _under(rles, patch.window):
        bitmap = masks.decode(rles[number])
        left = bitmap & clear
        if left.sum() < bitmap.sum():
            rles[number] = masks.encode(left)
            boxes[number] = masks.boxes_of([rles[number]])[0]
            gone |= {number} if left.sum() < MIN_PIXELS else set()
    kept = [i for i in range(len(rles)) if i not in gone]
    added = masks.encode_many(pasted)
    crowd = None
    if targets.crowd is not None:
        crowd = torch.cat([targets.crowd[kept], torch.zeros(len(added), dtype=targets.crowd.dtype)])
    moved = replace(
        targets,
        boxes=torch.cat([boxes[kept], masks.boxes_of(added).to(boxes)]),
        masks=(*(rles[i] for i in kept), *added),
        labels=torch.cat([targets.labels[kept], torch.from_numpy(labels).to(targets.labels)]),
        crowd=crowd,
        ignore=None if targets.ignore is None else masks.encode(masks.decode(targets.ignore) & clear),
    )
    names = {sample.classes[k] for k in labels.tolist()}
    absent = None if sample.absent is None else tuple(n for n in sample.absent if n not in names)
    return sample.with_(targets=moved, absent=absent)


def _under(rles: Sequence[Rle], window: tuple[int, int, int, int]) -> list[int]:
    """Which masks have a pixel or more inside the bounds of the window: the others need not be decoded."""
    top, left, height, width = window
    x0, y0, x1, y1 = masks.boxes_of(rles).unbind(1)
    inside = (x0 < left + width) & (x1 > left) & (y0 < top + height) & (y1 > top)  # [N]
    return [int(i) for i in inside.nonzero()[:, 0]]
