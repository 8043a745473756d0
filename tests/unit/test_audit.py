"""Images of evaluation in training data: names, looks, and what is left out."""

from __future__ import annotations

import itertools
import os
import pickle
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw

from tests.data_files import picture, write_jsonl
from ufo_tune.config import Recipe
from ufo_tune.core.lazy import Lazy
from ufo_tune.core.types import Sample
from ufo_tune.data import audit
from ufo_tune.data.audit import Kept, image_key, near_pairs, perceptual_hash, same_picture, shared_images, without
from ufo_tune.datasets import jsonl
from ufo_tune.engine.sources import open_entries
from ufo_tune.engine.suites import Held
from ufo_tune.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("COCO_train2014_000000580957.jpg", "580957"),
        ("COCO_train2014_000000580957_4", "580957"),
        ("COCO_val2014_000000000042_0.jpg", "42"),
        ("train2017/000000580957.jpg", "580957"),
        ("000000580957", "580957"),
        ("580957", "580957"),
        (Path("/data/coco/train2017/000000580957.jpg"), "580957"),
        ("a\\b\\0007.PNG", "7"),
        ("000.png", "0"),
        ("images/ADE_val_00000001.jpg", "ADE_val_00000001"),
        ("photo.v2.jpeg", "photo.v2"),
        ("folder/photo_12.jpg", "photo_12"),  # no number alone, and not COCO's
        ("scenes/0/128/6/val#12", "scenes/0/128/6/val#12"),
        ("scan.2024", "scan.2024"),
        (".jpg", ".jpg"),
        ("", ""),
    ],
)
def test_names_of_one_image_have_one_key(name: str | Path, key: str) -> None:
    assert image_key(name) == key


def _drawing(path: Path, seed: int, size: tuple[int, int] = (480, 640)) -> Path:
    """Something with large shapes, as photographs have."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", size[::-1], tuple(rng.integers(0, 256, 3).tolist()))
    pen = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = rng.integers(0, size[1]), rng.integers(0, size[0])
        r = rng.integers(30, 200)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=tuple(rng.integers(0, 256, 3).tolist()))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def test_the_look_survives_what_happens_to_files_and_tells_pictures_apart(tmp_path: Path) -> None:
    original = _drawing(tmp_path / "a.png", 0)
    with Image.open(original) as image:
        image.save(tmp_path / "jpeg.jpg", quality=40)
        image.resize((200, 150)).save(tmp_path / "small.png")
        image.convert("L").save(tmp_path / "grey.png")
        image.rotate(90, expand=True).save(tmp_path / "turned.jpg", exif=_turned())
    look = perceptual_hash(original)
    for copy in ("jpeg.jpg", "small.png", "grey.png", "turned.jpg"):
        assert (perceptual_hash(tmp_path / copy) ^ look).bit_count() <= audit.LOOK_BITS, copy
    others = [perceptual_hash(_drawing(tmp_path / f"{seed}.png", seed)) for seed in range(1, 20)]
    distances = [(a ^ b).bit_count() for a, b in itertools.combinations([look, *others], 2)]
    assert min(distances) > audit.NAMED_BITS


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[274] = 6
    return exif


def test_near_pairs_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    a = [int(v) for v in rng.integers(0, 2**63, 40)]
    b: list[int | None] = [v ^ int(m) for v, m in zip(a[:10], (1 << np.arange(10)).tolist(), strict=True)]
    b += [int(v) for v in rng.integers(0, 2**63, 20)] + [None, a[3]]
    expected = {
        (i, j): (x ^ y).bit_count()
        for i, x in enumerate(a)
        for j, y in enumerate(b)
        if y is not None and (x ^ y).bit_count() <= 22
    }
    assert len(expected) > 11  # also by chance
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "_BLOCK", 64)  # several blocks
        assert near_pairs(a, b, 22) == expected
    assert near_pairs([None], b, 64) == {} and near_pairs(a, [], 64) == {}


def _file(folder: Path, name: str, images: Sequence[str], task: str = "rec") -> jsonl.Jsonl:
    rows = [{"image": i, "objects": {"ref": [f"thing {n}"], "bbox": [[5, 6, 15, 18]]}} for n, i in enumerate(images)]
    write_jsonl(folder / f"{name}.jsonl", rows)
    return jsonl.load(str(folder), name, task=task)


def test_equal_names_count_only_for_equal_pictures(tmp_path: Path) -> None:
    picture(tmp_path / "train2017" / "000000000007.jpg", 7)
    shutil.copy(tmp_path / "train2017" / "000000000007.jpg", tmp_path / "COCO_train2014_000000000007_1.jpg")
    picture(tmp_path / "a" / "0001.png", 1)
    picture(tmp_path / "b" / "0001.png", 2)  # another picture
    train = _file(tmp_path, "train", ["train2017/000000000007.jpg", "a/0001.png"])
    val = _file(tmp_path, "val", ["COCO_train2014_000000000007_1.jpg", "b/0001.png"])
    assert shared_images(train, val) == {"train2017/000000000007.jpg"}
    (tmp_path / "COCO_train2014_000000000007_1.jpg").unlink()
    assert shared_images(train, val) == {"train2017/000000000007.jpg"}  # what cannot be looked at stays out
    assert not same_picture(None, tmp_path / "a" / "0001.png")


def test_each_picture_of_a_name_is_looked_at(tmp_path: Path) -> None:
    """Two folders of ours and of theirs number their pictures alike, and the later ones are the same."""
    for number, folder in enumerate("abcd"):
        _drawing(tmp_path / folder / "0001.png", number)
    shutil.copy(tmp_path / "b" / "0001.png", tmp_path / "d" / "0001.png")
    train = _file(tmp_path, "train", ["a/0001.png", "b/0001.png", "b/0001.png"])
    val = _file(tmp_path, "val", ["c/0001.png", "d/0001.png"])
    assert shared_images(train, val) == {"b/0001.png"}
    kept, dropped = without(train, shared_images(train, val))
    assert dropped == 2 and [s.image_id for s in kept] == ["a/0001.png"]
    found = audit.audit(train, val)
    assert (found.images, found.held_images, found.samples, found.other_pictures) == (2, 2, 2, 1)
    assert [(o.ours.split("(")[1], o.theirs.split("(")[1]) for o in found.overlaps] == [
        (f"{tmp_path / 'b' / '0001.png'})", f"{tmp_path / 'd' / '0001.png'})")
    ]


@dataclass(frozen=True)
class Listed(Lazy[Sample]):
    """Samples that say what they are of, as large datasets do."""

    ids: tuple[str, ...]
    classes: tuple[tuple[int, ...], ...] = ()

    @property
    def image_ids(self) -> tuple[str, ...]:
        return self.ids

    def class_lists(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array(sum(self.classes, ())), np.cumsum([len(c) for c in self.classes])

    def __len__(self) -> int:
        return len(self.ids)

    def _make(self, number: int) -> Sample:
        return Sample(None, (0, 0), "vqa", source=f"x#{number}", image_id=self.ids[number])


def test_what_is_left_keeps_order_ids_and_classes() -> None:
    samples = Listed(("a.jpg", "b.jpg", "a.jpg", "c.jpg"), ((1, 2), (), (3,), (4, 4, 5)))
    kept, dropped = without(samples, {"b.jpg"})
    assert dropped == 1 and [s.source for s in kept] == ["x#0", "x#2", "x#3"]
    assert [s.source for s in kept[-2:]] == ["x#2", "x#3"] and kept[-1].source == "x#3"
    assert isinstance(kept, Kept) and kept.image_ids == ("a.jpg", "a.jpg", "c.jpg")
    classes, ends = kept.class_lists()
    assert classes.tolist() == [1, 2, 3, 4, 4, 5] and ends.tolist() == [2, 3, 6]
    again = pickle.loads(pickle.dumps(kept))
    assert again.image_ids == kept.image_ids and len(again) == 3
    with pytest.raises(IndexError):
        kept[3]
    assert without(samples, {"d.jpg"}) == (samples, 0)
    plain, _ = without([s.with_() for s in samples], {"b.jpg"})  # a list says nothing of all its samples
    assert len(plain) == 3 and not hasattr(plain, "class_lists") and not hasattr(plain, "image_ids")


def test_audit_finds_copies_under_other_names(tmp_path: Path) -> None:
    for number in range(4):
        _drawing(tmp_path / "t" / f"{number}.png", number)
    with Image.open(tmp_path / "t" / "1.png") as image:
        (tmp_path / "v").mkdir()
        image.resize((320, 240)).save(tmp_path / "v" / "renamed.jpg", quality=60)
    shutil.copy(tmp_path / "t" / "2.png", tmp_path / "v" / "2.png")
    _drawing(tmp_path / "v" / "3.png", 33)
    train = _file(tmp_path, "train", ["t/0.png", "t/1.png", "t/1.png", "t/2.png", "t/3.png"])
    val = _file(tmp_path, "val", ["v/renamed.jpg", "v/2.png", "v/3.png"])
    found = audit.audit(train, val)
    assert (found.images, found.held_images, found.samples) == (4, 3, 3)
    assert (found.other_pictures, found.unreadable) == (1, 0)
    assert [(o.ours.split("/")[-1], o.theirs.split("/")[-1], o.by_name) for o in found.overlaps] == [
        ("1.png)", "renamed.jpg)", False),
        ("2.png)", "2.png)", True),
    ]
    assert found.overlaps[1].bits == 0 and "train.jsonl:4" in str(found.overlaps[1])
    (tmp_path / "v" / "2.png").unlink()
    gone = audit.audit(train, val)
    assert gone.unreadable == 1 and gone.overlaps[1].bits is None  # by name only
    assert "not opened" in str(gone.overlaps[1])


def test_pairs_are_no_pictures_and_text_is_none(tmp_path: Path) -> None:
    """Two of ours, each like the same two of theirs: four pairs, two pictures. Words show none, and hide none."""
    for name in ("a", "b"):
        picture(tmp_path / f"{name}.png", 1)
        shutil.copy(tmp_path / f"{name}.png", tmp_path / f"other_{name}.png")
    picture(tmp_path / "c.png", 2)
    words = {"question": "why?", "answer": "so", "task": "vqa"}
    for name, images in (("train", ["a.png", "b.png", "c.png"]), ("val", ["other_a.png", "other_b.png"])):
        write_jsonl(tmp_path / f"{name}.jsonl", [words, *({**words, "image": image} for image in images), words])
    train, val = (jsonl.load(str(tmp_path), name, task="vqa") for name in ("train", "val"))
    found = audit.audit(train, val)
    assert (len(found.overlaps), found.shared, found.to_dict()["shared"]) == (4, 2, 2)
    assert (found.images, found.held_images, found.samples, found.unreadable) == (3, 2, 2, 0)


def _recipe(folder: Path, **data: Any) -> Recipe:
    protocol = {"task": "rec", "dataset": "jsonl", "root": str(folder), "splits": ["val"], "metric": "rec_accuracy"}
    away = protocol | {"root": str(folder / "absent")}
    for name, document in (("mine", protocol), ("away", away)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(document))
    return Recipe.from_dict(
        {
            "model": {"base": "tiny:llava"},
            "data": {"mixture": [{"task": "rec", "dataset": "jsonl", "root": str(folder)}], **data},
            "eval": {"protocols": [str(folder / "mine.yaml"), str(folder / "away.yaml")]},
        }
    )


def test_training_leaves_out_images_of_evaluation_and_says_how_many(tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / f"{number}.png", number)
    _file(tmp_path, "train", ["0.png", "1.png", "1.png", "2.png"])
    _file(tmp_path, "val", ["1.png"])
    (samples,), lines = open_entries(_recipe(tmp_path))
    assert [s.text for s in samples] == ["thing 0", "thing 3"]
    missing, said = lines
    assert said == "2 of 4 samples of data.mixture.0 show images of mine:val; left out"
    assert missing.startswith("away:val: cannot be opened") and "absent" in missing
    (everything,), lines = open_entries(_recipe(tmp_path, exclude_eval=False))
    assert len(everything) == 4 and lines == []
    _file(tmp_path, "val", ["0.png", "1.png", "2.png"])
    with pytest.raises(ConfigError, match=r"data.mixture.0: every sample shows an image held .*exclude_eval: false"):
        open_entries(_recipe(tmp_path))


def test_an_image_of_two_protocols_is_counted_once(tmp_path: Path) -> None:
    for number in range(2):
        picture(tmp_path / f"{number}.png", number)
    train, val = _file(tmp_path, "train", ["0.png", "1.png"]), _file(tmp_path, "val", ["1.png"])
    kept, lines = Held({"a:val": val, "b:val": val}, {}).leave_out("entry", train)
    assert len(kept) == 1 and lines == ["1 of 2 samples of entry show images of a:val; left out"]


def test_an_unset_variable_only_hides_its_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UFO_TUNE_REAL_DATA", raising=False)
    held = Held.of("coco128_boxes")
    ((name, why),) = held.missing.items()
    assert not held.samples and name.startswith("coco128_boxes:") and "UFO_TUNE_REAL_DATA" in why
    assert Held.of(()) == Held({}, {})


def test_the_quickstart_loses_nothing() -> None:
    recipe = Recipe.load("quickstart")
    opened, lines = open_entries(recipe)
    assert lines == []
    assert [len(s) for s in opened] == [80000, 80000, 10000, 10000, 140000]  # scenes times phrases or questions
    assert not any(isinstance(s, Kept) for s in opened)


def test_real_photographs(tmp_path: Path) -> None:
    root = os.environ.get("UFO_TUNE_REAL_DATA")
    if not root or not (Path(root) / "coco128").is_dir():
        pytest.skip("UFO_TUNE_REAL_DATA has no coco128")
    files = sorted((Path(root) / "coco128" / "images").rglob("*.jpg"))
    looks = [perceptual_hash(path) for path in files]
    assert {i for i, j in near_pairs(looks, looks, audit.LOOK_BITS) if i != j} == set()
    for path, look in zip(files[:20], looks, strict=False):
        with Image.open(path) as image:
            image.resize((336, 336)).save(tmp_path / "copy.jpg", quality=50)
        assert (perceptual_hash(tmp_path / "copy.jpg") ^ look).bit_count() <= audit.LOOK_BITS, path
