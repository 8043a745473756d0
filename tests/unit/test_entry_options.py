"""Options of a mixture entry: part names, instances out of label maps, negatives of federated data, realised shares."""

from __future__ import annotations

import itertools
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from tests.spoken import CLASSES, encode, sample_of
from ufo_tune import plugins
from ufo_tune.config import Recipe
from ufo_tune.core import masks
from ufo_tune.core.codec import Codec
from ufo_tune.core.types import Sample, Targets
from ufo_tune.data.from_labels import FromLabels
from ufo_tune.data.parts import PartNames
from ufo_tune.engine.sources import Sources
from ufo_tune.errors import ConfigError

CODEC = Codec(num_bins=256)
PIXELS = np.zeros((4, 6, 3), np.uint8)


# --- part names


def _parts(style: str, sample: Sample, seed: int = 0) -> tuple[str, ...]:
    return PartNames(style, [sample])(PIXELS, sample, np.random.default_rng(seed))[1].classes


def test_part_names() -> None:
    sample = Sample(PIXELS, (4, 6), "detection", classes=("dog:left ear", "cup", "trash_can:rim", "car: door"))
    assert _parts("object_part", sample) == ("dog left ear", "cup", "trash_can rim", "car door")
    assert _parts("part_of_object", sample) == (
        "the left ear of the dog", "cup", "the rim of the trash_can", "the door of the car"
    )  # fmt: skip
    seen = Counter(_parts("both", sample, seed)[0] for seed in range(400))
    assert set(seen) == {"dog left ear", "the left ear of the dog"} and abs(seen["dog left ear"] - 200) < 40


def test_part_names_keep_labels_and_rename_what_is_absent() -> None:
    sample = Sample(PIXELS, (4, 6), "detection", classes=("dog:ear", "cup:rim", "dog"), absent=("cup:rim",))
    sample = sample.with_(targets=Targets(torch.ones(1, 4), None, torch.tensor([2])))
    image, named = PartNames("part_of_object", [sample])(PIXELS, sample, np.random.default_rng(0))
    assert image is PIXELS and named.targets is sample.targets
    assert named.absent == ("the rim of the cup",)
    assert named.classes[2] == "dog"


def test_part_names_need_parts() -> None:
    sample = Sample(PIXELS, (4, 6), "detection", classes=("dog", "a:", ":b"))
    with pytest.raises(ConfigError, match=r"data\.mixture\.2\.part_names: no class is written object:part"):
        PartNames("both", [sample], where="data.mixture.2")
    with pytest.raises(ConfigError, match="part_names: unknown"):
        PartNames("nose", [sample])


# --- instances out of label maps


class Maps(list):
    """A dataset of label maps."""

    image_ids = ("a", "b")

    def class_lists(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array([0, 1, 1]), np.array([2, 3])


def _map(rows: list[str]) -> Sample:
    """Digits are classes, a dot is unlabelled."""
    label_map = np.array([[-1 if c == "." else int(c) for c in row] for row in rows], dtype=np.int16)
    image = np.zeros((*label_map.shape, 3), np.uint8)
    return Sample(
        image, label_map.shape, "semantic_segmentation", classes=("sky", "tree"), targets=Targets(label_map=label_map)
    )


def test_from_labels() -> None:
    maps = Maps([_map(["0011", "0.11", "1110"]), _map(["1111", "1111", "...."])])
    by_class = FromLabels(maps, "classes")
    assert len(by_class) == 2 and by_class.image_ids == ("a", "b")
    assert by_class.class_lists()[1].tolist() == [2, 3]
    first = by_class[0]
    assert first.task == "instance_segmentation" and first.targets is not None and first.targets.masks is not None
    assert first.targets.labels.tolist() == [0, 1]
    assert masks.decode(first.targets.masks[0]).astype(int).tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
    pieces = FromLabels(maps, "components")[0].targets
    assert pieces is not None and pieces.labels.tolist() == [0, 0, 1]  # the trees touch at a corner
    assert [s.task for s in by_class[:]] == ["instance_segmentation"] * 2
    with pytest.raises(IndexError):
        by_class[2]


def test_from_labels_says_only_what_the_dataset_says() -> None:
    plain = FromLabels([_map(["01"])], "classes")
    assert not hasattr(plain, "image_ids") and not hasattr(plain, "class_lists")
    assert len(pickle.loads(pickle.dumps(plain))) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "detection", "from_labels": "classes"}, "from_labels makes instances .got task detection"),
        ({"pack": 2, "copy_paste": 0.5}, "copy_paste and pack do not go together"),
        ({"pack": 2, "repeat_threshold": 0.1}, "repeat_threshold and pack do not go together"),
        ({"copy_paste": 1.5}, "copy_paste"),
        ({"part_names": "upside down"}, "part_names"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    entry = {"task": "instance_segmentation", "dataset": "coco", **options}
    with pytest.raises(ConfigError, match=message):
        Recipe.from_dict({"model": {"base": "tiny:llava"}, "data": {"mixture": [entry]}})


# --- negatives of data that is not exhaustive


NAMES = tuple(f"class {i:02}" for i in range(50))


def _asked(name: str, sample: Sample, seed: int = 0, **options: Any) -> tuple[set[str], int]:
    """The classes that a question lists, and its answers."""
    turn = encode(plugins.find("tasks", name), sample, CODEC, seed, "scenes_" + name, **options).turns[0]
    return set(turn.question.partition(" ")[2].split(",")) - {""}, len(turn.answers)


@pytest.mark.parametrize("name", ["detection", "instance_segmentation"])
def test_only_verified_classes_are_asked_in_vain(name: str) -> None:
    verified = ("class 07", "class 30", "class 01", "no such class", " class 44 ")
    sample = sample_of(name, 2).with_(classes=NAMES, absent=verified)  # holds 00 and 01
    for probability in (0.0, 1.0):  # the full list is never asked
        asked, answers = _asked(name, sample, sample_prob=probability)
        assert asked == {"class 00", "class 01", "class 07", "class 30", "class 44"} and answers == 40
    few = {frozenset(_asked(name, sample, seed, absent=1)[0] - {"class 00", "class 01"}) for seed in range(30)}
    assert {len(one) for one in few} == {2} and frozenset.union(*few) == {"class 07", "class 30", "class 44"}


@pytest.mark.parametrize("name", ["detection", "instance_segmentation"])
def test_nothing_may_be_asked_in_vain(name: str) -> None:
    sample = sample_of(name, 2).with_(classes=NAMES, absent=())
    assert _asked(name, sample) == ({"class 00", "class 01"}, 40)
    nothing = sample_of(name, 0).with_(classes=NAMES, absent=())
    assert _asked(name, nothing) == (set(), 0)  # no answer, so no "background" that nobody looked for
    assert _asked(name, nothing.with_(absent=("class 09",)), absent=0) == ({"class 09"}, 40)
    assert _asked(name, nothing.with_(absent=None))[1] == 40
    assert _asked(name, nothing, negatives="any") == (set(NAMES), 40)
    inference = encode(plugins.find("tasks", name), nothing, CODEC, None)
    assert len(inference.turns[0].answers) == 100


def test_negatives_are_named() -> None:
    with pytest.raises(ConfigError, match="negatives is unknown"):
        _asked("detection", sample_of("detection"), negatives="all")


def test_nobody_says_background_where_nothing_is_known() -> None:
    sample = sample_of("instance_segmentation", 1)
    right = np.zeros(sample.size, dtype=bool)
    right[:, sample.size[1] // 2 :] = True
    targets = sample.targets
    assert targets is not None
    sample = sample.with_(targets=Targets(targets.boxes, targets.masks, targets.labels, ignore=masks.encode(right)))
    said = encode(plugins.find("tasks", "instance_segmentation"), sample, CODEC, keep=100).turns[0].answers
    assert len(said) == 50 and all(a.point is not None and a.point[0] < 0.5 for a in said)


# --- all of it in a stream of batches


TASKS = ("detection", "instance_segmentation", "semantic_segmentation", "vqa")


def load(root: str, split: str, *, task: str) -> Any:
    """This file as a dataset: forty pictures, a few of which say nothing that could be learnt."""
    if task == "semantic_segmentation":
        return Maps([_map(["0011", "0.11", "1110"]), _map(["1111", "1111", "...."])])
    if task == "vqa":
        return [sample_of("vqa").with_(text="how many?", classes=())] * 4
    known = [sample_of(task, 1 + i % 3).with_(source=f"made#{i}", absent=CLASSES[1 + i % 3 :]) for i in range(36)]
    return [*known, *(sample_of(task, 0).with_(source=f"made#{i}", absent=()) for i in range(36, 40))]


def _sources(folder: Path, entries: list[dict[str, Any]], **train: Any) -> Sources:
    here = [{"dataset": __name__, **entry} for entry in entries]
    document = {"model": {"base": "tiny:llava"}, "data": {"mixture": here}, "train": {"seed": 1, **train}}
    built = tiny.model("llava", folder, words=[*CLASSES, "sky", "tree", "how", "many", "detect", "segment"])
    return Sources(Recipe.from_dict(document), built)


def test_rows_without_answers_are_left_out_and_counted(tmp_path: Path) -> None:
    entries = [{"task": "instance_segmentation", "copy_paste": 0.5}]
    sources = _sources(tmp_path, entries, per_device_train_batch_size=4)
    batches = list(itertools.islice(sources.loader, 10))  # one epoch
    assert all(count > 0 for b in batches for row in b.answer_counts for count in row)
    assert sum(len(b.ids) for b in batches) == 36 and sources.loader.dropped == (4,)
    objects = [len(row[0].targets.boxes) for b in batches for row in b.samples]  # type: ignore[union-attr]
    assert sum(objects) > 36 * 2  # 1, 2 and 3 of each: some were pasted
    for sample in (row[0] for b in batches for row in b.samples):
        assert sample.targets is not None and sample.absent is not None
        assert {CLASSES[k] for k in sample.targets.labels.tolist()}.isdisjoint(sample.absent)


def test_label_maps_are_trained_on_as_instances(tmp_path: Path) -> None:
    sources = _sources(tmp_path, [{"task": "instance_segmentation", "from_labels": "components"}])
    batch = next(iter(sources.loader))
    assert batch.samples[0][0].task == "instance_segmentation" and len(batch.slot_targets) >= 2


def test_options_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.mixture\.1\.part_names: no class is written object:part"):
        _sources(tmp_path, [{"task": "vqa"}, {"task": "detection", "part_names": "both"}])
    with pytest.raises(ConfigError, match=r"data\.mixture\.0\.copy_paste: pasted objects would change"):
        _sources(tmp_path, [{"task": "vqa", "copy_paste": 0.1}])
    with pytest.raises(ConfigError, match="has no task 'rec'"):
        _sources(tmp_path, [{"task": "rec"}])


def test_shares_are_told_by_entry_and_task(tmp_path: Path) -> None:
    entries = [
        {"task": "vqa", "name": "replay", "weight": 2},
        {"task": "detection"},
        {"task": "instance_segmentation"},
        {"task": "detection"},
    ]
    sources = _sources(tmp_path, entries)
    assert set(sources.shares().values()) == {0.0}
    batches = list(itertools.islice(sources.loader, 50))
    seen = Counter(b.samples[0][0].task for b in batches)
    shares = sources.shares()
    assert list(shares) == ["replay", *(f"{t}/{__name__}/train" + n for t, n in (
        ("detection", "#1"), ("instance_segmentation", ""), ("detection", "#3")
    ))]  # fmt: skip
    assert shares["replay"] == seen["vqa"] / 50 and sum(shares.values()) == pytest.approx(1)
    line = sources.summary()
    assert line.startswith(f"50 batches: vqa {seen['vqa'] / 50:.1%}, detection {seen['detection'] / 50:.1%}, ")
    assert f"; replay {seen['vqa'] / 50:.1%}, " in line and "\n" not in line
