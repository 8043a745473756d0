"""``pope``, ``vqa_v2`` and ``gqa``: questions with short answers, out of their native files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.data_files import gqa as gqa_files
from tests.data_files import make, picture, write_json, write_jsonl
from tests.data_files import pope as pope_files
from tests.data_files import vqa_v2 as vqa_files
from ufo_tune.datasets import gqa, pope, vqa_v2
from ufo_tune.errors import ConfigError, DataError


def test_pope_reads_each_split(tmp_path: Path) -> None:
    root, _, _ = make("pope", tmp_path)
    for split in ("random", "popular", "adversarial"):
        samples = pope.load(root, split, task="vqa")
        wanted = pope_files.rows(split)
        assert [(s.text, s.targets.text) for s in samples] == [(r["text"], r["label"]) for r in wanted]
        assert samples[3].source == f"pope/{split}#3" and samples[3].image_id == "COCO_val2014_000000008211"
        assert samples[3].targets.references == ("no",)
        assert samples[0].image_id == samples[1].image_id != samples[2].image_id


def test_pope_finds_the_repository_and_images_elsewhere(tmp_path: Path) -> None:
    write_json(tmp_path / "repo" / "output" / "coco" / "coco_pope_random.json", pope_files.rows("random")[0])
    picture(tmp_path / "coco" / "val2014" / pope_files.IMAGES[0])
    place = tmp_path / "coco" / "val2014"
    samples = pope.load(str(tmp_path / "repo"), "random", task="vqa", image_dir=str(place))
    assert len(samples) == 1 and samples[0].image == place / pope_files.IMAGES[0]


def line(**changes: object) -> str:
    return json.dumps({"question_id": 7, "image": "a.jpg", "text": "?", "label": "no"} | changes)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", r"random\.json:2: is not valid JSON"),
        ('"text"', r"random\.json:2: 'label' is not a text"),
        (line(label="maybe"), "neither yes nor no .got 'maybe'"),
        (line(question_id=True), "'question_id' is not a whole number"),
        (line(text=" "), "pope/random#7: the question or an answer has no words"),
    ],
)
def test_pope_refuses_bad_lines(tmp_path: Path, bad: str, message: str) -> None:
    root, _, _ = make("pope", tmp_path)
    write_jsonl(tmp_path / "coco_pope_random.json", [pope_files.rows("random")[0], bad])
    with pytest.raises(DataError, match=message):
        pope.load(root, "random", task="vqa")


def test_pope_has_three_splits(tmp_path: Path) -> None:
    root, _, _ = make("pope", tmp_path)
    with pytest.raises(ConfigError, match="no such choice .got 'adverserial'.*adversarial"):
        pope.load(root, "adverserial", task="vqa")


def test_vqa_v2_joins_both_files_by_id(tmp_path: Path) -> None:
    root, split, _ = make("vqa_v2", tmp_path)
    samples = vqa_v2.load(root, split, task="vqa")
    assert [s.source for s in samples] == [f"vqa_v2/val2014#{id}" for id in vqa_files.SAID]
    for sample, (image, question, said) in zip(samples, vqa_files.SAID.values(), strict=True):
        assert sample.text == question and sample.image_id == f"COCO_val2014_{image:012d}"
        assert sorted(sample.targets.references) == sorted(said)
    # Counted by hand: seven say down, two up, one ramp.
    assert samples[0].targets.references == ("down",) * 7 + ("up",) * 2 + ("ramp",)
    assert [s.targets.text for s in samples] == ["down", "watching", "no"]


def test_vqa_v2_refuses_answers_to_nothing_and_missing_files(tmp_path: Path) -> None:
    root, split, _ = make("vqa_v2", tmp_path)
    asked = vqa_files.questions()
    asked["questions"].pop()
    write_json(tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json", asked)
    with pytest.raises(DataError, match=r"annotations\[0\]: answers a question that is not asked .got 262148000"):
        vqa_v2.load(root, split, task="vqa")
    with pytest.raises(DataError, match="v2_OpenEnded_mscoco_test2015_questions.json"):
        vqa_v2.load(root, "test2015", task="vqa")
    with pytest.raises(ConfigError, match="vqa_v2: no such task"):
        vqa_v2.load(root, split, task="rec")


def test_gqa_reads_the_object_of_questions(tmp_path: Path) -> None:
    root, split, _ = make("gqa", tmp_path)
    samples = gqa.load(root, split, task="vqa")
    found = {s.source.split("#")[1]: (s.image_id, s.text, s.targets.text) for s in samples}
    assert found == gqa_files.ASKED
    broken = gqa_files.questions()
    del broken["201640614"]["answer"]
    write_json(tmp_path / "testdev_balanced_questions.json", broken)
    with pytest.raises(DataError, match="201640614: 'answer' is not a text"):
        gqa.load(root, split, task="vqa")


def test_a_missing_image_names_its_question(tmp_path: Path) -> None:
    root, split, _ = make("gqa", tmp_path)
    (tmp_path / "images" / "n161313.jpg").unlink()
    with pytest.raises(DataError, match="gqa/testdev_balanced#201307251: "):
        gqa.load(root, split, task="vqa")[0]
