"""What every protocol promises: its data, its metric and its published numbers belong together.

A perfect model scores 1 (errors: 0) on the protocol's dataset by the protocol's metric, and a wrong one does not; the
published numbers have names and sizes that the metric could give. No model is involved.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import data_files
from ufo_tune import plugins, resources
from ufo_tune.config import Protocol
from ufo_tune.core import masks
from ufo_tune.core.types import Prediction, Sample, Samples
from ufo_tune.data.open import open_dataset
from ufo_tune.errors import UfoTuneError

NAMES = resources.names("eval")
MOST = 12
"""Samples of each protocol that are scored."""
LESS_IS_BETTER = {"RMSE", "AbsRel", "log10", "mean", "median"}
MORE_THAN_ONE = {"CIDEr": 10.0, "RMSE": math.inf, "AbsRel": math.inf, "mean": 180.0, "median": 180.0}
"""Values that may be more than 1, and the most that they can be."""
REAL_ONLY = {"coco128_boxes", "coco128_masks"}
"""Protocols of a layout that the tiny files do not have; their real photographs are below."""
REAL: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ade20k": (
        "ade20k_sceneparsing150",
        "",
        {"image_dir": "sampleData/images", "label_dir": "sampleData/annotations"},
    ),
    "coco128_boxes": ("coco128", "train2017", {}),
    "coco128_masks": ("coco128", "train2017", {}),
    "drive": ("drive", "training", {}),
    "lvis_boxes": ("lvis_val_100/data", "val", {"annotations": "lvis_{split}_100.json"}),
    "lvis_masks": ("lvis_val_100/data", "val", {"annotations": "lvis_{split}_100.json"}),
    "rec_refcoco": ("refcoco_minigpt4", "testA", {"layout": "rows", "image_dir": "none"}),
    "rec_refcoco_plus": ("refcoco_minigpt4", "testB", {"layout": "rows", "image_dir": "none"}),
    "rec_refcocog": ("refcoco_minigpt4", "test", {"layout": "rows", "image_dir": "none"}),
}
"""Protocol -> folder of the real samples, split, and what differs from the protocol's options."""


def load(name: str) -> Protocol:
    return Protocol.load(name, keep_unset=True)


def opened(name: str, folder: Path) -> Samples:
    """The protocol's dataset on the tiny files of its maker: its first split that these have, else theirs."""
    protocol = load(name)
    root, made_split, made = data_files.make(protocol.dataset, folder)
    if variant := protocol.options.get("variant"):
        _rename_refcoco(folder, variant)
    for split in (*protocol.splits, made_split):
        try:
            return open_dataset(protocol.dataset, root, split, protocol.task, {**made, **protocol.options})
        except UfoTuneError as error:
            last = error
    raise AssertionError(f"{name}: the tiny files of {protocol.dataset} do not serve it; see REAL_ONLY") from last


def _rename_refcoco(folder: Path, variant: str) -> None:
    """The tiny files are RefCOCO's; the others have the same form under other names."""
    by = "umd" if variant == "refcocog" else "unc"
    (folder / "refcoco" / "refs(unc).p").rename(folder / "refcoco" / f"refs({by}).p")
    shutil.move(folder / "refcoco", folder / variant)


def perfect(sample: Sample) -> Prediction:
    """The truth as a prediction; crowds are nobody's to find."""
    truth = sample.targets
    assert truth is not None
    keep = torch.ones(len(truth.boxes), dtype=torch.bool) if truth.crowd is None else ~truth.crowd
    return Prediction(
        boxes=truth.boxes[keep],
        masks=None if truth.masks is None else tuple(m for m, k in zip(truth.masks, keep.tolist(), strict=True) if k),
        scores=torch.full((int(keep.sum()),), 0.9),
        labels=truth.labels[keep],
        label_map=truth.label_map,
        depth=truth.depth,
        normals=truth.normals,
        text=truth.text,
    )


def wrong(sample: Sample) -> Prediction:
    """Boxes in a corner, masks turned inside out, the next class, thrice as far, the other way round, another word."""
    right = perfect(sample)
    inverted = None if right.masks is None else tuple(masks.encode(~masks.decode(m)) for m in right.masks)
    if sample.task == "res" and not inverted:
        inverted = (masks.encode(np.ones(sample.size, dtype=bool)),)
    said = {"yes": "no", "no": "yes"}.get(right.text, "something else altogether")
    return replace(
        right,
        boxes=torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(len(right.boxes), 4),
        masks=inverted,
        label_map=None if right.label_map is None else _next_class(right.label_map, len(sample.classes)),
        depth=None if right.depth is None else 3 * right.depth,
        normals=None if right.normals is None else -right.normals,
        text=said if right.text else "",
    )


def _next_class(label_map: np.ndarray, classes: int) -> np.ndarray:
    moved: np.ndarray = np.where(label_map < 0, label_map, (label_map + 1) % classes).astype(np.int16)
    return moved


def values(name: str, samples: Samples, answer: Callable[[Sample], Prediction], most: int = MOST) -> dict[str, float]:
    protocol = load(name)
    metric = plugins.find("metrics", protocol.metric).Metric(**protocol.metric_options)
    for number in range(min(most, len(samples))):
        sample = samples[number]
        metric.update(sample, answer(sample))
    found: dict[str, float] = metric.compute()
    return found


def check_perfect_and_wrong(name: str, samples: Samples, most: int = MOST) -> None:
    best, worst = (values(name, samples, answer, most) for answer in (perfect, wrong))
    assert best["n"] == worst["n"] == min(most, len(samples)) > 0 and best["invalid"] == 0
    headline = next(iter(best))
    if headline in LESS_IS_BETTER:
        assert best[headline] == pytest.approx(0, abs=1e-3) and worst[headline] > 0.1
    else:
        assert best[headline] == pytest.approx(1) and worst[headline] < 0.5
    named = {key for row in load(name).reference for key in row} - {"model", "split", "source"}
    assert named <= set(best), "a published number has no such value beside it"


def test_there_are_protocols() -> None:
    assert len(NAMES) >= 25 and set(NAMES) >= set(REAL)


@pytest.mark.parametrize("name", sorted(set(NAMES) - REAL_ONLY))
def test_perfect_is_one_and_wrong_is_not(name: str, tmp_path: Path) -> None:
    check_perfect_and_wrong(name, opened(name, tmp_path))


@pytest.mark.parametrize("name", sorted(REAL))
def test_perfect_is_one_and_wrong_is_not_on_real_samples(name: str) -> None:
    folder, split, options = REAL[name]
    root = Path(os.environ.get("UFO_TUNE_REAL_DATA") or "nowhere") / folder
    if not root.is_dir():
        pytest.skip(f"UFO_TUNE_REAL_DATA has no {folder}")
    protocol = load(name)
    samples = open_dataset(protocol.dataset, str(root), split, protocol.task, {**protocol.options, **options})
    check_perfect_and_wrong(name, samples, most=60)


@pytest.mark.parametrize("name", NAMES)
def test_published_numbers_are_of_our_scale(name: str) -> None:
    """In [0, 1] where the metric's values are, not in percent; and no number stands twice."""
    rows = load(name).reference
    for row in rows:
        numbers = {key: value for key, value in row.items() if key not in ("model", "split", "source")}
        assert numbers and len(row["source"]) > 8, row
        for key, value in numbers.items():
            assert 0 <= value <= MORE_THAN_ONE.get(key, 1.0), (row["model"], key)
    assert len({(row["model"], row["split"], row["source"]) for row in rows}) == len(rows)


@pytest.mark.parametrize("name", NAMES)
def test_starts_with_what_it_is_and_its_command(name: str) -> None:
    text = resources.locate("eval", name).read_text(encoding="utf-8")
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert text.startswith("# ") and load(name).description
    (command,) = [line for line in comments if line.startswith("# Command: ")]
    words = command.split()
    assert words[words.index("--suite") + 1].split(",")[0].split(":")[0] == name
    assert ("${" in text) == ("=DIR" in command or "DATA=my" in command), "which variable to set"
