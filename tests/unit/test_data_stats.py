"""Counts of a dataset, by hand; and the chart of them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data_files import SIZE, picture, rectangle, rle, write_jsonl
from ufo_tune.core.types import Sample, Targets
from ufo_tune.data.stats import MOST_CLASSES, Stats, _binned, _by_metres, chart, stats, table
from ufo_tune.datasets import jsonl
from ufo_tune.errors import DataError
from ufo_tune.show import bars


def _file(folder: Path, task: str) -> jsonl.Jsonl:
    for name in "ab":
        picture(folder / f"{name}.png")
    box, large = [5, 6, 15, 18], [0, 0, 60, 40]
    rows = [
        {"image": "a.png", "objects": {"ref": ["the red cup", "it"], "bbox": [box, large]}},
        {"image": "b.png", "objects": {"ref": ["cup"], "bbox": [box], "masks": [rle(rectangle(5, 6, 10, 10))]}},
        {"image": "b.png", "classes": ["cup", "plate"], "objects": {"ref": ["cup"] * 2, "bbox": [box, large]}},
        {"image": "a.png", "classes": ["cup", "plate"]},
        {"image": "a.png", "question": "how many", "answer": "a single one"},
    ]
    return jsonl.load(str(folder), write_jsonl(folder / "train.jsonl", rows).stem, task=task)


def test_phrases(tmp_path: Path) -> None:
    found = stats(_file(tmp_path, "rec"))
    assert (found.samples, found.images, found.bad) == (3, 2, 0)
    assert found.objects == {1: 3} and found.words == {3: 1, 1: 2} and not found.classes
    assert found.areas == {"small": 2, "medium": 1}  # 120, 120 and 2400 of 2400 pixels
    assert found.shares == [0.05, 1.0, 0.05]
    told = found.to_dict()
    assert json.loads(json.dumps(told)) == told
    assert told["words"] == {"mean": pytest.approx(5 / 3), "median": 1.0, "max": 3}
    assert told["relative_area"]["50%"] == 0.05


def test_areas_are_those_of_masks_where_there_are_any(tmp_path: Path) -> None:
    assert stats(_file(tmp_path, "res")).shares == [20 / 2400]


def test_classes_and_pictures_without_objects(tmp_path: Path) -> None:
    found = stats(_file(tmp_path, "detection"))
    assert found.objects == {2: 1, 0: 1} and found.classes == {"cup": 2}
    lines = table(found)
    assert lines[0] == "2 samples of 2 images"
    assert lines[1] == "objects   2; per sample 1 on average, at most 2"
    assert lines[-1] == "classes   1: cup 2"


def test_depth() -> None:
    """A quarter unknown, half at 1.25 m, a quarter at 12.55 m: steps of 0.1 m, rounded down, and bars of two metres."""
    depth = np.zeros(SIZE, dtype=np.float32)
    depth[:, 15:45], depth[:, 45:] = 1.25, 12.55
    sample = Sample(np.zeros((*SIZE, 3), np.uint8), SIZE, "depth", targets=Targets(depth=depth), image_id="a")
    found = stats([sample, sample])
    assert found.decimetres == {12: 2 * 30 * 40, 125: 2 * 15 * 40} and not any(found.objects)
    told = found.to_dict()
    assert told["known_depth"] == 0.75
    assert told["metres"] == pytest.approx({"median": 1.2, "mean": (2 * 1.2 + 12.5) / 3, "max": 12.5})
    assert table(found)[-1] == "depth     median 1.2, mean 5.0, at most 12.5 metres; 75% of pixels known"
    bars_ = _by_metres(found.decimetres)
    between = dict.fromkeys(("2-4 m", "4-6 m", "6-8 m", "8-10 m", "10-12 m"), 0.0)
    assert bars_ == between | {"0-2 m": 66.7, "12-14 m": 33.3}
    assert chart(found, "depth").width > 100


def test_questions(tmp_path: Path) -> None:
    found = stats(_file(tmp_path, "vqa"))
    assert not found.objects and found.words == {2: 1} and found.answer_words == {3: 1}


def test_areas_of_label_maps() -> None:
    label_map = np.full(SIZE, -1, np.int16)
    label_map[:10], label_map[10:12, :3] = 1, 0
    sample = Sample(
        np.zeros((*SIZE, 3), np.uint8), SIZE, "semantic_segmentation", classes=("sky", "tree", "road"),
        targets=Targets(label_map=label_map), source="x#0", image_id="x",
    )  # fmt: skip
    found = stats([sample])
    assert found.classes == {"sky": 1, "tree": 1} and found.shares == [6 / 2400, 600 / 2400]


def test_coco_sizes_begin_where_coco_says() -> None:
    """pycocotools: small below 32^2, medium from there to 96^2, large from there."""
    sides = torch.tensor([31.9, 32.0, 95.9, 96.0])
    boxes = torch.stack([torch.zeros(4), torch.zeros(4), sides, sides], dim=1)
    targets = Targets(boxes, labels=torch.zeros(4, dtype=torch.long))
    found = stats([Sample(None, (100, 100), "detection", classes=("cup",), targets=targets, source="x#0")])
    assert found.areas == {"small": 1, "medium": 2, "large": 1} and found.images == 0


def test_bad_samples_are_counted(tmp_path: Path) -> None:
    samples = _file(tmp_path, "rec")
    (tmp_path / "b.png").unlink()
    found = stats(samples)
    assert (found.samples, found.bad) == (2, 1) and "1 bad" in table(found)[0]


def test_bins_hold_everything() -> None:
    rng = np.random.default_rng(0)
    counts = Counter(np.append(rng.integers(0, 90, 1000), [4000, 5000]).tolist())
    binned = _binned(counts)
    assert sum(binned.values()) == 1002 and len(binned) <= 16
    assert list(binned)[:2] == ["0-5", "6-11"] and list(binned)[-1] == "90+" and binned["90+"] == 2
    assert binned["6-11"] == sum(counts[n] for n in range(6, 12))
    assert _binned(Counter({0: 2, 3: 1})) == {"0": 2, "1": 0, "2": 0, "3": 1}


def test_shares_hold_everything() -> None:
    found = Stats(shares=[0.0, 0.0005, 0.001, 0.5, 1.0])
    assert found.share_counts() == {
        "0-0.1 %": 2, "0.1-0.3 %": 1, "0.3-1 %": 0, "1-3 %": 0, "3-10 %": 0, "10-30 %": 0, "30-100 %": 2,
    }  # fmt: skip


def test_many_classes_are_summed_up(tmp_path: Path) -> None:
    found = Stats(samples=1, classes=Counter({f"class {n}": n + 1 for n in range(MOST_CLASSES + 5)}))
    assert "5 others 15" in table(found)[-1]  # 1 + 2 + 3 + 4 + 5
    assert len(found.to_dict()["classes"]) == MOST_CLASSES + 5


@pytest.mark.parametrize("task", ["rec", "res", "detection", "vqa"])
def test_charts(task: str, tmp_path: Path) -> None:
    picture_ = chart(stats(_file(tmp_path, task)), task)
    assert picture_.mode == "RGB" and picture_.width > 500
    with pytest.raises(DataError, match="there is nothing to draw"):
        chart(Stats(), task)


def test_bars_are_as_long_as_their_numbers() -> None:
    picture_ = bars({"one": 1, "two": 2, "none": 0, "a name that is much too long for its place": 2}, title="title")
    blue = np.all(np.asarray(picture_) == (0, 114, 178), axis=-1)  # [H, W]
    lengths = [int(n) for n in blue.sum(1) if n]
    distinct = [n for k, n in enumerate(lengths) if not k or n != lengths[k - 1]]
    assert len(distinct) == 2 and abs(distinct[1] - 2 * distinct[0]) <= 2  # one; two and, after a gap, the last
    assert bars({}).height < 40
