"""Conversations and captions: turns, placeholders, filters, and every fault with its file and row."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.data_files import SIZE, picture, write_json, write_jsonl
from tests.data_files import coco_captions as captions_files
from tests.data_files.llava_instruct import chat, make, rows
from ufo_tune.core.types import NO_SIZE, Sample, Targets
from ufo_tune.datasets import coco_captions, llava_instruct, llava_onevision
from ufo_tune.datasets._chats import Chats
from ufo_tune.errors import ConfigError, DataError

REAL = os.environ.get("UFO_TUNE_REAL_DATA", "")
real = pytest.mark.skipif(not Path(REAL, "llamafactory_mllm_demo").is_dir(), reason="UFO_TUNE_REAL_DATA has no chats")


def _load(folder: Path, content: Any, **options: Any) -> Chats:
    picture(folder / "a.png")
    write_json(folder / "mix.json", content)
    return llava_instruct.load(str(folder), "mix", task="vqa", **options)


def _truth(sample: Sample) -> Targets:
    assert sample.targets is not None
    return sample.targets


def _said(sample: Sample) -> list[tuple[str, str]]:
    return [*sample.history, (sample.text, _truth(sample).text)]


def test_one_sample_per_conversation(tmp_path: Path) -> None:
    make(tmp_path)
    samples = llava_instruct.load(str(tmp_path), "mix", task="vqa")
    assert [_said(s) for s in samples] == [
        [("What is it?", "A cup.")],
        [("Is it red?", "Yes"), ("And blue?", "No"), ("Why so?", "Paint.")],
        [("Write <image src> in XML, too.", "Done.")],  # text only: words stay, but for the placeholder
        [("What?", "A cup")],  # the answer before the first question is left out
    ]
    assert [s.source for s in samples] == [f"llava_instruct/mix#{n}" for n in range(4)]
    assert list(samples.image_ids) == ["coco/train2017/a.png", "b.png", "llava_instruct/mix#2", "b.png"]
    assert [s.image_id for s in samples] == list(samples.image_ids)
    assert [s.size for s in samples] == [SIZE, SIZE, NO_SIZE, SIZE]
    assert samples[2].image is None and samples[0].image == tmp_path / "coco/train2017/a.png"
    assert samples.left_out == {}
    again = llava_instruct.load(str(tmp_path), "mix", task="vqa", text_only="drop")
    assert len(again) == 3 and again.left_out == {"text only": 1}


def test_a_folder_of_files(tmp_path: Path) -> None:
    from tests.data_files.llava_onevision import make

    make(tmp_path)
    samples = llava_onevision.load(str(tmp_path), "train", task="vqa")
    assert [s.source for s in samples] == ["llava_onevision/train#ai2d:1", "llava_onevision/train#vqa:0"]
    only = llava_onevision.load(str(tmp_path), "train", task="vqa", drop_suffixes=[".GIF"])
    assert [s.text for s in only] == ["What is it?"] and only.left_out == {".GIF": 1}
    cut = llava_onevision.load(str(tmp_path), "train", task="vqa", max_exchanges=1)
    assert _said(cut[1]) == [("How many?", "Two")]


def test_how_long_a_conversation_may_be(tmp_path: Path) -> None:
    content = [chat("a" * 5, "b" * 5, "c" * 10, "d", image="a.png"), chat("e" * 5, "f" * 5, image="a.png")]
    assert [len(_said(s)) for s in _load(tmp_path, content, max_chars=21)] == [2, 1]
    assert [len(_said(s)) for s in _load(tmp_path, content, max_chars=20)] == [1]
    assert [len(_said(s)) for s in _load(tmp_path, content, max_chars=20, max_exchanges=1)] == [1, 1]  # after the cut
    with pytest.raises(DataError, match=r"mix: no conversation is left \(got 2: \{'too long': 2\}\)"):
        _load(tmp_path, content, max_chars=3)


def test_empty_answers(tmp_path: Path) -> None:
    content = [chat("a", "b"), chat("a", "b", "c", " "), chat("c", "")]
    with pytest.raises(DataError, match=r"mix.json: row 1: an answer is empty \(got 2 such rows\); set empty_answers"):
        _load(tmp_path, content)
    assert _load(tmp_path, content, empty_answers="drop").left_out == {"empty answer": 2}
    assert len(_load(tmp_path, content, empty_answers="drop", max_exchanges=1)) == 2


def test_missing_images(tmp_path: Path) -> None:
    content = [chat("a", "b", image="ocr/gone.png"), chat("a", "b", image="a.png"), chat("a", "b")]
    with pytest.raises(DataError, match=r"^llava_instruct/mix#0: .*gone.png: no such image"):
        _load(tmp_path, content)[0]
    left = _load(tmp_path, content, missing_images="drop")
    assert [s.image_id for s in left] == ["a.png", "llava_instruct/mix#2"] and left.left_out == {"missing image": 1}


_TWO = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "has no conversations .got an empty object"),
        ({"conversations": []}, "has no conversations"),
        ({"conversations": "hi"}, "has no conversations"),
        ({"conversations": ["a", "b"]}, "turn 0: unknown role .got None.; use human, user, gpt"),
        ({"conversations": [{"from": "bot", "value": "a"}]}, "turn 0: unknown role .got 'bot'"),
        ({"conversations": [{"from": ["gpt"], "value": "a"}]}, r"turn 0: unknown role .got \['gpt'\]"),
        (chat("a", "b\ud800"), r"turn 1: holds half a letter .got 'b\\ud800'"),
        (chat("a", "b", image="\udc80.png"), "image is no path"),
        ({"conversations": [_TWO[0], {"from": "gpt", "value": 3}]}, "turn 1: is no text .got 3"),
        ({"conversations": _TWO[:1]}, "turns do not alternate .got question"),
        ({"conversations": _TWO[1:]}, "turns do not alternate .got none"),
        ({"conversations": [_TWO[0], *_TWO]}, "turns do not alternate .got question, question, answer"),
        ({"conversations": [*_TWO, _TWO[1]]}, "turns do not alternate .got question, answer, answer"),
        (chat("<image>\n", "b", image="a.png"), "question 0 is empty"),
        (chat("a", "b", " ", "d"), "question 1 is empty"),
        (chat("<image>\nWhat?", "b"), "asks about an image .got none"),
        (chat("a", "b", image=3), "image is no path .got 3"),
        (chat("a", "b", image=["a.png", "b.png"]), "shows several images .got 2"),
    ],
)
def test_malformed_rows(tmp_path: Path, row: Any, message: str) -> None:
    content = [chat("a", "b"), row, chat("c", "d")]
    with pytest.raises(DataError, match=rf"mix.json: row 1: {message}.*1 such rows; on_bad_sample: skip"):
        _load(tmp_path, content)
    left = _load(tmp_path, content, on_bad_sample="skip")
    assert [s.source for s in left] == ["llava_instruct/mix#0", "llava_instruct/mix#2"]
    assert left.left_out == {"malformed": 1}
    write_jsonl(tmp_path / "lines.jsonl", ["", *content])
    with pytest.raises(DataError, match=rf"lines.jsonl:3: {message}"):
        llava_instruct.load(str(tmp_path), "lines", task="vqa")


def test_lines_that_are_no_objects(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "mix.jsonl", [chat("a", "b"), "3"])
    with pytest.raises(DataError, match="mix.jsonl:2: is no object .got int"):
        llava_instruct.load(str(tmp_path), "mix", task="vqa")


def test_messages_style(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "<image>Who?"},
        {"role": "assistant", "content": "Kane."},
        {"role": "user", "content": "Where?<image>"},
        {"role": "assistant", "content": "Here."},
    ]
    samples = _load(tmp_path, [{"messages": messages, "images": ["a.png", "a.png"]}])
    assert _said(samples[0]) == [("Who?", "Kane."), ("Where?", "Here.")] and samples[0].image_id == "a.png"


def test_wrong_options(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="text_only: unknown .got 'dropp'.; did you mean 'drop'"):
        _load(tmp_path, rows(), text_only="dropp")
    with pytest.raises(DataError, match="absent: no such file or folder"):
        llava_instruct.load(str(tmp_path), "absent", task="vqa")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: has no JSON files"):
        llava_instruct.load(str(tmp_path), "empty", task="vqa")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '[{"a": 1}, {"a": }]', "cannot be read as JSON .got, at byte 17"),
        ("a.json", '[3, {"a": 1}]', "holds no objects"),
        ("a.json", "", "is empty"),
        ("a.jsonl", '{"conversations": }\n', ":1: is not valid JSON"),
        ("a.jsonl", b'{"a": "\xff"}\n', ":1: is not valid JSON"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(DataError, match=message):
        llava_instruct.load(str(tmp_path), "a", task="vqa")


@real
def test_real_messages() -> None:
    root = Path(REAL, "llamafactory_mllm_demo")
    samples = llava_instruct.load(str(root), "mllm_demo", task="vqa")
    native = json.loads((root / "mllm_demo.json").read_text(encoding="utf-8"))
    assert len(samples) == len(native) == 6
    for sample, row in zip(samples, native, strict=True):
        words = [m["content"].replace("<image>", "") for m in row["messages"]]
        assert [text for turn in _said(sample) for text in turn] == words
        assert sample.image == root / row["images"][0] and min(sample.size) > 100


@real
def test_real_llava_rows(tmp_path: Path) -> None:
    root = Path(REAL, "qwen3vl_finetune_demo")
    (tmp_path / "demo").symlink_to(root)  # where its paths say the images are
    samples = llava_instruct.load(str(root), "single_images", task="vqa", image_root=str(tmp_path))
    assert [_said(s) for s in samples] == [
        [("Is the value of Favorable 38 in 2015?", "Yes")],
        [("How many values are below 40 in Unfavorable graph?", "6")],
        [("In which year the value was 51?", "2014")],
    ]
    assert samples.image_ids == ("demo/images/10095.png", "demo/images/10095.png", "demo/images/10149.png")


def _captions(folder: Path, split: str, **options: Any) -> coco_captions.Captions:
    return coco_captions.load(str(folder), split, task="caption", **options)


@pytest.mark.parametrize("layout", ["karpathy", "blip"])
def test_captions(tmp_path: Path, layout: Any) -> None:
    captions_files.make(tmp_path)
    train = _captions(tmp_path, "train", layout=layout)
    assert [_truth(s).text for s in train] == ["A red cup.", "a cup on a table", "A plate."]
    assert [s.source for s in train] == [f"coco_captions/train#{n}" for n in ("9.0", "9.1", "42.0")]
    assert train.image_ids == ("9", "9", "42") and train[2].image == tmp_path / "val2014/COCO_val2014_000000000042.png"
    assert [s.text for s in train] == [""] * 3 and _truth(train[1]).references == ("a cup on a table",)
    test = _captions(tmp_path, "test", layout=layout)
    assert len(test) == 1 and test[0].source == "coco_captions/test#73" and test[-1].size == SIZE
    assert _truth(test[0]).references == ("Two motorcycles.", "A motorbike", "Wheels.")
    assert _truth(test[0]).text == "Two motorcycles."
    assert len(_captions(tmp_path, "train", layout=layout, per="image")) == 2
    assert len(_captions(tmp_path, "test", layout=layout, per="caption")) == 3


def test_captions_that_cannot_be_read(tmp_path: Path) -> None:
    captions_files.make(tmp_path)
    with pytest.raises(ConfigError, match="no such split .got 'tets'.; did you mean 'test'"):
        _captions(tmp_path, "tets")
    with pytest.raises(ConfigError, match="per: unknown .got 'images'.; did you mean 'image'"):
        _captions(tmp_path, "test", per="images")
    with pytest.raises(DataError, match="coco_karpathy_val.json: no such"):
        _captions(tmp_path, "val", layout="blip")
    with pytest.raises(DataError, match="where . should be"):
        _captions(tmp_path, "test", layout="blip", annotations="dataset_coco.json")
    with pytest.raises(DataError, match="where . should be"):
        _captions(tmp_path, "test", annotations="annotations/coco_karpathy_test.json")
    for raw in ([" "], [], [None]):
        data = captions_files.karpathy()
        data["images"][2]["sentences"] = [{"raw": r} for r in raw]
        write_json(tmp_path / "dataset_coco.json", data)
        with pytest.raises(DataError, match=r"dataset_coco.json: images\[2\]: a caption is no text"):
            _captions(tmp_path, "test")
    del data["images"][2]["sentences"]
    write_json(tmp_path / "dataset_coco.json", data)
    with pytest.raises(DataError, match=r"images\[2\]: lacks 'sentences'"):
        _captions(tmp_path, "test")
