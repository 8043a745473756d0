"""Words with places: cut, counted, and read back from what a model wrote."""

from __future__ import annotations

import pytest

from ufo_tune.core import answers, placeholders
from ufo_tune.core.codec import Codec

CODEC = Codec(num_bins=100, slot_side=2)
MASK = answers.slots(CODEC)
BOX = answers.box((1, 2, 30, 40), CODEC)


def test_cut_joins_to_the_text() -> None:
    for text in ("", "words", "<bbox>", "a <bbox>, <mask><mask>.", "<BBOX> < mask> <box>"):
        assert "".join(placeholders.cut(text)) == text
    assert placeholders.cut("a <bbox>,<mask>") == ["a ", "<bbox>", ",", "<mask>"]
    assert placeholders.found("a <bbox>, <mask><mask> <MASK>") == ["<bbox>", "<mask>", "<mask>"]


@pytest.mark.parametrize(
    ("text", "boxes", "says"),
    [
        ("only words", [], "only words"),
        ("<bbox>", [[15.4, 9.6, 56, 51]], "[15, 10, 56, 51]"),
        ("<mask> by <bbox>, <bbox>", [[0] * 4, [1, 2, 3, 4]], "<mask> by [1, 2, 3, 4], <bbox>"),  # in their order
    ],
)
def test_located_says_boxes_in_pixels(text: str, boxes: list[list[float]], says: str) -> None:
    assert placeholders.located(text, boxes) == says


@pytest.mark.parametrize(
    ("text", "says", "boxes", "ok"),
    [
        ("only words", "only words", 0, True),
        (f"at {BOX}.", "at <bbox>.", 1, True),
        (f"{MASK}{MASK} and {BOX}", "<mask><mask> and <bbox>", 3, True),
        ("at <box> 1, 2,\n30 ,40 </box>", "at <bbox>", 1, True),
        ("<MASK> <MASK>\n<MASK><MASK>", "<mask>", 1, True),
        (f"{MASK}<MASK> it", "<mask> it", 1, False),
        ("<box>1,2,3</box>", "<bbox>", 1, False),
        ("<box>1,2,3,999</box>", "<bbox>", 1, False),
        ("<box>1,2,3,4", "1,2,3,4", 0, False),
        (f"say <bbox> and <mask> {BOX}", "say  and  <bbox>", 1, True),
        ("<DEPTH><LOCAL>", "", 0, False),
    ],
)
def test_read(text: str, says: str, boxes: int, ok: bool) -> None:
    read = placeholders.read(text, CODEC)
    assert (read.text, len(read.boxes), read.ok) == (says, boxes, ok)
    assert len(placeholders.found(read.text)) == len(read.boxes)
    if "bbox" in says and ok:
        assert read.boxes[-1] == (1, 2, 30, 40)
