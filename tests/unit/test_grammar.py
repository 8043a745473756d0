"""The token automaton against enumerated texts, on two tokenizers: one token an integer, and digit by digit."""

import itertools
import re

import pytest
import torch

from ufo_tune.core import answers
from ufo_tune.core.answers import Alternatives, Box, Integer, Literal, OneOf, Slots
from ufo_tune.core.codec import Codec
from ufo_tune.core.grammar import DONE, FREE, LONGEST_RUN, Compiler
from ufo_tune.errors import ModelError

CODEC = Codec(num_bins=12, slot_side=2)
END, MASK, DEPTH = 0, 1, 2
CLASSES = ("red circle", "red", "square")


class Words:
    """A tokenizer of words (``digits`` False) or of letters; ids in order of appearance."""

    def __init__(self, digits):
        self.pattern = re.compile("|".join(map(re.escape, CODEC.special_tokens)) + ("|." if digits else r"|\w+|."))
        self.ids = {"</s>": END, CODEC.mask_token: MASK, CODEC.depth_token: DEPTH}

    def __call__(self, piece):
        found = self.pattern.findall(piece)
        return [
            self.ids.setdefault(t, len(self.ids)) for t in found if t.strip() or self.pattern.pattern.endswith("|.")
        ]

    def answer(self, text):
        return (*itertools.chain(*(self(p) for p in answers.pieces(text, CODEC))), END)


@pytest.fixture(params=[False, True], ids=["words", "digits"])
def tokenizer(request):
    return Words(request.param)


def compiler(tokenizer):
    return Compiler(tokenizer, CODEC, END, (MASK, DEPTH))


def language(automaton, state, most=40):
    """All token sequences from a state, by walking the tables one token at a time."""
    found, stack = set(), [((), state)]
    while stack:
        tokens, at = stack.pop()
        if at == DONE:
            found.add(tokens)
            continue
        assert len(tokens) < most
        for column in automaton.allowed[at].nonzero()[:, 0]:
            token = automaton.columns[column : column + 1]
            after = automaton.advance(torch.tensor([at]), token)
            stack.append(((*tokens, int(token)), int(after)))
    return found


@pytest.mark.parametrize(
    ("grammar", "texts"),
    [
        ((Literal("background"),), ["background"]),
        ((), [""]),
        ((OneOf(CLASSES),), list(CLASSES)),
        ((OneOf(CLASSES), Literal(","), Slots(4)), [f"{c},{'<MASK>' * 4}" for c in CLASSES]),
        ((Literal("It is "), Slots(4), Literal(".")), [f"It is {'<MASK>' * 4}."]),
        ((Literal("<box>7,"), Integer(9, 11), Literal(",1,2</box>")), [f"<box>7,{n},1,2</box>" for n in (9, 10, 11)]),
        ((OneOf(CLASSES), Literal(" and "), OneOf(CLASSES)), [f"{a} and {b}" for a in CLASSES for b in CLASSES]),
        ((Literal("red,"), Slots(4)), [f"red,{'<MASK>' * 4}"]),
        ((OneOf(("yes.", f"Sure {'<MASK>' * 4}")),), ["yes.", f"Sure {'<MASK>' * 4}"]),
        ((Literal("about "), Integer(9, 11)), ["about 9", "about 10", "about 11"]),
        (
            (Alternatives(((OneOf(CLASSES), Literal(","), Slots(4)), (Literal("background"),), ())), Literal("")),
            [*(f"{c},{'<MASK>' * 4}" for c in CLASSES), "background", ""],
        ),
    ],
)
def test_the_automaton_speaks_exactly_the_tokens_of_training(tokenizer, grammar, texts):
    automaton = compiler(tokenizer).automaton([grammar])
    assert all(answers.matches(grammar, t, CODEC) for t in texts)
    assert language(automaton, int(automaton.starts[0])) == {tokenizer.answer(t) for t in texts}


def test_boxes_of_all_bins(tokenizer):
    automaton = compiler(tokenizer).automaton([(OneOf(CLASSES), Literal(","), Box())])
    state = automaton.starts
    for token in tokenizer.answer("red circle,<box>12,0,1,9</box>"):
        state = automaton.advance(state, torch.tensor([token]))
    assert state.tolist() == [DONE]
    # 13 bins, and states shared between numbers: never a state per text
    assert len(automaton.allowed) < 70
    wrong = tokenizer("13")[-1]
    at = automaton.starts
    for token in tokenizer.answer("red circle,<box>1")[:-1]:
        at = automaton.advance(at, torch.tensor([token]))
    if len(tokenizer("13")) == 2:  # digits: after "1" come 0, 1, 2 or the comma, but no 3
        column = int((automaton.columns == tokenizer.ids["2"]).nonzero())
        assert automaton.allowed[at, column].item() and wrong not in automaton.columns[automaton.allowed[at[0]]]


def test_forced_runs_reach_the_next_choice(tokenizer):
    automaton = compiler(tokenizer).automaton([(OneOf(("square", "circle")), Literal(","), Slots(4))])
    first = torch.tensor([tokenizer.answer("square")[0]])
    state = automaton.advance(automaton.starts, first)
    count = int(automaton.forced_count[state])
    assert (int(first), *automaton.forced[state, :count][0].tolist()) == tokenizer.answer(f"square,{'<MASK>' * 4}")
    assert automaton.forced_state[state].tolist() == [DONE]
    assert automaton.forced_count[automaton.starts].tolist() == [0]
    assert automaton.forced[automaton.starts, 0].tolist() == [-1]


def test_long_runs_continue_in_the_next_pass():
    words = Words(False)
    text = " ".join(f"w{n}" for n in range(LONGEST_RUN))
    automaton = compiler(words).automaton([(Literal(text),)])
    expected, state, tokens = words.answer(text), automaton.starts, []
    while int(state) != DONE:
        count = int(automaton.forced_count[state])
        assert 0 < count <= LONGEST_RUN + 1  # the end is never left alone
        tokens += automaton.forced[state, :count][0].tolist()
        state = automaton.forced_state[state]
    assert tuple(tokens) == expected


def test_free_text_writes_whole_slots():
    automaton = compiler(Words(False)).automaton([None])
    assert automaton.starts.tolist() == [FREE]
    tokens = torch.tensor([99, MASK, END, 50_000, DEPTH])
    after = automaton.advance(torch.full((5,), FREE), tokens)
    assert after[[0, 3]].tolist() == [FREE, FREE] and after[2] == DONE
    for state, slot in ((after[1], MASK), (after[4], DEPTH)):
        assert automaton.forced[state, : automaton.forced_count[state]].tolist() == [slot] * 3
        assert automaton.forced_state[state] == FREE
        for _ in range(3):
            state = automaton.advance(state[None], torch.tensor([slot]))[0]
        assert state == FREE


def test_a_slot_of_one_token_forces_nothing():
    single = Compiler(Words(False), Codec(slot_side=1), END, (MASK, DEPTH)).automaton([None])
    assert single.advance(single.starts, torch.tensor([MASK])).tolist() == [FREE]
    assert single.forced[single.starts, 0].tolist() == [-1]


def test_several_grammars_share_one_automaton(tokenizer):
    shared = compiler(tokenizer)
    two = ((OneOf(("red", "square")),), (Literal("background"),))
    automaton = shared.automaton([two[0], None, two[1], two[0]])
    starts = automaton.starts.tolist()
    assert starts[1] == FREE and starts[0] == starts[3]
    assert language(automaton, starts[0]) == {tokenizer.answer("red"), tokenizer.answer("square")}
    assert language(automaton, starts[2]) == {tokenizer.answer("background")}
    assert shared.automaton([two[0], None, two[1], two[0]]) is automaton


def test_what_cannot_be_listed_is_refused():
    with pytest.raises(ModelError, match="allows no text"):
        compiler(Words(False)).automaton([(Alternatives(()),)])
    with pytest.raises(ModelError, match="more than"):
        compiler(Words(False)).automaton([(Integer(0, 999), Literal(" "), Integer(0, 999))])
    many = tuple(Alternatives(((Literal("a"),), (Literal("b"),))) for _ in range(20))
    with pytest.raises(ModelError, match="more than"):
        compiler(Words(False)).automaton([many])


@pytest.mark.parametrize(
    ("decoded", "written"),
    [
        ("red circle , <box> 12 , 0 , 1 , 9 </box>", "red circle,<box>12,0,1,9</box>"),
        ("square , <MASK> <MASK> <MASK> <MASK>", "square,<MASK><MASK><MASK><MASK>"),
        ("red,<box>12,0,1,9</box>", "red,<box>12,0,1,9</box>"),
        ("It is <MASK> <MASK> <MASK> <MASK> .", "It is <MASK><MASK><MASK><MASK>."),
        (" yes , it is .", "yes, it is."),
        ("3.5 , and 4", "3.5, and 4"),
    ],
)
def test_decoded_text_is_tidied(decoded, written):
    assert answers.tidy(decoded, CODEC) == written
    assert answers.parse(answers.tidy(decoded, CODEC), CODEC) == answers.parse(written, CODEC)
