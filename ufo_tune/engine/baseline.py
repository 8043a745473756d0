"""The best that can be said without looking: one constant answer made from the truth of the split.

    constant = Constant.of([about(sample) for sample in samples])
    metric.update(sample, constant.prediction(sample))

A model that scores no better than this has not learnt to look, or its answers are read wrongly. ``perfect`` is the
other end: the truth itself as an answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ufo_tune.core import masks
from ufo_tune.core.types import Prediction, Sample, Targets
from ufo_tune.engine.readings import sampled


@dataclass(frozen=True, slots=True)
class About:
    """What one sample's truth adds to the constant answer: small, whatever the picture's size.

    Attributes:
        boxes: of its objects, in [0, 1] of the image.
        names: of its objects' classes.
        masked: whether its objects have masks.
        pixels: class name and count on a coarse grid, of a label map.
        depth: median of the known metres; 0 where there is no depth.
        normal: mean of the known unit vectors.
        text: the true answer in words.
    """

    boxes: tuple[tuple[float, float, float, float], ...] = ()
    names: tuple[str, ...] = ()
    masked: bool = False
    pixels: tuple[tuple[str, int], ...] = ()
    depth: float = 0.0
    normal: tuple[float, float, float] | None = None
    text: str = ""


def about(sample: Sample) -> About:
    """What a sample's truth adds; nothing where it has none."""
    t = sample.targets
    if t is None:
        return About()
    height, width = sample.size
    extent = torch.tensor([width, height, width, height], dtype=torch.float64)  # [4]
    boxes = (_bounds(t).double() / extent.clamp(min=1)).tolist()
    kept = [i for i, (x0, y0, x1, y1) in enumerate(boxes) if x1 > x0 and y1 > y0]
    labels = t.labels.tolist()
    return About(
        boxes=tuple((b[0], b[1], b[2], b[3]) for b in (boxes[i] for i in kept)),
        names=tuple(sample.classes[labels[i]] for i in kept if 0 <= labels[i] < len(sample.classes)),
        masked=t.masks is not None,
        pixels=_pixels(sample, t),
        depth=float(np.median(t.depth[t.depth > 0])) if t.depth is not None and (t.depth > 0).any() else 0.0,
        normal=_normal(t),
        text=t.text,
    )


@dataclass(frozen=True, slots=True)
class Constant:
    """One answer for all samples, of every kind that their truth has.

    The median box (as a mask its rectangle) with the commonest class, one class everywhere, one depth, one direction,
    the commonest text. No object, where most samples have none.
    """

    box: tuple[float, ...] | None
    masked: bool
    names: tuple[str, ...]
    pixels: tuple[str, ...]
    depth: float
    normal: tuple[float, ...] | None
    text: str

    @classmethod
    def of(cls, samples: Sequence[About]) -> Constant:
        """The constant of a split; the order of its samples does not matter."""
        boxes = np.array([box for a in samples for box in a.boxes])  # [objects, 4]
        pixels: Counter[str] = Counter()
        for a in samples:
            pixels.update(dict(a.pixels))
        depths = [a.depth for a in samples if a.depth]
        normals = np.array(sorted(a.normal for a in samples if a.normal is not None))  # [samples, 3]
        usual = sum(bool(a.boxes) for a in samples) * 2 > len(samples)
        return cls(
            box=tuple(np.median(boxes, axis=0).tolist()) if usual else None,
            masked=any(a.masked for a in samples),
            names=_ranked(Counter(name for a in samples for name in a.names)),
            pixels=_ranked(pixels),
            depth=float(np.median(depths)) if depths else 0.0,
            normal=_unit(normals.mean(axis=0)) if len(normals) else None,
            text=next(iter(_ranked(Counter(a.text for a in samples if a.text))), ""),
        )

    def prediction(self, sample: Sample) -> Prediction:
        """The constant answer in a sample's pixels and class numbers."""
        height, width = sample.size
        boxes, rles = torch.zeros(0, 4), masks.encode_many(np.zeros((0, height, width), dtype=bool))
        if self.box is not None:
            boxes = torch.tensor([self.box]) * torch.tensor([width, height, width, height])  # [1, 4]
        if self.masked and self.box is not None:
            x0, y0, x1, y1 = boxes[0].round().int().tolist()
            bitmap = np.zeros((1, height, width), dtype=bool)
            bitmap[0, y0:y1, x0:x1] = True
            rles = masks.encode_many(bitmap)
        known = bool(self.pixels and sample.classes)
        return Prediction(
            boxes=boxes,
            masks=rles if self.masked else None,
            scores=torch.ones(len(boxes)),
            labels=torch.full((len(boxes),), _number(self.names, sample), dtype=torch.long),
            label_map=np.full(sample.size, _number(self.pixels, sample), np.int16) if known else None,
            depth=np.full(sample.size, self.depth, np.float32) if self.depth else None,
            normals=None if self.normal is None else np.full((*sample.size, 3), self.normal, np.float32),
            text=self.text,
        )


def perfect(sample: Sample) -> Prediction:
    """The truth itself as an answer; nothing where there is none."""
    t = sample.targets or Targets()
    return Prediction(
        boxes=t.boxes,
        masks=t.masks,
        scores=torch.ones(len(t.boxes)),
        labels=t.labels,
        label_map=t.label_map,
        depth=t.depth,
        normals=t.normals,
        text=t.text,
    )


def _bounds(t: Targets) -> torch.Tensor:
    """Boxes [N, 4] of the single objects; of their masks where these are there."""
    boxes = t.boxes if t.masks is None else masks.boxes_of(t.masks)
    return boxes if t.crowd is None else boxes * ~t.crowd.bool()[:, None]  # a crowd is no object: no area


def _pixels(sample: Sample, t: Targets) -> tuple[tuple[str, int], ...]:
    if t.label_map is None:
        return ()
    numbers, counts = np.unique(sampled(t.label_map), return_counts=True)
    pairs = zip(numbers.tolist(), counts.tolist(), strict=True)
    return tuple((sample.classes[n], c) for n, c in pairs if 0 <= n < len(sample.classes))


def _normal(t: Targets) -> tuple[float, float, float] | None:
    if t.normals is None:
        return None
    known = t.normals[(t.normals != 0).any(axis=-1)].astype(np.float64)  # [pixels, 3]
    x, y, z = known.mean(axis=0).tolist() if len(known) else (0.0, 0.0, 0.0)
    return (x, y, z) if len(known) else None


def _unit(vector: np.ndarray) -> tuple[float, ...]:
    length = float(np.linalg.norm(vector))
    return tuple((vector / length).tolist()) if length else (0.0, 0.0, -1.0)


def _ranked(counts: Counter[str]) -> tuple[str, ...]:
    """Names, the commonest first; equal ones by name, so that the number of processes cannot matter."""
    return tuple(sorted(counts, key=lambda name: (-counts[name], name)))


def _number(ranked: Sequence[str], sample: Sample) -> int:
    """The class number of the commonest name that a sample asks for."""
    numbers = {name: i for i, name in enumerate(sample.classes)}
    return next((numbers[name] for name in ranked if name in numbers), 0)
