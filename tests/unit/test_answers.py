"""Answers: writing, reading, cutting and the grammar."""

import random

import pytest

from ufo_tune.core import answers
from ufo_tune.core.answers import Alternatives, Box, Integer, Literal, OneOf, Slots
from ufo_tune.core.codec import Codec

CODEC = Codec(num_bins=1000)
SMALL = Codec(num_bins=100, slot_side=2)
MASK = "<MASK>" * 16


def test_writing():
    assert answers.slots(CODEC) == MASK
    assert answers.slots(Codec(slot_side=1)) == "<MASK>"
    assert answers.box([1, 20, 300, 1000], CODEC) == "<box>1,20,300,1000</box>"
    assert answers.box([1, 2, 3, 4], Codec(box_open="[", box_close="]")) == "[1,2,3,4]"


@pytest.mark.parametrize(
    ("text", "label", "boxes", "groups", "rest"),
    [
        ("dog,<box>1,2,3,4</box>", "dog", ((1, 2, 3, 4),), 0, ""),
        ("hot dog,<box>0,0,1000,1000</box>", "hot dog", ((0, 0, 1000, 1000),), 0, ""),
        ("<box>1,2,3,4</box>", "", ((1, 2, 3, 4),), 0, ""),
        ("<box>1,2,3,4</box>;<box>5,6,7,8</box>", "", ((1, 2, 3, 4), (5, 6, 7, 8)), 0, ";"),
        (" <box> 1, 2, 3 0, 4 </box> ", "", ((1, 2, 30, 4),), 0, ""),
        ("dog , <box>1,2,3,4</box>", "dog", ((1, 2, 3, 4),), 0, ""),
        ("hot\ndog,<box>1,2,\n3,4</box>", "hot\ndog", ((1, 2, 3, 4),), 0, ""),
        (f"cat,{MASK}", "cat", (), 1, ""),
        ("cat," + " ".join(["<MASK>"] * 16), "cat", (), 1, ""),
        (f"It is {MASK}.", "", (), 1, "It is ."),
        (f"a,b,{MASK}{MASK}", "a,b", (), 2, ""),
        (f"dog,<box>1,2,3,4</box>{MASK}", "dog", ((1, 2, 3, 4),), 1, ""),
        ("<DEPTH>" * 16, "", (), 1, ""),
        ("background", "background", (), 0, ""),
        (" two, three ", "two, three", (), 0, ""),
        ("", "", (), 0, ""),
    ],
)
def test_reading(text, label, boxes, groups, rest):
    assert answers.parse(text, CODEC) == answers.Parsed(label, boxes, groups, True, rest)


@pytest.mark.parametrize(
    ("text", "boxes", "groups"),
    [
        ("dog,<box>1,2,3</box>", (), 0),
        ("dog,<box>1,2,3,4,5</box>", (), 0),
        ("dog,<box>1,2,3,4", (), 0),
        ("dog,1,2,3,4</box>", (), 0),
        ("dog,<box></box>", (), 0),
        ("dog,<box>1,2,3,1001</box>", (), 0),
        ("dog,<box>1,2,3,-4</box>", (), 0),
        ("dog,<box>1,2,3,4.5</box>", (), 0),
        ("dog,<box>1,2,three,4</box>", (), 0),
        ("dog,<box>1,2,3,٤</box>", (), 0),
        ("dog,<box>1,2,3," + "9" * 9000 + "</box>", (), 0),
        ("<box>1,2,3,4</box><box>1,2", ((1, 2, 3, 4),), 0),
        ("<box>1,2<box>1,2,3,4</box>", (), 0),
        ("cat," + "<MASK>" * 15, (), 0),
        ("cat," + "<MASK>" * 17, (), 1),
        ("<MASK>" * 8 + "<DEPTH>" * 8, (), 0),
    ],
)
def test_reading_what_is_malformed(text, boxes, groups):
    parsed = answers.parse(text, CODEC)
    assert not parsed.ok
    assert parsed.boxes == boxes
    assert parsed.slot_groups == groups


def test_reading_never_raises():
    rng = random.Random(0)
    parts = [
        "<box>",
        "</box>",
        "<MASK>",
        "<DEPTH>",
        "<LOCAL>",
        ",",
        ".",
        " ",
        "\n",
        "12",
        "7",
        "dog",
        "é",
        "(",
        "\\",
        "[",
    ]
    for _ in range(3000):
        text = "".join(rng.choices(parts, k=rng.randrange(30)))
        parsed = answers.parse(text, SMALL)
        assert all(0 <= v <= 100 for box in parsed.boxes for v in box)
        assert "".join(answers.pieces(text, SMALL)) == text


def test_special_characters_in_tokens_are_plain_text():
    codec = Codec(box_open="(.*", box_close="|)", mask_token="[M]", slot_side=1)
    assert answers.parse("dog,(.*1,2,3,4|)", codec).boxes == ((1, 2, 3, 4),)
    assert answers.pieces("dog,[M]x", codec) == ["dog", ",", "[M]", "x"]


def test_what_is_written_is_read():
    rng = random.Random(1)
    for _ in range(300):
        boxes = tuple(tuple(rng.randrange(1001) for _ in range(4)) for _ in range(rng.randrange(1, 4)))
        label = rng.choice(["dog", "traffic light", "tv, old", "Ω 3"])
        text = f"{label}," + ";".join(answers.box(b, CODEC) for b in boxes)
        parsed = answers.parse(text, CODEC)
        assert (parsed.label, parsed.boxes, parsed.ok) == (label, boxes, True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dog,<box>1,20,3,4</box>", ["dog", ",", "<box>", "1", ",", "20", ",", "3", ",", "4", "</box>"]),
        ("It is <MASK><MASK>.", ["It is ", "<MASK>", "<MASK>", "."]),
        ("Sure, <MASK>", ["Sure, ", "<MASK>"]),
        ("hot dog,<MASK>", ["hot dog", ",", "<MASK>"]),
        ("a,b,<MASK>", ["a,b", ",", "<MASK>"]),
        (",<box>", [",", "<box>"]),
        ("3 dogs, 4 cats", ["3 dogs, 4 cats"]),
        ("background", ["background"]),
        ("<box>1, 2</box>", ["<box>", "1", ",", " ", "2", "</box>"]),
        ("<box>1,2,3,4</box>;<box>5", ["<box>", "1", ",", "2", ",", "3", ",", "4", "</box>", ";", "<box>", "5"]),
        ("a,</box>b", ["a,", "</box>", "b"]),
        ("dog,<LOCAL>", ["dog,", "<LOCAL>"]),
        ("", []),
    ],
)
def test_pieces(text, expected):
    assert answers.pieces(text, CODEC) == expected
    assert "".join(expected) == text


DETECTION = Alternatives(((OneOf(("dog", "hot dog")), Literal(","), Box()), (Literal("background"),)))


def test_expanding_a_grammar():
    number, comma = Integer(0, 1000), Literal(",")
    span = (Literal("<box>"), number, comma, number, comma, number, comma, number, Literal("</box>"))
    assert answers.box_parts(CODEC) == span
    options = ((OneOf(("dog", "hot dog")), comma, *span), (Literal("background"),))
    assert answers.expand((DETECTION,), CODEC) == (Alternatives(options),)
    assert answers.expand((Literal("It is <MASK>."), Slots(2)), CODEC) == (
        Literal("It is "),
        Literal("<MASK>"),
        Literal("."),
        Slots(2),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dog,<box>0,1,2,1000</box>", True),
        ("hot dog,<box>0,1,2,3</box>", True),
        ("background", True),
        ("cat,<box>0,1,2,3</box>", False),
        ("dog,<box>0,1,2,1001</box>", False),
        ("dog,<box>0,1,2,03</box>", False),
        ("dog,<box>0,1,2</box>", False),
        ("dog,<box>0,1,2,3</box>.", False),
        ("dog", False),
        ("", False),
    ],
)
def test_grammar_of_detection(text, expected):
    assert answers.matches((DETECTION,), text, CODEC) is expected


def test_grammar_of_slots_and_of_nothing():
    grammar = (Literal("It is "), Slots(4), Literal("."))
    assert answers.matches(grammar, "It is " + "<MASK>" * 4 + ".", SMALL)
    assert not answers.matches(grammar, "It is " + "<MASK>" * 3 + ".", SMALL)
    assert answers.matches((), "", SMALL)
    assert answers.matches((Alternatives(((), (Literal("x"),))),), "", SMALL)  # the negative that only ends


def test_grammar_backtracks():
    assert answers.matches((OneOf(("a", "ab")), Literal("c")), "abc", SMALL)
    assert answers.matches((Integer(0, 99), Integer(5, 5)), "125", SMALL)
    assert not answers.matches((Integer(10, 20),), "9", SMALL)


def test_well_formed_text_of_a_grammar_is_read_as_ok():
    rng = random.Random(2)
    for _ in range(200):
        text = f"{rng.choice(['dog', 'hot dog'])},{answers.box([rng.randrange(1001) for _ in range(4)], CODEC)}"
        assert answers.matches((DETECTION,), text, CODEC)
        assert answers.parse(text, CODEC).ok


def rendered(grammar, rng, codec):
    """One random answer of an expanded grammar, part by part, slot tokens one by one."""
    for part in grammar:
        if isinstance(part, Alternatives):
            yield from rendered(rng.choice(part.options), rng, codec)
        elif isinstance(part, Integer):
            yield str(rng.randint(part.low, part.high))
        elif isinstance(part, Slots):
            yield from [codec.mask_token] * part.count
        else:
            yield rng.choice(part.texts) if isinstance(part, OneOf) else part.text


def test_pieces_of_a_text_are_the_parts_of_its_grammar():
    rng = random.Random(3)
    classes = OneOf(("dog", "hot dog", "tv, old", "3 Ω"))
    segment = Alternatives(((classes, Literal(","), Slots(16)), (Literal("background"),)))
    detect = Alternatives(((classes, Literal(","), Box()), (Literal("background"),)))
    for grammar in [(segment,), (detect,), (Literal("It is "), Slots(16), Literal(".")), (Box(),)]:
        expanded = answers.expand(grammar, CODEC)
        for _ in range(50):
            parts = list(rendered(expanded, rng, CODEC))
            assert answers.pieces("".join(parts), CODEC) == parts
            assert answers.matches(grammar, "".join(parts), CODEC)
