"""The decode loop against the teacher-forced forward, against itself alone, and with its switches on and off."""

import dataclasses

import numpy as np
import pytest
import torch

from tests import tiny
from ufo_tune.config import DecodeSection, LoraSection, ModelSection
from ufo_tune.core import answers, sequence
from ufo_tune.core.answers import Alternatives, Box, Literal, OneOf, Slots
from ufo_tune.core.types import IGNORE, Answer, Dialogue, Turn
from ufo_tune.errors import ModelError
from ufo_tune.models import generate as loop
from ufo_tune.models import lora

CLASSES = ("red circle", "red square", "circle")
GRAMMAR = (
    Alternatives(
        (
            (OneOf(CLASSES), Literal(","), Box()),
            (OneOf(CLASSES), Literal(","), Slots(tiny.CODEC.slot_tokens)),
            (Literal("background"),),
        )
    ),
)
S = tiny.CODEC.slot_tokens


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return varied(tiny.model("llava", tmp_path_factory.mktemp("model"), kv_heads=2, layers=3))


def varied(built):
    """Random weights whose answers differ from each other and have no ties (new rows start out equal)."""
    with torch.no_grad():
        for layer in built.vlm.layers:
            layer.self_attn.q_proj.weight *= 4
        built.vlm.hf.get_output_embeddings().weight[built.new_token_ids()] = 0.1 * torch.randn(
            len(built.new_token_ids()), 64, generator=torch.Generator().manual_seed(1)
        )
    return built


def grid(*points, question="detect red circle"):
    return Dialogue((Turn(question, tuple(Answer(None, point=p) for p in points)),))


POINTS = ((0.2, 0.3), (0.7, 0.5), (0.9, 0.9), (0.1, 0.8), (0.5, 0.1))
ROWS = [grid(*POINTS), grid(*POINTS[:2], question="where is the red square of a circle ? segment the box")]


def run(model, dialogues, grammars=None, pictures=None, **switches):
    batch = tiny.batch(model, dialogues, pictures, train=False)
    decode = DecodeSection(**{"max_new_tokens": 20, "constrained": grammars is not None, **switches})
    return batch, model.predict(batch, decode, grammars or [None] * len(dialogues))


def same(a, b, atol=1e-5):
    assert a.texts == b.texts
    assert torch.equal(a.ids, b.ids)
    torch.testing.assert_close(a.scores, b.scores, atol=atol, rtol=1e-4)
    torch.testing.assert_close(a.hidden, b.hidden, atol=atol, rtol=1e-4)


def lane(generation, n):
    """One answer alone, cut to its own length."""
    length = int((generation.ids[n] >= 0).sum())
    return dataclasses.replace(
        generation,
        texts=generation.texts[n : n + 1],
        **{k: getattr(generation, k)[n : n + 1, :length] for k in ("ids", "scores", "hidden")},
    )


def teacher_forced(model, dialogue, picture, generation):
    """Batch whose answers are the generated tokens, and the forward pass over it."""
    processor = model.processor
    encoded = processor.encode(dialogue, picture, (tiny.sample(picture),), (len(generation.ids),), False)
    runs, header = processor._render(dialogue, processor._see(picture, dialogue.crops)[2])
    written = [
        sequence.AnswerIds(
            ids=[t for t in ids if t >= 0],
            prefix=processor._ids(a.question + header) if a.question is not None else [],
            local=a.point is not None,
        )
        for a, ids in zip(dialogue.turns[-1].answers, generation.ids.tolist(), strict=True)
    ]
    encoded.row = sequence.build(
        processor._prompt_ids(runs),
        written,
        local_id=processor.local_id,
        slot_ids=frozenset((processor.mask_id, processor.depth_id)),
        slot_tokens=S,
    )
    batch = processor.stack([encoded])
    with torch.no_grad():
        return batch, model(batch)


def check_against_forward(model, dialogue, picture, generation, free=True):
    batch, out = teacher_forced(model, dialogue, picture, generation)
    row, at, label = sequence.predicting(batch.labels, batch.segment)
    states = out.hidden[row, at]  # [Q, D]
    real = generation.ids >= 0
    assert torch.equal(generation.ids[real], label)
    known = generation.hidden[real].any(-1)  # no state is computed before what closes an answer by the grammar
    closing = [model.processor.end_id, *model.processor._ids(tiny.CODEC.box_close)]
    assert bool((known | torch.isin(label, torch.tensor(closing))).all()) and (not free or bool(known.all()))
    torch.testing.assert_close(generation.hidden[real][known], states[known], atol=1e-5, rtol=1e-4)
    if free:
        chosen = generation.scores[real] < 1  # forced tokens of a slot carry 1
        logits = out.logits(states)
        assert torch.equal(logits.argmax(-1)[chosen], label[chosen])
        expected = logits.softmax(-1).gather(1, label[:, None])[:, 0]
        torch.testing.assert_close(generation.scores[real][chosen], expected[chosen], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(generation.image_features, out.image_features[0], atol=1e-5, rtol=1e-4)


def test_cached_equals_teacher_forced_for_rows_of_different_prompts(model):
    batch, generations = run(model, ROWS)
    lengths = (batch.segment == -1).sum(1)
    assert lengths[0] != lengths[1]
    assert len({g.texts for g in generations}) == 2 and len(set(generations[0].texts)) > 1
    for number, (dialogue, generation) in enumerate(zip(ROWS, generations, strict=True)):
        check_against_forward(model, dialogue, tiny.image(number), generation)


def test_parallel_equals_each_lane_alone(model):
    for grammars in (None, [GRAMMAR, GRAMMAR]):
        _, together = run(model, ROWS, grammars)
        for number, dialogue in enumerate(ROWS):
            for n, answer in enumerate(dialogue.turns[-1].answers):
                alone = grid(answer.point, question=dialogue.turns[-1].question)
                _, (single,) = run(model, [alone], grammars and [GRAMMAR], [tiny.image(number)])
                same(lane(together[number], n), single)
    assert model.vlm.text_model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("grammars", [None, [GRAMMAR, GRAMMAR]])
def test_switches_change_nothing(model, grammars):
    _, reference = run(model, ROWS, grammars, forced_runs=False, compaction=False)
    for forced, compaction in ((True, False), (False, True), (True, True)):
        _, other = run(model, ROWS, grammars, forced_runs=forced, compaction=compaction)
        for a, b in zip(reference, other, strict=True):
            same(a, b)


def test_constrained_answers_follow_the_grammar(model):
    _, generations = run(model, ROWS, [GRAMMAR, GRAMMAR])
    for number, generation in enumerate(generations):
        for text in generation.texts:
            assert answers.matches(answers.expand(GRAMMAR, tiny.CODEC), text, tiny.CODEC), text
            assert answers.parse(text, tiny.CODEC).ok
        check_against_forward(model, ROWS[number], tiny.image(number), generation, free=False)


def test_the_first_score_is_the_posterior_over_what_is_listed(model):
    _, (generation, _) = run(model, ROWS, [GRAMMAR, GRAMMAR])
    tokenizer = model.processor.tokenizer
    firsts = sorted({tokenizer(t, add_special_tokens=False)["input_ids"][0] for t in (*CLASSES, "background")})
    with torch.no_grad():
        posterior = model.vlm.logits(generation.hidden[:, 0])[:, firsts].softmax(-1)
    assert torch.equal(generation.ids[:, 0], torch.tensor(firsts)[posterior.argmax(-1)])
    torch.testing.assert_close(generation.scores[:, 0], posterior.amax(-1), atol=1e-6, rtol=1e-5)


def test_greedy_that_obeys_the_grammar_is_untouched_by_it(tmp_path):
    """A head that says one sentence of the grammar: free, constrained, forced or not, it says the same."""
    model = tiny.model("llava", tmp_path)
    text = f"red circle,{answers.box((3, 4, 20, 30), tiny.CODEC)}"
    from ufo_tune.core.tokens import answer_ids

    ids = [*answer_ids(model.processor.tokenizer, text, tiny.CODEC), model.processor.end_id]
    assert len(set(ids)) < len(ids)  # commas repeat: the next token depends on more than the last
    fit(model, [grid(*POINTS[:2])], text)
    _, (free,) = run(model, [grid(*POINTS[:2])])
    assert free.texts == (text, text) and free.ids.tolist() == [ids, ids]
    for forced in (False, True):
        _, (constrained,) = run(model, [grid(*POINTS[:2])], [GRAMMAR], forced_runs=forced)
        assert torch.equal(constrained.ids, free.ids) and constrained.texts == free.texts
        torch.testing.assert_close(constrained.hidden[:, :-2], free.hidden[:, :-2], atol=1e-5, rtol=1e-4)
        assert not constrained.hidden[:, -2:].any()  # before </box> and the end, both forced, nothing is computed
    assert bool((constrained.scores >= free.scores - 1e-6).all())  # fewer competitors


def fit(model, dialogues, text):
    """Train a few steps until every answer is ``text``."""
    turns = [
        (Turn(d.turns[-1].question, tuple(dataclasses.replace(a, text=text) for a in d.turns[-1].answers)),)
        for d in dialogues
    ]
    batch = tiny.batch(model, [dataclasses.replace(d, turns=t) for d, t in zip(dialogues, turns, strict=True)])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        out = model(batch)
        row, at, label = sequence.predicting(batch.labels, batch.segment)
        loss = torch.nn.functional.cross_entropy(out.logits(out.hidden[row, at]), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.05:
            return
    raise AssertionError(f"did not learn one sentence: {loss}")


def biased(model, token):
    """Make one token win everywhere, by a bias of the head; its ``bias = None`` undoes it."""
    head = model.vlm.hf.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(head.weight.shape[0]))
    with torch.no_grad():
        head.bias[token] = 1e4
    return head


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("forced", [True, False])
def test_a_mask_as_first_token_is_predicted_by_the_state_before_it(model, local, forced):
    dialogue = grid(*POINTS[:2]) if local else Dialogue((Turn("segment red circle", (Answer(None),)),))
    head = biased(model, model.processor.mask_id)
    try:
        batch, (generation,) = run(model, [dialogue], max_new_tokens=2 * S, forced_runs=forced)
        with torch.no_grad():
            prefill = model(batch).hidden[0]
        last = torch.tensor([len(prefill) - 2, len(prefill) - 1]) if local else torch.tensor([len(prefill) - 1])
        assert (generation.ids == model.processor.mask_id).all() and generation.ids.shape == (len(last), 2 * S)
        torch.testing.assert_close(generation.hidden[:, 0], prefill[last], atol=1e-5, rtol=1e-4)
        check_against_forward(model, dialogue, tiny.image(0), generation)
        assert generation.texts[0] == tiny.CODEC.mask_token * 2 * S
        assert answers.parse(generation.texts[0], tiny.CODEC).slot_groups == 2
    finally:
        head.bias = None


@pytest.mark.parametrize("limit", [1, 3, S + 1])
@pytest.mark.parametrize("forced", [True, False])
def test_answers_are_cut_at_the_limit(model, limit, forced):
    _, whole = run(model, ROWS, [GRAMMAR, GRAMMAR])
    _, cut = run(model, ROWS, [GRAMMAR, GRAMMAR], max_new_tokens=limit, forced_runs=forced)
    for a, b in zip(whole, cut, strict=True):
        width = min(limit, a.ids.shape[1])
        assert torch.equal(a.ids[:, :width], b.ids)
        torch.testing.assert_close(a.hidden[:, :width] * (b.ids >= 0)[..., None], b.hidden, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("forced", [True, False])
def test_what_closes_an_answer_is_written_unseen(model, forced):
    """The last number of a box, and the last token of a slot, are followed by nothing that has to be computed."""

    def passes(grammar):
        batch = tiny.batch(model, [grid(*POINTS[:2])], train=False)
        with torch.inference_mode():
            begun, fed = loop.prefill(model, batch), []
            begin = begun.cache.begin
            begun.cache.begin = lambda counts, *span: (fed.append(counts.tolist()), begin(counts, *span))[1]
            automaton = loop.compiler(model.processor).automaton([grammar])
            decode = DecodeSection(max_new_tokens=30, forced_runs=forced)
            written = loop.write(model.vlm, begun, automaton, automaton.starts.expand(2), decode)
        return [sum(step[0] for step in fed), len(fed)], written

    counts, written = passes((Box(),))  # <box> a , b , c , d: seven tokens to choose four numbers
    assert counts == [7, 4 if forced else 7] and written.ids.shape == (2, 10)
    assert written.hidden[:, :8].any(-1).all() and not written.hidden[:, 8:].any()
    counts, written = passes((Literal("the box "), Slots(S), Literal(". the")))
    assert counts == [2 + S - 1, 1 if forced else 2 + S - 1] and written.ids.shape == (2, 2 + S + 3)
    assert written.hidden[:, : 2 + S].any(-1).all() and not written.hidden[:, 2 + S :].any()


def test_packed_samples_get_their_own_answers_and_grammars(model):
    """Several questions about one image in a row: each sees the image and its own question only."""
    picture = tiny.image(3)
    asked = ("what is the red square ?", "where is a circle ? segment the box of the background", "a")
    packed = Dialogue((Turn("", tuple(Answer(None, question=q) for q in asked)),), image_position="before")
    samples = (tiny.sample(picture),) * 2
    grammars = [None, GRAMMAR]
    decode = DecodeSection(max_new_tokens=12, constrained=True)
    both = model.processor.batch([packed, grid(*POINTS[:2])], [picture, tiny.image(1)],
                                 [samples, (tiny.sample(tiny.image(1)),)], False, [(1, 2), (2,)])  # fmt: skip
    first, second, other = model.predict(both, decode, [*grammars, GRAMMAR])
    assert (len(first.texts), len(second.texts), len(other.texts)) == (1, 2, 2)
    assert first.points == (None,) and np.allclose(other.points, POINTS[:2], atol=1e-6)
    for question, generation, grammar in zip(
        asked, (lane(first, 0), lane(second, 0), lane(second, 1)), (None, GRAMMAR, GRAMMAR), strict=True
    ):
        one = Dialogue((Turn("", (Answer(None, question=question),)),), image_position="before")
        batch = tiny.batch(model, [one], [picture], train=False)
        (alone,) = model.predict(batch, decode, [grammar])
        same(generation, alone)
    (single,) = model.predict(tiny.batch(model, [grid(*POINTS[:2])], [tiny.image(1)], train=False), decode, [GRAMMAR])
    same(other, single)


def test_rows_without_answers(model):
    empty = Dialogue((Turn("what is red", ()),))
    _, generations = run(model, [empty, ROWS[1], empty])
    assert [len(g.texts) for g in generations] == [0, 2, 0]
    assert generations[0].ids.shape == (0, 0)
    same(generations[1], run(model, [ROWS[1]], pictures=[tiny.image(1)])[1][0])
    _, (nothing,) = run(model, [empty])
    assert nothing.texts == () and nothing.hidden.shape == (0, 0, 64)


def test_points_come_back_in_the_original_image(model):
    _, (generation, _) = run(model, ROWS, max_new_tokens=1)  # 40x56 pixels on a square canvas
    assert np.allclose(generation.points, POINTS, atol=1e-6)


def test_the_prefix_is_held_once_and_lanes_hold_only_their_own(model):
    batch = tiny.batch(model, ROWS, train=False)
    with torch.inference_mode():
        begun = loop.prefill(model, batch)
        prompts = (batch.segment == -1).sum(1)
        # elements of one token's keys and values: 3 layers x 2 x 2 heads of 16
        token = 3 * 2 * 2 * 16
        assert begun.cache.numel() == (2 * int(prompts.max()) * token, 7 * token)
        decode = DecodeSection(max_new_tokens=7)
        automaton = loop.compiler(model.processor).automaton([(Box(),)])
        sizes, release = [], begun.cache.release
        begun.cache.release = lambda: (sizes.append(begun.cache.numel()), release())
        loop.write(model.vlm, begun, automaton, automaton.starts.expand(7), decode)
    # 7 tokens, all fed but the last one, and the head
    assert sizes == [(2 * int(prompts.max()) * token, 7 * 7 * token)]
    assert begun.cache.numel() == (0, 0)


def test_a_pass_is_split_where_it_would_be_large(model, monkeypatch):
    reference = [run(model, ROWS, grammars)[1] for grammars in (None, [GRAMMAR, GRAMMAR])]
    for most in (1, 3, 6):
        monkeypatch.setattr(loop, "_PASS_CPU", most)
        for grammars, expected in zip((None, [GRAMMAR, GRAMMAR]), reference, strict=True):
            for a, b in zip(expected, run(model, ROWS, grammars)[1], strict=True):
                same(a, b)


@pytest.mark.parametrize("language", ["lora", "frozen"])
def test_adapters_are_seen_by_the_listed_columns(tmp_path, language):
    model = tiny.model("llava", tmp_path)
    section = ModelSection(base="x", language=language, train_tokens="new", lora=LoraSection(dropout=0))
    lora.apply(model, section)
    with torch.no_grad():
        for name, parameter in model.vlm.hf.named_parameters():
            if "lora_" in name or "trainable_tokens_" in name:
                parameter.normal_(std=0.3)
    ids = torch.tensor([5, 9, model.processor.mask_id, model.processor.end_id])
    hidden = torch.randn(3, 64)
    with torch.no_grad():
        weight, bias = model.vlm.head_rows(ids)
        listed = torch.nn.functional.linear(hidden, weight, bias)
        torch.testing.assert_close(listed, model.vlm.logits(hidden)[:, ids], atol=1e-5, rtol=1e-4)
    _, generations = run(model.eval(), ROWS, [GRAMMAR, GRAMMAR])
    check_against_forward(model, ROWS[0], tiny.image(0), generations[0], free=False)


def test_a_lora_on_the_head_is_seen_too(tmp_path):
    from peft import LoraConfig, get_peft_model

    model = tiny.model("llava", tmp_path)
    get_peft_model(model.vlm.hf, LoraConfig(target_modules=["lm_head"], init_lora_weights=False))
    model.eval()
    ids, hidden = torch.tensor([40, 3, 77]), torch.randn(2, 64)
    with torch.no_grad():
        weight, bias = model.vlm.head_rows(ids)
        listed = torch.nn.functional.linear(hidden, weight, bias)
        torch.testing.assert_close(listed, model.vlm.logits(hidden)[:, ids], atol=1e-5, rtol=1e-4)


def test_a_wrong_number_of_grammars_is_refused(model):
    batch = tiny.batch(model, ROWS, train=False)
    with pytest.raises(ModelError, match="1 grammars for 2 samples"):
        model.predict(batch, DecodeSection(constrained=True), [GRAMMAR])


def test_labels_of_the_inference_batch_are_not_needed(model):
    batch, _ = run(model, ROWS, max_new_tokens=1)
    assert bool((batch.labels == IGNORE).all())
