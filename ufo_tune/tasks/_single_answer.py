"""What ``rec``, ``res`` and ``vqa`` share: one question, one answer, and what the model's words can be."""

from __future__ import annotations

from string import Formatter

from torch import Tensor

from ufo_tune.core.answers import Alternatives, Box, Grammar, Literal, Part, Slots
from ufo_tune.core.codec import Codec
from ufo_tune.core.types import Answer, Dialogue, Generation, Slot, Turn
from ufo_tune.templates import Template


def dialogue(
    template: Template, question: str, text: str | None, slots: tuple[Slot, ...] = (), phrase: str = ""
) -> Dialogue:
    """One question and its answer.

    With the image first the question belongs to the answer alone, so that several samples of one image can share a
    row; otherwise it stands before the image and the image tokens see it.
    """
    before = template.image_position == "before"
    answer = Answer(text, slots, question=question if before else None)
    turn = Turn("" if before else question, (answer,))
    return Dialogue((turn,), template.image_attention, template.image_position, phrase)


def wordings(template: Template, codec: Codec) -> Grammar:
    """Every answer that a template allows, as a grammar; for wordings of boxes and maps only."""
    return (Alternatives(tuple(tuple(_parts(wording, codec)) for wording in template.answers)),)


def certainty(generation: Generation) -> Tensor:
    """How sure the model was of its first answer: the geometric mean of its tokens' probabilities, [1] float32."""
    written = generation.ids[0] >= 0  # [L]
    scores = generation.scores[0][written].float().cpu()  # [tokens]
    return scores.clamp_min(1e-12).log().mean().exp().nan_to_num(0.0)[None]  # the mean of no tokens is NaN


def _parts(wording: str, codec: Codec) -> list[Part]:
    parts: list[Part] = []
    for literal, name, _, _ in Formatter().parse(wording):
        if literal:
            parts.append(Literal(literal))
        if name == "box":
            parts.append(Box())
        elif name == "mask":
            parts.append(Slots(codec.slot_tokens))
        elif name in ("depth", "normals"):
            parts.append(Slots(codec.slot_tokens * (3 if name == "normals" else 1), depth=True))
    return parts
