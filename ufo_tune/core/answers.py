"""The text of answers: written, cut into pieces, read back, and described by a grammar.

    "dog,<box>12,40,300,410</box>"    "dog,<MASK><MASK>..."    "background"    "It is <MASK><MASK>...."

Reading never raises: what a model writes may be anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from ufo_tune.core.codec import Codec

_INTEGER = re.compile(r"[0-9]{1,9}")  # bounded: int() refuses thousands of digits
_HALVES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Literal:
    """Exactly this text, one piece of it as ``pieces`` cuts it."""

    text: str


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of these texts."""

    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Integer:
    """A decimal integer in low..high, both included, without leading zeros."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Slots:
    """``count`` slot tokens in a row, of masks or of depth."""

    count: int
    depth: bool = False

    def tokens(self, codec: Codec) -> list[str]:
        """The tokens, one piece each."""
        return [codec.depth_token if self.depth else codec.mask_token] * self.count


@dataclass(frozen=True, slots=True)
class Box:
    """A box span; ``expand`` turns it into ``box_parts``."""


@dataclass(frozen=True, slots=True)
class Alternatives:
    """One of these sequences of parts."""

    options: tuple[tuple[Part, ...], ...]


Part = Literal | OneOf | Integer | Slots | Box | Alternatives
"""A piece of a grammar; a grammar is a tuple of parts, one after the other."""
Grammar = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Parsed:
    """What an answer says.

    ``label`` is the text before the first ``,<box>`` or ``,<MASK>`` (all of it where the answer holds neither),
    ``boxes`` the readable boxes in bins, ``slot_groups`` the number of whole slots, ``rest`` what remains. ``ok`` is
    False if a box span is not four integers in 0..num_bins, or slot tokens do not add up to whole slots.
    """

    label: str
    boxes: tuple[tuple[int, int, int, int], ...]
    slot_groups: int
    ok: bool
    rest: str


def slots(codec: Codec, *, depth: bool = False) -> str:
    """The text of one map: the slot token of masks, or of depth, S times."""
    return "".join(Slots(codec.slot_tokens, depth).tokens(codec))


def box(values: Sequence[int], codec: Codec) -> str:
    """The text of one box of four bins: ``<box>a,b,c,d</box>``."""
    a, b, c, d = (int(v) for v in values)
    return f"{codec.box_open}{a},{b},{c},{d}{codec.box_close}"


def box_parts(codec: Codec) -> Grammar:
    """The grammar of one box span."""
    number, comma = Integer(0, codec.num_bins), Literal(",")
    inner = (number, comma, number, comma, number, comma, number)
    return (Literal(codec.box_open), *inner, Literal(codec.box_close))


def expand(grammar: Grammar, codec: Codec) -> Grammar:
    """The same grammar without ``Box`` parts, each literal cut into its pieces."""
    result: list[Part] = []
    for part in grammar:
        if isinstance(part, Box):
            result.extend(box_parts(codec))
        elif isinstance(part, Alternatives):
            result.append(Alternatives(tuple(expand(option, codec) for option in part.options)))
        elif isinstance(part, Literal):
            result.extend(Literal(text) for text in pieces(part.text, codec))
        else:
            result.append(part)
    return tuple(result)


def matches(grammar: Grammar, text: str, codec: Codec) -> bool:
    """Whether a whole text is one that the grammar can give."""
    return any(end == len(text) for end in _ends(expand(grammar, codec), text, 0, codec))


def parse(text: str, codec: Codec) -> Parsed:
    """What an answer says; never raises. Blanks around numbers and slot tokens do not matter."""
    opened, closed = re.escape(codec.box_open), re.escape(codec.box_close)
    slot = f"(?:{re.escape(codec.mask_token)}|{re.escape(codec.depth_token)})"
    first = re.search(f"{opened}|{closed}|{slot}", text)
    if first is None:
        return Parsed(text.strip(), (), 0, True, "")
    head = re.fullmatch(r"(.*?)\s*,\s*", text[: first.start()], flags=re.DOTALL)
    label = head[1].strip() if head else ""
    body = text[first.start() :] if head else text
    spans = [_bins(span, codec) for span in re.findall(f"{opened}(.*?){closed}", body, flags=re.DOTALL)]
    rest = re.sub(f"{opened}.*?{closed}", "", body, flags=re.DOTALL)
    whole = not re.search(f"{opened}|{closed}", rest)
    counts = [rest.count(token) for token in (codec.mask_token, codec.depth_token)]
    whole = whole and all(spans) and all(count % codec.slot_tokens == 0 for count in counts)
    groups = sum(count // codec.slot_tokens for count in counts)
    rest = re.sub(f"{opened}|{closed}|{slot}", "", rest).strip()
    return Parsed(label, tuple(span for span in spans if span), groups, whole, rest)


def tidy(text: str, codec: Codec) -> str:
    """A decoded answer as it is written in training: no blanks around special tokens, inside boxes, before commas.

    Many tokenizers put blanks between the pieces of ``pieces`` when they decode.
    """
    opened, closed = re.escape(codec.box_open), re.escape(codec.box_close)
    text = re.sub(f"{opened}.*?{closed}", lambda span: re.sub(r"\s+", "", span[0]), text, flags=re.DOTALL)
    text = re.sub(rf"\s*,\s*(?={opened}|{re.escape(codec.mask_token)}|{re.escape(codec.depth_token)})", ",", text)
    for token in (codec.mask_token, codec.depth_token):
        text = re.sub(rf"(?<={re.escape(token)})\s+(?={re.escape(token)})", "", text)
    return re.sub(r"\s+(?=[,.?!;:](\s|$))", "", text).strip()


def whole(text: str) -> bool:
    """Whether no letter is only half there: JSON can write such a text, no file and no tokenizer takes it."""
    return _HALVES.search(text) is None


def pieces(text: str, codec: Codec) -> list[str]:
    """An answer cut where tokens must not run across, so that training and decoding see the same tokens.

    Every special token is a piece; inside a box span so is every integer and every comma; a comma right before a box
    or a slot is one too, so a class name is tokenised alone. Whatever lies between is one piece each.

    Returns:
        Non-empty strings that join to ``text``.
    """
    openers = (codec.box_open, codec.mask_token, codec.depth_token)
    runs = [run for run in _special(codec.special_tokens).split(text) if run]
    result: list[str] = []
    inside = False
    for run, after in pairwise([*runs, ""]):
        if run in codec.special_tokens:
            inside = run == codec.box_open or (inside and run != codec.box_close)
            result.append(run)
        elif inside:
            result.extend(re.findall(r"[0-9]+|,|[^0-9,]+", run))
        elif after in openers and run.endswith(",") and run != ",":
            result.extend([run[:-1], ","])
        else:
            result.append(run)
    return result


@lru_cache(maxsize=16)
def _special(tokens: tuple[str, ...]) -> re.Pattern[str]:
    """Any of these tokens, the longest first."""
    return re.compile("(" + "|".join(re.escape(t) for t in sorted(tokens, key=len, reverse=True)) + ")")


def _bins(span: str, codec: Codec) -> tuple[int, int, int, int] | None:
    fields = re.sub(r"\s", "", span).split(",")
    if len(fields) != 4 or not all(_INTEGER.fullmatch(field) for field in fields):
        return None
    a, b, c, d = (int(field) for field in fields)
    return (a, b, c, d) if max(a, b, c, d) <= codec.num_bins else None


def _ends(grammar: Grammar, text: str, start: int, codec: Codec) -> Iterator[int]:
    if not grammar:
        yield start
        return
    for middle in _part_ends(grammar[0], text, start, codec):
        yield from _ends(grammar[1:], text, middle, codec)


def _part_ends(part: Part, text: str, start: int, codec: Codec) -> Iterator[int]:
    if isinstance(part, Alternatives):
        for option in part.options:
            yield from _ends(option, text, start, codec)
    elif isinstance(part, Integer):
        digits = _INTEGER.match(text, start)
        for end in range(start + 1, digits.end() + 1 if digits else 0):
            number = text[start:end]
            if str(int(number)) == number and part.low <= int(number) <= part.high:
                yield end
    else:
        texts = ("".join(part.tokens(codec)),) if isinstance(part, Slots) else _texts(part)
        yield from (start + len(t) for t in texts if text.startswith(t, start))


def _texts(part: Literal | OneOf | Box) -> tuple[str, ...]:
    if isinstance(part, Box):  # expanded before
        return ()
    return (part.text,) if isinstance(part, Literal) else part.texts
