"""Task ``conversation``: questions and answers in words that also point, over several turns.

``<bbox>`` and ``<mask>`` in the words stand for the next object of ``targets``, in order over all questions and answers
of ``history``, the question ``text`` and the answer ``targets.text``. Questions may point by boxes, answers by both::

    history  ("Where is the cup?", "It is at <bbox>."), ("Segment the plate.", "<mask>")
    text     "What is at <bbox>?"
    targets  text "A spoon.", three boxes, three masks (of which the second is used)

At inference the objects of questions and earlier answers are given, not truth: their boxes stand in the prompt. A mask
that was said earlier is only its tokens there, so at inference it takes a place in the order, and no pixels.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ufo_tune.core import answers, masks, placeholders
from ufo_tune.core.codec import Codec
from ufo_tune.core.retrieval import mask_logits, slot_queries
from ufo_tune.core.types import Dialogue, Generation, Prediction, Rle, Sample, Slot
from ufo_tune.core.views import crop_logits
from ufo_tune.errors import DataError
from ufo_tune.tasks import _single_answer as single
from ufo_tune.tasks import _talk
from ufo_tune.tasks._truth import boxes_inside, refuse_tokens, spoken, whole_masks
from ufo_tune.templates import Template

TEMPLATE = "conversation"
"""Default template."""
SLOTS = ("mask",)


def encode(sample: Sample, template: Template, codec: Codec, rng: np.random.Generator | None) -> Dialogue:
    """All turns, placeholders written as boxes and slots.

    Args:
        sample: see the module.
        template: wordings; fills ``{question}`` and ``{text}``.
        codec: how boxes and masks are written; its tokens may not be spelled in the words.
        rng: draws the wordings; None asks the evaluation's wording and leaves the last answer open.

    Raises:
        ConfigError: the template asks a question of its own.
        DataError: an empty question or answer, a ``<mask>`` in a question, fewer objects than placeholders; in training
            no targets, or more objects than placeholders.
    """
    words = _Pointing(sample, codec, learnt=rng is not None)
    found = _talk.dialogue(sample, template, rng, words)
    words.finish()
    return found


def decode(generation: Generation, sample: Sample, codec: Codec) -> Prediction:
    """The answer's words with placeholders, and one object for each, in order.

    A mask's box is its bounds. Where there is any mask, that of a ``<bbox>`` is empty; all are as sure as the answer. A
    box or mask that cannot be read makes the answer invalid; so does any in a conversation without an image.
    """
    said = placeholders.read(generation.texts[0], codec)
    kinds = placeholders.found(said.text)
    if sample.image is None:
        return Prediction(text=said.text, invalid=int(bool(kinds) or not said.ok))
    boxes = codec.decode_boxes(torch.tensor(said.boxes).reshape(-1, 4), sample.size)  # [N, 4]
    rles = None
    if placeholders.MASK in kinds:
        slots = iter(_masks(generation, sample, codec))
        empty = masks.encode(np.zeros(sample.size, dtype=bool))
        rles = tuple(next(slots, empty) if kind == placeholders.MASK else empty for kind in kinds)
        drawn = torch.tensor([kind == placeholders.MASK for kind in kinds])
        boxes = torch.where(drawn[:, None], masks.boxes_of(rles), boxes)  # [N, 4]
    scores = single.certainty(generation).expand(len(kinds)).clone()
    return Prediction(boxes, rles, scores, text=said.text, invalid=int(not said.ok))


def grammar(sample: Sample, codec: Codec, template: Template | None = None) -> None:
    """Nothing is ruled out; slot tokens come in whole slots all the same."""
    return None


def _masks(generation: Generation, sample: Sample, codec: Codec) -> tuple[Rle, ...]:
    """The masks of the answer's whole slots, in order."""
    queries, _, _ = slot_queries(generation.ids[:1], generation.hidden[:1], generation.slot_id, codec.slot_tokens)
    logits = mask_logits(queries, generation.image_features)  # [M, h*s, w*s]
    return masks.encode_many(crop_logits(logits, generation.views, sample.size) > 0)


class _Pointing(_talk.Words):
    """Words with places. ``used`` objects are spelled so far; slots have targets where the answer is ``learnt``."""

    def __init__(self, sample: Sample, codec: Codec, *, learnt: bool) -> None:
        super().__init__(sample, codec)
        self.learnt = learnt
        self.used = 0

    def question(self, text: str, what: str) -> str:
        if placeholders.MASK in placeholders.found(text):
            raise DataError(f"{self.sample.source}: the {what} points by <mask> (got {text!r:.80}); use <bbox>")
        return self._spelled(text, what)[0]

    def answer(self, text: str, what: str) -> tuple[str, tuple[Slot, ...]]:
        return self._spelled(text, what)

    def finish(self) -> None:
        """Check that every object was spoken of.

        Raises:
            DataError: in training some were not.
        """
        if self.learnt and self.used != self._count:
            raise DataError(
                f"{self.sample.source}: objects and placeholders differ in number (got {self._count} objects for "
                f"{self.used} of <bbox> and <mask>); give one object each, in their order"
            )

    def _spelled(self, text: str, what: str) -> tuple[str, tuple[Slot, ...]]:
        """Words, boxes and slot tokens, and the slots."""
        parts: list[str] = []
        slots: list[Slot] = []
        for piece in placeholders.cut(spoken(self.sample, what, text)):
            if piece == placeholders.BOX:
                number = self._next(what, given=True)  # before there are bins: it says what is missing
                parts.append(answers.box(self._bins[number].tolist(), self.codec))
            elif piece == placeholders.MASK:
                parts.append(answers.slots(self.codec))
                number = self._next(what, given=self.learnt)
                if self.learnt:
                    slots.append(Slot("mask", masks.decode(whole_masks(self.sample)[number])))
            else:
                refuse_tokens(self.sample, what, piece, self.codec)
                parts.append(piece)
        return "".join(parts), tuple(slots)

    def _next(self, what: str, *, given: bool) -> int:
        """The number of the next object, which has to be ``given`` or not."""
        if self.sample.image is None or (given and self.used >= self._count):
            shown = "no image" if self.sample.image is None else f"{self._count} objects"
            remedy = "give one object for each <bbox> and <mask>, in their order"
            if self.sample.image is not None and not self.learnt:
                remedy = "give a box for each <bbox> (`boxes` of a message, in Python), or say in words what is meant"
            raise DataError(f"{self.sample.source}: the {what} points at object {self.used} (got {shown}); {remedy}")
        self.used += 1
        return self.used - 1

    @property
    def _count(self) -> int:
        return 0 if self.sample.targets is None else len(self.sample.targets.boxes)

    @cached_property
    def _bins(self) -> Tensor:
        """[N, 4] of all objects."""
        return self.codec.encode_boxes(boxes_inside(self.sample), self.sample.size)
