"""The layout and the attention rule, against ufo.md 18.4 and a rule written as two plain loops."""

import pytest
import torch

from ufo_tune.core import sequence
from ufo_tune.core.types import IGNORE, PAD, PROMPT

LOCAL, MASK, END = 90, 91, 2


def _row(answers, prompt=((10, 20, 20, 11),), slot_tokens=4):
    return sequence.build(
        [(list(p), False) for p in prompt],
        answers,
        local_id=LOCAL,
        slot_ids=frozenset({MASK}),
        slot_tokens=slot_tokens,
    )


def test_vector_of_the_paper_two_lanes():
    row = _row([sequence.AnswerIds([30], local=True), sequence.AnswerIds([31], local=True)])
    assert row.ids == [10, 20, 20, 11, LOCAL, 30, LOCAL, 31]
    assert row.positions == [0, 1, 2, 3, 4, 5, 4, 5]
    assert row.local_index == [4, 6]
    segment = torch.tensor([row.segment])
    image = torch.tensor([[t == 20 for t in row.ids]])
    seen = sequence.visible(segment, image, torch.tensor([False]))[0, 0].int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0, 1, 0],
        [1, 1, 1, 1, 0, 0, 1, 1],
    ]


@pytest.mark.parametrize("seed", range(5))
def test_rule_equals_plain_loops(seed):
    g = torch.Generator().manual_seed(seed)
    prompt = int(torch.randint(1, 6, (1,), generator=g))
    segment = [PROMPT] * prompt + [0] * 3 + [1] * 2 + [PAD] * 2
    image = [bool(torch.rand(1, generator=g) < 0.5) and s == PROMPT for s in segment]
    for causal in (False, True):
        seen = sequence.visible(torch.tensor([segment]), torch.tensor([image]), torch.tensor([causal]))[0, 0]
        for i, si in enumerate(segment):
            for j, sj in enumerate(segment):
                order = j <= i or (image[i] and image[j] and not causal)
                # Padding sees padding alone, or its states would depend on who else is in the batch.
                assert seen[i, j] == (order and (sj == PAD if si == PAD else sj in (PROMPT, si))), (i, j)
        assert seen.any(1).all(), "a row that sees nothing is NaN under some kernels"


def test_only_answers_and_their_end_are_supervised():
    row = _row([sequence.AnswerIds([30, END], prefix=[40, 41]), sequence.AnswerIds([END])])
    assert row.labels == [IGNORE] * 4 + [IGNORE, IGNORE, 30, END] + [END]


def test_earlier_turns_are_supervised_runs_of_the_prompt():
    row = sequence.build(
        [([10], False), ([30, END], True), ([11], False)],
        [sequence.AnswerIds([31, END])],
        local_id=LOCAL,
        slot_ids=frozenset({MASK}),
        slot_tokens=4,
    )
    assert row.segment == [PROMPT] * 4 + [0, 0]
    assert row.labels == [IGNORE, 30, END, IGNORE, 31, END]


def test_slot_index_names_the_states_that_predict():
    masks = [MASK] * 4
    headless = _row([sequence.AnswerIds([*masks, END])])
    assert headless.slot_index == [[3, 4, 5, 6]]
    second = _row([sequence.AnswerIds([30, END]), sequence.AnswerIds([*masks, END])])
    assert second.slot_index == [[3, 6, 7, 8]], "the first token of a headless answer is predicted by the prompt's end"
    local = _row([sequence.AnswerIds([30, *masks, *masks, END], local=True)])
    assert local.slot_index == [[5, 6, 7, 8], [9, 10, 11, 12]]
    assert _row([sequence.AnswerIds([30, MASK, MASK, END])]).slot_index == [], "an incomplete slot is none"


def test_predicting_agrees_with_a_loop():
    rows = [
        _row([sequence.AnswerIds([30, 31, END], local=True), sequence.AnswerIds([END], local=True)]),
        _row([sequence.AnswerIds([30, END]), sequence.AnswerIds([31, END], prefix=[40])]),
        _row([sequence.AnswerIds([30, END]), sequence.AnswerIds([31, END]), sequence.AnswerIds([END])]),
    ]
    labels = sequence.pad([r.labels for r in rows], IGNORE)
    segment = sequence.pad([r.segment for r in rows], PAD)
    row, at, label = sequence.predicting(labels, segment)
    expected = []
    for number, r in enumerate(rows):
        for t, lab in enumerate(r.labels):
            if lab != IGNORE:
                # by the visibility rule: the nearest earlier token of the same segment, else the prompt's last
                mine = [i for i in range(t) if r.segment[i] == r.segment[t]]
                expected.append((number, mine[-1] if mine else 3, lab))
    assert list(zip(row.tolist(), at.tolist(), label.tolist(), strict=True)) == expected


def test_padding_is_on_the_right():
    assert sequence.pad([[1], [2, 3]], 0).tolist() == [[1, 0], [2, 3]]
    assert sequence.pad([[], []], 0).shape == (2, 0)
