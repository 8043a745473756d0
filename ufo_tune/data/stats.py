"""What a dataset holds, counted: samples, images, objects per image, areas, classes, lengths of phrases.

found = stats(samples)
found.areas  # {"small": 12, "medium": 40, "large": 3}
chart(found, "rec").save("rec.png")
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ufo_tune.core import boxes, masks
from ufo_tune.core.types import Sample, Samples, Targets
from ufo_tune.errors import DataError
from ufo_tune.show import charts

AREAS = {"small": 0.0, "medium": 32.0**2, "large": 96.0**2}
"""COCO's sizes and the area, in pixels of the original image, from which each counts."""
SHARES = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
"""Parts of the image from which objects are counted together."""
MOST_CLASSES = 20
"""Classes in a chart or table; the others are counted together."""
_QUANTILES = (0.05, 0.5, 0.95)


@dataclass(slots=True)
class Stats:
    """Counts of one task's samples. Areas are those of masks where there are any, else of boxes."""

    samples: int = 0
    images: int = 0
    bad: int = 0  # samples that could not be made; `data validate` tells why
    objects: Counter[int] = field(default_factory=Counter)  # objects in a sample -> samples
    areas: Counter[str] = field(default_factory=Counter)
    shares: list[float] = field(default_factory=list)  # of the image, one per object
    classes: Counter[str] = field(default_factory=Counter)  # objects, or pieces of label maps, of each class
    words: Counter[int] = field(default_factory=Counter)  # words of a phrase or question -> samples
    answer_words: Counter[int] = field(default_factory=Counter)
    decimetres: Counter[int] = field(default_factory=Counter)  # of depth, rounded down -> pixels
    unknown: int = 0  # pixels of depth maps that say nothing

    def to_dict(self) -> dict[str, Any]:
        """JSON values: counts, and quantiles of what is continuous."""
        return {
            "samples": self.samples,
            "images": self.images,
            "bad": self.bad,
            "objects": sum(number * count for number, count in self.objects.items()),
            "objects_per_sample": _summary(self.objects),
            "areas": {name: self.areas[name] for name in AREAS},
            "relative_area": dict(zip(("5%", "50%", "95%"), _quantiles(self.shares), strict=True)),
            "classes": dict(self.classes.most_common()),
            "words": _summary(self.words),
            "answer_words": _summary(self.answer_words),
            "metres": {name: value / 10 for name, value in _summary(self.decimetres).items()},
            "known_depth": self.decimetres.total() / max(1, self.decimetres.total() + self.unknown),
        }

    def share_counts(self) -> dict[str, int]:
        """Objects by their part of the image, in steps of about three."""
        counts, _ = np.histogram(self.shares, bins=[*SHARES, np.inf])
        ends = [*(f"{100 * s:g}" for s in SHARES[1:]), "100"]
        starts = [f"{100 * s:g}" for s in SHARES]
        return {f"{a}-{b} %": int(n) for a, b, n in zip(starts, ends, counts, strict=True)}


def stats(samples: Samples, *, progress: bool = False) -> Stats:
    """Count the samples of one task. Images are not decoded; a sample that cannot be made is counted as bad."""
    found = Stats()
    images: set[str] = set()
    for number in tqdm(range(len(samples)), desc="stats", unit="sample", disable=not progress):
        try:
            sample = samples[number]
        except DataError:
            found.bad += 1
            continue
        if sample.image is not None:
            images.add(sample.image_id or sample.source)
        _count(found, sample, sample.targets or Targets())
    found.images = len(images)
    return found


def table(found: Stats) -> list[str]:
    """The counts as lines of text."""
    told = found.to_dict()
    lines = [f"{found.samples} samples of {found.images} images" + (f"; {found.bad} bad" if found.bad else "")]
    if told["objects"]:
        per = told["objects_per_sample"]
        lines.append(f"objects   {told['objects']}; per sample {per['mean']:.3g} on average, at most {per['max']}")
        lines.append("area      " + ", ".join(f"{name} {count}" for name, count in told["areas"].items()))
        low, middle, high = told["relative_area"].values()
        lines.append(f"of image  median {middle:.2%}, 90 % of objects between {low:.2%} and {high:.2%}")
    for name, key in (("words", "words"), ("answers", "answer_words")):
        if told[key]["max"]:
            said = told[key]
            lines.append(f"{name:9} median {said['median']:g}, mean {said['mean']:.1f}, at most {said['max']} words")
    if found.decimetres:
        metres = told["metres"]
        far = f"median {metres['median']:.1f}, mean {metres['mean']:.1f}, at most {metres['max']:.1f} metres"
        lines.append(f"depth     {far}; {told['known_depth']:.0%} of pixels known")
    if found.classes:
        shown = ", ".join(f"{name} {count}" for name, count in _most(found.classes).items())
        lines.append(f"classes   {len(found.classes)}: {shown}")
    return lines


def chart(found: Stats, title: str) -> Any:
    """A ``PIL.Image`` of the counts as bars: objects per sample, areas, classes, words; only those that there are."""
    panels: dict[str, Mapping[str, float]] = {}
    if any(found.objects):
        panels["objects per sample"] = _binned(found.objects)
        panels["object area (COCO's sizes)"] = {name: found.areas[name] for name in AREAS}
        panels["object area, part of the image"] = found.share_counts()
    if found.classes:
        panels["objects of each class"] = _most(found.classes)
    if any(found.words):
        panels["words of a phrase or question"] = _binned(found.words)
    if any(found.answer_words):
        panels["words of an answer"] = _binned(found.answer_words)
    if found.decimetres:
        panels["pixels of each depth, %"] = _by_metres(found.decimetres)
    if not panels:
        got = f"{found.samples} samples without objects, words and depth"
        raise DataError(f"{title}: there is nothing to draw (got {got}); leave out --out")
    return charts(panels, title=f"{title}: {found.samples} samples of {found.images} images")


def _count(found: Stats, sample: Sample, targets: Targets) -> None:
    found.samples += 1
    if sample.text:
        found.words[len(sample.text.split())] += 1
    if targets.text:
        found.answer_words[len(targets.text.split())] += 1
    if targets.depth is not None:
        known = targets.depth[targets.depth > 0]
        steps, counts = np.unique((known * 10).astype(np.int64), return_counts=True)
        found.decimetres.update(dict(zip(steps.tolist(), counts.tolist(), strict=True)))
        found.unknown += targets.depth.size - known.size
    areas, labels = _areas(targets)
    if areas or not targets.text:  # what is answered in words alone is about no objects
        found.objects[len(areas)] += 1
    pixels = max(1, sample.size[0] * sample.size[1])
    for area in areas:
        found.areas[next(name for name in reversed(AREAS) if area >= AREAS[name])] += 1
        found.shares.append(area / pixels)
    found.classes.update(sample.classes[k] for k in labels if sample.classes)


def _areas(targets: Targets) -> tuple[list[float], list[int]]:
    """Pixels of each object, and its class; the areas of a label map count as objects."""
    if targets.label_map is not None:
        sizes = np.bincount(targets.label_map[targets.label_map >= 0].ravel())
        present = np.flatnonzero(sizes)
        return sizes[present].astype(float).tolist(), present.tolist()
    areas = masks.area(targets.masks) if targets.masks else boxes.area(targets.boxes)
    return areas.double().tolist(), targets.labels.tolist()


def _summary(counts: Counter[int]) -> dict[str, float]:
    """Mean, median and most of numbers that are counted."""
    numbers = np.array(sorted(counts), dtype=np.int64)
    if not len(numbers):
        return {"mean": 0.0, "median": 0.0, "max": 0}
    times = np.array([counts[n] for n in numbers.tolist()])
    middle = numbers[np.searchsorted(np.cumsum(times), (times.sum() + 1) // 2)]
    return {"mean": float((numbers * times).sum() / times.sum()), "median": float(middle), "max": int(numbers[-1])}


def _by_metres(decimetres: Counter[int]) -> dict[str, float]:
    """Parts of the pixels by metres, in ten steps of whole metres at most."""
    step = max(decimetres) // 100 + 1
    counts: Counter[int] = Counter()
    for number, count in decimetres.items():
        counts[number // (10 * step)] += count
    every = range(max(counts) + 1)
    return {f"{k * step}-{(k + 1) * step} m": round(100 * counts[k] / counts.total(), 1) for k in every}


def _quantiles(values: list[float]) -> list[float]:
    return np.quantile(values, _QUANTILES).tolist() if values else [0.0] * len(_QUANTILES)


def _most(counts: Counter[str]) -> dict[str, int]:
    """The commonest, and all others together."""
    shown = dict(counts.most_common(MOST_CLASSES))
    others = len(counts) - len(shown)
    return shown | ({f"{others} others": sum(counts.values()) - sum(shown.values())} if others else {})


def _binned(counts: Counter[int]) -> dict[str, int]:
    """Counts of whole numbers in at most sixteen bins of one width; the last holds whatever is larger."""
    values = np.repeat(np.array(list(counts)), list(counts.values()))  # [samples]
    largest = int(np.quantile(values, 0.98, method="higher"))  # a few long ones must not make the bins coarse
    width = -(-(largest + 1) // 15)
    last = largest // width + 1
    binned = np.bincount(np.minimum(values // width, last)).tolist()
    starts = [k * width for k in range(len(binned))]
    names = [f"{s}" if width == 1 else f"{s}-{s + width - 1}" for s in starts[:last]] + [f"{s}+" for s in starts[last:]]
    return dict(zip(names, binned, strict=True))
