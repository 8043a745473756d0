"""Phrases that name nothing or several things, and answers that explain themselves: gRefCOCO and ReasonSeg."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny
from tests.data_files import make
from tests.spoken import SIZE, encode, sample_of, spoken, words
from ufo_tune import plugins, templates
from ufo_tune.config import DecodeSection
from ufo_tune.core import answers, masks
from ufo_tune.core.codec import Codec
from ufo_tune.core.types import Sample, Targets
from ufo_tune.data.collate import Collator
from ufo_tune.datasets import grefcoco
from ufo_tune.engine.answering import Answering
from ufo_tune.engine.sources import ask
from ufo_tune.errors import ConfigError, DataError
from ufo_tune.models.generate import compiler
from ufo_tune.tasks import rec, res

CODEC = Codec(num_bins=100, slot_side=2)
MASK = answers.slots(CODEC)
NOTHING = Targets(masks=())
TEMPLATES = {"res": "gres", "rec": "grec"}


def _answer(name: str, sample: Sample, template: str, seed: int | None = 0) -> str | None:
    (answer,) = encode(plugins.find("tasks", name), sample, CODEC, seed, template).turns[0].answers
    assert len(answer.slots) == (0 if answer.text is None else answer.text.count(MASK))
    return answer.text


@pytest.mark.parametrize("name", TEMPLATES)
def test_nothing_is_one_sentence_where_the_template_allows_it(name: str) -> None:
    sample = sample_of(name).with_(targets=NOTHING)
    assert _answer(name, sample, TEMPLATES[name]) == res.NO_TARGET == rec.NO_TARGET
    assert _answer(name, sample, TEMPLATES[name], None) is None
    assert _answer(name, sample_of(name), TEMPLATES[name]) != res.NO_TARGET
    with pytest.raises(DataError, match=r"a phrase names one object .got 0 targets"):
        _answer(name, sample, name)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_grammar_allows_what_the_template_does(name: str) -> None:
    task, sample = plugins.find("tasks", name), sample_of(name)
    for template, allowed in ((TEMPLATES[name], True), (name, False)):
        grammar = task.grammar(sample, CODEC, templates.load(template))
        assert answers.matches(grammar, res.NO_TARGET, CODEC) == allowed
        assert not answers.matches(grammar, "There is none.", CODEC)
        for seed in range(6):
            text = _answer(name, sample, template, seed)
            assert text is not None and answers.matches(grammar, text, CODEC)


def test_several_boxes_in_one_answer() -> None:
    sample = sample_of("detection").with_(task="rec", text="the cups", classes=())
    truth = sample.targets
    assert truth is not None and len(truth.boxes) == 3
    text = _answer("rec", sample, "grec")
    assert text is not None and text.count("<box>") == 3 and text.startswith("<box>") and text.endswith("</box>")
    grammar = rec.grammar(sample, CODEC, templates.load("grec"))
    assert answers.matches(grammar, text, CODEC) and not answers.matches(grammar, "", CODEC)
    assert not answers.matches(rec.grammar(sample, CODEC, templates.load("rec")), text, CODEC)
    found = rec.decode(spoken(encode(rec, sample, CODEC, 0, "grec"), CODEC), sample, CODEC)
    assert float((found.boxes - truth.boxes).abs().max()) <= max(SIZE) / CODEC.num_bins
    assert torch.allclose(found.scores, torch.full((3,), 0.9)) and found.invalid == 0
    with pytest.raises(DataError, match="got 3 targets"):
        _answer("rec", sample, "rec")


@pytest.mark.parametrize("said", [res.NO_TARGET, "there is no such object", " THERE is no such OBJECT. "])
def test_nothing_is_read_as_a_valid_answer(said: str) -> None:
    found = res.decode(words([said], CODEC, points=False), sample_of("res"), CODEC)
    assert found.invalid == 0 and found.masks is not None and masks.area(found.masks).tolist() == [0]
    assert found.scores.tolist() == [0.5]  # as sure as the words were
    none = rec.decode(words([said], CODEC, points=False), sample_of("rec"), CODEC)
    assert none.invalid == 0 and none.boxes.shape == (0, 4) and len(none.scores) == 0


def test_other_words_are_still_invalid() -> None:
    for said in ("There is no such thing.", "There is no such object here.", "no"):
        assert res.decode(words([said], CODEC, points=False), sample_of("res"), CODEC).invalid == 1


def test_grefcoco_trains_on_all_its_sentences(tmp_path: Path) -> None:
    root, split, _ = make("grefcoco", tmp_path)
    for name, options in (("res", {}), ("rec", {"boxes": "each"})):
        samples = grefcoco.load(root, split, task=name, no_target="keep", **options)  # type: ignore[arg-type]
        said = [_answer(name, s, TEMPLATES[name]) for s in samples]
        assert [t == res.NO_TARGET for t in said] == [False, True, True, False, False]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    return tiny.model("llava", tmp_path_factory.mktemp("no_target"))


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_random_model_always_gives_a_valid_answer(model, name: str) -> None:  # type: ignore[no-untyped-def]
    """Constrained generation: several images, each a mask, boxes or the sentence."""
    asked = ask(name, TEMPLATES[name], {})
    samples = [Sample(tiny.image(k), (40, 56), name, f"the cup {k}", source=f"x#{k}") for k in range(4)]
    decode = DecodeSection(max_new_tokens=400, constrained=True, batch_size=4)
    found = list(Answering(model, asked, decode).predictions(samples, [(k,) for k in range(4)]))
    assert [p.invalid for _, p in found] == [0] * 4


def test_the_sentence_is_tokenised_as_in_training(model) -> None:  # type: ignore[no-untyped-def]
    """The automaton walks from its start to the end token along the answer's own ids."""
    asked = ask("res", "gres", {})
    sample = Sample(tiny.image(0), (40, 56), "res", "the dog", targets=NOTHING, source="x#0")
    collator = Collator(model.processor, asked.task, asked.template, model.codec, {})
    batch = collator.rows([(sample,)], np.random.default_rng(0))
    assert batch is not None and len(batch.slot_targets) == 0
    learnt = batch.labels[0][batch.labels[0] >= 0]
    automaton = compiler(model.processor).automaton([res.grammar(sample, model.codec, asked.template)])
    state = automaton.starts
    for token in learnt:
        column = int((automaton.columns == token).nonzero()[0, 0])
        assert bool(automaton.allowed[int(state), column])
        state = automaton.advance(state, token[None])
    assert learnt[-1] == model.processor.end_id and state.tolist() == [0]


def test_an_explanation_stands_beside_the_mask() -> None:
    truth = sample_of("res").targets
    assert truth is not None and truth.masks is not None
    explained = Targets(truth.boxes, truth.masks, truth.labels, text="It holds tea.")
    sample = sample_of("res").with_(targets=explained)
    said = {_answer("res", sample, "reason_seg_explained", seed) for seed in range(20)}
    assert said == {f"{MASK} It holds tea.", f"It is {MASK}. It holds tea.", f"The mask is {MASK}. It holds tea."}
    template = templates.load("reason_seg_explained")
    assert res.grammar(sample, CODEC, template) is None
    found = res.decode(spoken(encode(res, sample, CODEC, 3, template.name), CODEC), sample, CODEC)
    assert found.invalid == 0 and found.text.replace("<mask>", MASK) in said and "<MASK>" not in found.text
    assert found.masks is not None and float(masks.iou(found.masks, truth.masks)[0, 0]) > 0.75


def test_explanations_that_are_not_there_or_spell_tokens() -> None:
    with pytest.raises(ConfigError, match=r"needs \['text'\]"):
        _answer("res", sample_of("res"), "reason_seg_explained")
    truth = sample_of("res").targets
    assert truth is not None
    for name in ("reason_seg_explained", "res"):  # where it is not asked for it is not read either
        sample = sample_of("res").with_(targets=Targets(truth.boxes, truth.masks, truth.labels, text="a <MASK>"))
        with pytest.raises(DataError, match="the explanation spells the token <MASK>"):
            _answer("res", sample, name)


def test_a_long_sentence_is_asked_whole(model) -> None:  # type: ignore[no-untyped-def]
    """A hundred words: nothing is cut, and the phrase is found in the prompt."""
    text = "Which of the things in the picture " + "that one might use " * 25 + "is it?"
    sample = sample_of("res").with_(text=text, image=tiny.image(0, SIZE))
    collator = Collator(model.processor, res, templates.load("reason_seg"), model.codec, {})
    batch = collator.rows([(sample,)], np.random.default_rng(0))
    assert batch is not None and batch.slot_index.shape == (1, model.codec.slot_tokens)
    plain = model.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert int(batch.phrase.sum()) == len(plain)


def test_each_sample_of_a_row_has_its_phrase_marked(model) -> None:  # type: ignore[no-untyped-def]
    """Of samples that share a picture every one names its own object, in its own question."""
    picture, words = tiny.image(0, SIZE), ("the red circle", "a square")
    samples = tuple(sample_of("res").with_(text=text, image=picture) for text in words)
    collator = Collator(model.processor, res, templates.load("scenes_res"), model.codec, {})
    batch = collator.rows([samples], np.random.default_rng(0))
    assert batch is not None
    for number, text in enumerate(words):
        marked = batch.ids[0, batch.phrase[0] & (batch.segment[0] == number)]
        assert model.processor.tokenizer.decode(marked) == text
    assert not batch.phrase[batch.segment < 0].any()


def test_rows_have_seeds_of_their_own(model) -> None:  # type: ignore[no-untyped-def]
    """Drawn after all words are, from the batch's own generator: a batch that is made again has the same ones."""
    rows = [(sample_of("res").with_(image=tiny.image(0, SIZE)),)] * 3
    collator = Collator(model.processor, res, templates.load("res"), model.codec, {})
    first, again, other = (collator.rows(rows, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first is not None and again is not None and other is not None
    assert first.seeds == again.seeds and len({*first.seeds, *other.seeds}) == 6
    asked = collator.rows(rows, None)
    assert asked is not None and asked.seeds == (0, 0, 0)
