"""Conversations: earlier turns are learnt in training, given at inference, and never packed."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from tests import tiny
from tests.spoken import encode, sample_of
from ufo_tune import plugins, templates
from ufo_tune.core.codec import Codec
from ufo_tune.core.types import IGNORE, NO_SIZE, PROMPT, Dialogue, Sample, Targets
from ufo_tune.data.collate import Collator, pack
from ufo_tune.errors import ConfigError, DataError
from ufo_tune.models import llava
from ufo_tune.models.released import llava as released
from ufo_tune.models.ufo import UfoModel
from ufo_tune.templates import Template

VQA = plugins.find("tasks", "vqa")
CODEC = Codec(num_bins=100, slot_side=2)
HISTORY = (("what is red", " a circle "), ("where is the square", "background"))
AFTER = templates.load("vqa").model_copy(update={"image_position": "after"})


def _chat(**changes: object) -> Sample:
    return sample_of("vqa").with_(text="what is it", history=HISTORY, **changes)


def _asked(dialogue: Dialogue) -> list[tuple[str, str | None, str | None]]:
    return [(t.question, t.answers[0].question, t.answers[0].text) for t in dialogue.turns]


def test_history_becomes_earlier_turns() -> None:
    earlier = [("what is red", None, "a circle"), ("where is the square", None, "background")]
    assert _asked(encode(VQA, _chat(), CODEC)) == [*earlier, ("", "what is it", "two cats")]
    assert _asked(encode(VQA, _chat(), CODEC, None)) == [*earlier, ("", "what is it", None)]
    after = VQA.encode(_chat(), AFTER, CODEC, np.random.default_rng(0))
    assert _asked(after) == [*earlier, ("what is it", None, "two cats")]


def test_nothing_changes_without_history() -> None:
    assert len(encode(VQA, sample_of("vqa"), CODEC).turns) == 1


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (("", "a"), "the question of turn 1 is empty"),
        (("a", " \n"), "the answer of turn 1 is empty"),
        (("a", "<MASK>"), "the answer of turn 1 spells the token <MASK>"),
        (("<box>?", "a"), "the question of turn 1 spells the token <box>"),
    ],
)
def test_turns_that_cannot_be_said(turn: tuple[str, str], message: str) -> None:
    for seed in (0, None):
        with pytest.raises(DataError, match=f"^made/vqa#0: {message}"):
            encode(VQA, _chat().with_(history=(HISTORY[0], turn)), CODEC, seed)


def test_a_template_with_its_own_question_is_for_another_task() -> None:
    with pytest.raises(ConfigError, match="template caption: asks its own question .got 'Describe the image"):
        encode(VQA, _chat(), CODEC, 0, "caption")


def test_packing_is_refused() -> None:
    one, chat = encode(VQA, sample_of("vqa"), CODEC), encode(VQA, _chat(), CODEC)
    assert pack([chat], "a#0") == chat
    for dialogues in ([one, chat], [chat, one]):
        with pytest.raises(ConfigError, match="a#0: a sample with earlier turns cannot share its row .got 3 turns"):
            pack(dialogues, "a#0")


@pytest.fixture(params=tiny.FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> UfoModel:
    return tiny.model(request.param, tmp_path)


@pytest.mark.parametrize("template", [templates.load("vqa"), AFTER], ids=["before", "after"])
@pytest.mark.parametrize("shown", [True, False], ids=["image", "text only"])
def test_every_answer_is_supervised(model: UfoModel, template: Template, shown: bool) -> None:
    """In every family's chat format: each answer and its end token is learnt, and nothing else."""
    picture = tiny.image(0) if shown else None
    size = picture.shape[:2] if picture is not None else NO_SIZE
    sample = Sample(picture, size, "vqa", "what is the box", targets=Targets(text="a red circle"), history=HISTORY)
    collator = Collator(model.processor, VQA, template, model.codec, {})
    batch = collator.rows([(sample,)], np.random.default_rng(0))
    assert batch is not None
    labels, segment = batch.labels[0].tolist(), batch.segment[0].tolist()
    runs = [[t for t in run] for learnt, run in groupby(labels, lambda t: t != IGNORE) if learnt]
    tokenizer = model.processor.tokenizer
    assert [tokenizer.decode(r[:-1]).strip() for r in runs] == ["a circle", "background", "a red circle"]
    assert all(r[-1] == model.processor.end_id for r in runs)
    assert [segment[labels.index(r[0])] for r in runs[:1]] == [PROMPT] and segment[-1] == 0
    assert len(batch.image_index[0]) == int(sum(t == model.processor.image_id for t in batch.ids[0].tolist()))
    asked = collator.rows([(sample,)], None)
    assert asked is not None and asked.ids[0].tolist() == batch.ids[0, : asked.ids.shape[1]].tolist()
    first = int(batch.image_index[0, 0]) if shown else len(labels)
    before = tokenizer.decode(batch.ids[0, :first])
    assert ("what is red" in before) == (template.image_position == "after" or not shown)
    assert not shown or "a circle" not in before


@pytest.mark.parametrize("chat_template", [llava.CHAT_TEMPLATE, released.CHAT_TEMPLATE], ids=["hf", "released"])
def test_an_earlier_answer_ends_once(tmp_path: Path, chat_template: str) -> None:
    """Whether or not a chat template writes the end token itself, it stands once behind every answer."""
    model = tiny.model("llava", tmp_path)
    model.processor.chat_template = chat_template
    batch = Collator(model.processor, VQA, templates.load("vqa"), model.codec, {}).rows(
        [(_chat(image=tiny.image(0, (48, 64))),)], np.random.default_rng(0)
    )
    assert batch is not None
    ends = batch.ids[0] == model.processor.end_id
    assert int(ends.sum()) == 3 and (batch.labels[0][ends] == model.processor.end_id).all()
