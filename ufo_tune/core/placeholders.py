"""How people write places into words: ``<bbox>`` and ``<mask>`` stand for the next object, as in ms-swift's data.

    cut("it is <bbox>, see <mask>")                              # ["it is ", "<bbox>", ", see ", "<mask>"]
    read("it is <box>1,2,3,4</box>, see <MASK>...<MASK>", codec)  # the same words again, and the box
    located("it is <bbox>", [[15.2, 10, 56, 51]])                # "it is [15, 10, 56, 51]"

Data and predictions hold placeholders; only what the model sees and writes holds the codec's tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ufo_tune.core import answers
from ufo_tune.core.codec import Codec

BOX = "<bbox>"
MASK = "<mask>"
_ANY = re.compile(f"({BOX}|{MASK})")


@dataclass(frozen=True, slots=True)
class Read:
    """A model's words with placeholders.

    ``boxes`` has four bins for each placeholder, zeros for a mask and for a box that is none. ``ok`` is False where
    such a box, or a token that belongs to no box and no whole mask, was left out.
    """

    text: str
    boxes: tuple[tuple[int, int, int, int], ...]
    ok: bool


def cut(text: str) -> list[str]:
    """The text in pieces that join to it: placeholders, and what lies between."""
    return [piece for piece in _ANY.split(text) if piece]


def found(text: str) -> list[str]:
    """The placeholders of a text, in order."""
    return _ANY.findall(text)


def located(text: str, boxes: Sequence[Sequence[float]]) -> str:
    """The words with each ``<bbox>`` as the pixels of its box, for people.

    Args:
        text: with placeholders.
        boxes: xyxy pixels, one for each of them in their order; a ``<bbox>`` beyond them stays as it is.
    """
    given = iter(boxes)
    pieces = [(piece, next(given, None) if piece in (BOX, MASK) else None) for piece in cut(text)]
    return "".join(p if p != BOX or box is None else f"[{', '.join(f'{v:.0f}' for v in box)}]" for p, box in pieces)


def read(text: str, codec: Codec) -> Read:
    """What an answer says, places as placeholders; never raises.

    Words that happen to spell a placeholder are left out, so that each stands for a place that was given.
    """
    opened, closed, slot = (re.escape(token) for token in (codec.box_open, codec.box_close, codec.mask_token))
    place = re.compile(rf"{opened}.*?{closed}|{slot}(?:\s*{slot}){{{codec.slot_tokens - 1}}}", re.DOTALL)
    stray = re.compile("|".join(re.escape(token) for token in codec.special_tokens))
    said, boxes, ok, start = "", [], True, 0
    for match in place.finditer(text):
        words = text[start : match.start()]
        box = answers.parse(match[0], codec).boxes
        is_box = match[0].startswith(codec.box_open)
        said += stray.sub("", _ANY.sub("", words)) + (BOX if is_box else MASK)
        boxes.append(box[0] if box else (0, 0, 0, 0))
        ok = ok and not stray.search(words) and bool(box) == is_box
        start = match.end()
    rest = text[start:]
    return Read((said + stray.sub("", _ANY.sub("", rest))).strip(), tuple(boxes), ok and not stray.search(rest))
