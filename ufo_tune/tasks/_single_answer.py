"""What tasks with one question and one answer share: the dialogue, the words it can hold, and its maps."""

from __future__ import annotations

from string import Formatter

from torch import Tensor

from ufo_tune.core.answers import Alternatives, Box, Grammar, Literal, Part, Slots
from ufo_tune.core.codec import Codec
from ufo_tune.core.retrieval import mask_logits, slot_queries
from ufo_tune.core.types import Answer, Dialogue, Generation, Slot, Turn
from ufo_tune.core.views import crop_logits
from ufo_tune.templates import Template

NO_TARGET = "There is no such object."
"""The answer to a phrase that names nothing, where the template allows such phrases (``no_target``)."""
_MOST_BOXES = 12
"""Boxes that a grammar allows in a row."""


def dialogue(
    template: Template, question: str, text: str | None, slots: tuple[Slot, ...] = (), phrase: str = ""
) -> Dialogue:
    """One question and its answer.

    With the image first the question belongs to the answer alone, so that several samples of one image can share a
    row; otherwise it stands before the image and the image tokens see it.
    """
    before = template.image_position == "before"
    answer = Answer(text, slots, question=question if before else None, phrase=phrase)
    turn = Turn("" if before else question, (answer,))
    return Dialogue((turn,), template.image_attention, template.image_position)


def wordings(template: Template, codec: Codec) -> Grammar:
    """Every answer that a template allows, as a grammar; for wordings of boxes and maps only."""
    nothing = ((Literal(NO_TARGET),),) if template.no_target else ()
    return (Alternatives((*(tuple(_parts(wording, codec)) for wording in template.answers), *nothing)),)


def says_nothing(text: str) -> bool:
    """Whether an answer is that for a phrase that names nothing; case and final point do not matter."""
    return text.strip().rstrip(".").casefold() == NO_TARGET.rstrip(".").casefold()


def certainty(generation: Generation) -> Tensor:
    """How sure the model was of its first answer: the geometric mean of its tokens' probabilities, [1] float32."""
    written = generation.ids[0] >= 0  # [L]
    scores = generation.scores[0][written].float().cpu()  # [tokens]
    return scores.clamp_min(1e-12).log().mean().exp().nan_to_num(0.0)[None]  # the mean of no tokens is NaN


def first_maps(
    generation: Generation, size: tuple[int, int], codec: Codec, slot_id: int, count: int = 1
) -> Tensor | None:
    """The logits [count, H, W] of the first ``count`` whole slots in a row of the answer, at (H, W) pixels.

    Args:
        generation: with one answer.
        size: (H, W) of the image.
        codec: how many tokens a slot has.
        slot_id: id of its token.
        count: maps that belong together.

    Returns:
        None where the answer has not so many whole slots.
    """
    queries, _, _ = slot_queries(generation.ids[:1], generation.hidden[:1], slot_id, count * codec.slot_tokens)
    if not len(queries):
        return None
    slots = queries[0].reshape(count, codec.slot_tokens, -1)  # [count * S, D] -> [count, S, D]
    return crop_logits(mask_logits(slots, generation.image_features), generation.views, size)


def _parts(wording: str, codec: Codec) -> list[Part]:
    parts: list[Part] = []
    for literal, name, _, _ in Formatter().parse(wording):
        if literal:
            parts.append(Literal(literal))
        if name == "box":
            parts.append(Box())
        elif name == "boxes":
            parts.append(Alternatives(tuple((Box(),) * count for count in range(1, _MOST_BOXES + 1))))
        elif name == "mask":
            parts.append(Slots(codec.slot_tokens))
        elif name in ("depth", "normals"):
            parts.append(Slots(codec.slot_tokens * (3 if name == "normals" else 1), depth=True))
    return parts
