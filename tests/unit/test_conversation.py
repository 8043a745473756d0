"""Conversations that point: objects follow the placeholders of all turns, and every slot is learnt where it stands."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny
from tests.spoken import CODECS, SIZE, codec_name, encode, shapes, spoken
from ufo_tune import plugins, templates
from ufo_tune.core import answers, masks
from ufo_tune.core.codec import Codec
from ufo_tune.core.types import IGNORE, PROMPT, Batch, Dialogue, Prediction, Sample, Targets
from ufo_tune.data.augment import Augment
from ufo_tune.data.collate import Collator
from ufo_tune.engine.predict import Predictor
from ufo_tune.engine.trainable import Trainable
from ufo_tune.errors import ConfigError, DataError
from ufo_tune.models.ufo import UfoModel

TASK = plugins.find("tasks", "conversation")
CODEC = Codec(num_bins=100, slot_side=2)
MASK = answers.slots(CODEC)
HISTORY = (("Where is the box?", "It is at <bbox>."), ("Segment the circle.", "<mask>"))
WORDS = (["Where is the box?", "Segment the circle.", "Describe the picture."], ["", "", "a box and a circle"])


def chat(size: tuple[int, int] = SIZE, **changes: object) -> Sample:
    """A box, then a mask, then a caption."""
    drawn = np.zeros((2, *size), dtype=bool)
    drawn[0, 4:12, 6:22] = True
    drawn[1, 20:38, 24:40] = True
    rles = masks.encode_many(drawn)
    truth = Targets(masks.boxes_of(rles), rles, torch.zeros(2, dtype=torch.long), text="a box and a circle")
    image = tiny.image(0, size)
    made = Sample(image, size, "conversation", "Describe the picture.", targets=truth, source="made#0", history=HISTORY)
    return made.with_(**changes)


def _said(dialogue: Dialogue) -> tuple[list[str | None], list[str | None]]:
    turns = [t.answers[0] for t in dialogue.turns]
    return [a.question or t.question for t, a in zip(dialogue.turns, turns, strict=True)], [a.text for a in turns]


def test_a_box_then_a_mask_then_a_caption() -> None:
    dialogue = encode(TASK, chat(), CODEC)
    # 6, 4, 22, 12 of 64 x 48 pixels in hundredths: 9.375, 8.33, 34.375, 25
    expected = ["It is at <box>9,8,34,25</box>.", MASK, "a box and a circle"]
    assert _said(dialogue) == (WORDS[0], expected)
    assert [len(t.answers[0].slots) for t in dialogue.turns] == [0, 1, 0]
    (slot,) = dialogue.turns[1].answers[0].slots
    np.testing.assert_array_equal(slot.target, masks.decode((chat().targets or Targets()).masks[1]))  # type: ignore[index]
    asked = encode(TASK, chat(), CODEC, None)
    assert _said(asked) == (WORDS[0], [*expected[:2], None])
    assert not any(t.answers[0].slots for t in asked.turns)


def test_a_question_points_too() -> None:
    """The box of a question comes before those of its answer; at inference it is given, the answer's is not read."""
    sample = chat(text="What is at <bbox>?", history=HISTORY[:1])
    questions, said = _said(encode(TASK, sample, CODEC))
    # 24, 20, 40, 38: 37.5 to even 38, 41.67, 62.5 to even 62, 79.17
    assert questions[1] == "What is at <box>38,42,62,79</box>?" and said[1] == "a box and a circle"
    boxes = (chat().targets or Targets()).boxes
    given = Targets(boxes, labels=torch.zeros(2, dtype=torch.long))  # no masks, no text
    assert _said(encode(TASK, sample.with_(targets=given), CODEC, None))[0] == questions
    with pytest.raises(DataError, match=r"made#0: the question points at object 1 .got 1 objects.; give"):
        one = Targets(boxes[:1], labels=torch.zeros(1, dtype=torch.long))
        encode(TASK, sample.with_(targets=one), CODEC, None)


@pytest.mark.parametrize("seed", [0, None])
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"text": "What is <mask>?"}, "the question points by <mask> .got 'What is <mask>"),
        ({"history": (("Is it <mask>?", "no"),)}, "the question of turn 0 points by <mask>"),
        ({"history": (("Where?", "<bbox><bbox><bbox>"),)}, "the answer of turn 0 points at object 2 .got 2 objects"),
        ({"history": (("Where?", "a <MASK>"),)}, "the answer of turn 0 spells the token <MASK>"),
        ({"history": (("Where?", "at <bbox></box>"),)}, "the answer of turn 0 spells the token </box>"),
        ({"history": (("Where?", " "),)}, "the answer of turn 0 is empty"),
        ({"image": None, "size": (0, 0)}, "the answer of turn 0 points at object 0 .got no image"),
    ],
)
def test_what_cannot_be_said(seed: int | None, changes: dict[str, object], says: str) -> None:
    with pytest.raises(DataError, match=f"^made#0: {says}"):
        encode(TASK, chat(**changes), CODEC, seed)


def test_objects_and_placeholders_are_counted_in_training() -> None:
    with pytest.raises(DataError, match=r"differ in number .got 2 objects for 1 of <bbox> and <mask>"):
        encode(TASK, chat(history=HISTORY[1:]), CODEC)
    with pytest.raises(DataError, match="has no masks"):
        truth = Targets((chat().targets or Targets()).boxes, labels=torch.zeros(2).long(), text="x")
        encode(TASK, chat(targets=truth), CODEC)
    with pytest.raises(ConfigError, match="template caption: asks its own question"):
        encode(TASK, chat(), CODEC, 0, "caption")


def test_words_without_places_are_as_in_vqa() -> None:
    sample = chat(history=(("what is red", "a circle"),), targets=Targets(text="two"))
    there = encode(plugins.find("tasks", "vqa"), sample, CODEC, 0, "conversation")
    assert encode(TASK, sample, CODEC) == there and not there.turns[-1].answers[0].phrase


@pytest.mark.parametrize("codec", CODECS, ids=codec_name)
def test_decode_gives_one_object_for_each_placeholder(codec: Codec) -> None:
    """Answer of boxes and several masks, spoken perfectly: the same words, each place in its turn."""
    rles = masks.encode_many(shapes(4))
    text = "one <mask>, two <bbox> and <bbox>: <mask>"
    truth = Targets(masks.boxes_of(rles), rles, torch.zeros(4).long(), text=text)
    sample = chat(targets=truth, history=())
    found = TASK.decode(spoken(encode(TASK, sample, codec), codec), sample, codec)
    assert found.text == text and found.invalid == 0 and found.masks is not None
    assert torch.allclose(found.scores, torch.full((4,), 0.9))
    areas = masks.area(found.masks).tolist()
    assert areas[1] == areas[2] == 0 and min(areas[0], areas[3]) > 0
    assert torch.equal(found.boxes[[0, 3]], masks.boxes_of([found.masks[0], found.masks[3]]))
    assert float((found.boxes - truth.boxes)[[1, 2]].abs().max()) <= max(SIZE) / codec.num_bins
    for k in (0, 3):
        overlap = float(masks.iou([found.masks[k]], [rles[k]])[0, 0])
        assert overlap == 1 if codec.slot_side == 4 else overlap > 0.75


def test_what_cannot_be_read_is_a_miss_in_its_place() -> None:
    answer = spoken(encode(TASK, chat(history=(), targets=Targets(text="x")), CODEC), CODEC)
    answer.texts = ("see <box>1,2</box> and <box>0,0,50,100</box>",)
    found = TASK.decode(answer, chat(), CODEC)
    assert found.text == "see <bbox> and <bbox>" and found.invalid == 1 and found.masks is None
    assert found.boxes.tolist() == [[0, 0, 0, 0], [0, 0, 32, 48]]
    without = TASK.decode(answer, chat(image=None, size=(0, 0)), CODEC)
    assert without.invalid == 1 and len(without.boxes) == 0


def test_augmentation_leaves_conversations_alone() -> None:
    sample = chat()
    assert Augment(flip=1.0, jitter=1.0)(np.zeros((*SIZE, 3), np.uint8), sample, np.random.default_rng(0))[1] is sample


@pytest.fixture(params=tiny.FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> UfoModel:
    return tiny.model(request.param, tmp_path)


def _batch(model: UfoModel, sample: Sample, train: bool, **template: object) -> Batch:
    words = templates.load("conversation").model_copy(update=template)
    collator = Collator(model.processor, TASK, words, model.codec, {})
    batch = collator.rows([(sample,)], np.random.default_rng(0) if train else None)
    assert batch is not None
    return batch


@pytest.mark.parametrize("position", ["before", "after"])
def test_every_turn_is_learnt_and_slots_of_earlier_ones_are_supervised(model: UfoModel, position: str) -> None:
    batch = _batch(model, chat((40, 56)), train=True, image_position=position)
    processor, labels = model.processor, batch.labels[0].tolist()
    runs = [list(run) for learnt, run in groupby(labels, lambda t: t != IGNORE) if learnt]
    assert len(runs) == 3 and all(run[-1] == processor.end_id for run in runs)
    assert runs[1][:-1] == [processor.mask_id] * model.codec.slot_tokens
    # The slots are those of the second turn, in the prompt, and what predicts each stands right before it.
    assert batch.slot_index.shape == (1, model.codec.slot_tokens) and batch.slot_kinds == ("mask",)
    slot = batch.slot_index[0]
    assert (batch.ids[0, slot + 1] == processor.mask_id).all() and (batch.segment[0, slot + 1] == PROMPT).all()
    assert torch.equal(slot, slot[0] + torch.arange(len(slot))) and batch.ids[0, slot[0]] != processor.mask_id
    target = batch.slot_targets[0]
    assert 0 < float(target.mean()) < 0.5
    trainable = Trainable(model, {"next_token": {}, "mask_retrieval": {}})
    terms = trainable(batch)
    assert all(torch.isfinite(t.total) and float(t.count) > 0 for t in terms.values()) and len(terms) >= 2
    sum(t.total / t.count for name, t in terms.items() if name != "next_token").backward()
    assert any(p.grad is not None and float(p.grad.abs().max()) > 0 for p in model.parameters())


def test_history_is_given_at_inference(model: UfoModel) -> None:
    """The prompt is the training row up to the last answer; earlier slots are words there, without targets."""
    learnt, asked = (_batch(model, chat((40, 56)), train) for train in (True, False))
    assert asked.ids[0].tolist() == learnt.ids[0, : asked.ids.shape[1]].tolist()
    assert int((asked.ids == model.processor.mask_id).sum()) == model.codec.slot_tokens
    assert len(asked.slot_index) == len(asked.slot_targets) == len(asked.slot_owner) == 0


def test_a_predictor_goes_on(tmp_path: Path) -> None:
    """What was said is given back as it came: texts as history, boxes in one list."""
    predictor = Predictor(tiny.model("llava", tmp_path))
    image = tiny.image(0)
    first = predictor(image, "conversation", text="Where is it?")
    assert isinstance(first, Prediction)
    said = [("Where is it?", "At <bbox>, so <mask>.")]
    ones = [[3.0, 4, 20, 30], [5, 6, 15, 18]]
    more = predictor(image, "conversation", text="Segment it.", history=said, boxes=torch.tensor(ones))
    again = predictor(image, "conversation", text="What is at <bbox>?", history=said, boxes=[*ones, [1.0, 1, 9, 9]])
    for found in (more, again):
        assert len(found.boxes) == len(found.scores) and (found.boxes >= 0).all()
    with pytest.raises(DataError, match="points at object 2 .got 2 objects"):
        predictor(image, "conversation", text="What is at <bbox>?", history=said, boxes=ones)
    assert predictor(image, "caption").text is not None
