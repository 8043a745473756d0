"""Task ``vqa``: any question with an answer in words; captions too, by a template that asks for them.

A sample's ``history`` becomes earlier turns. In training every answer is learnt, the earlier ones too; at inference
the earlier ones are given as they were said.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ufo_tune.core.codec import Codec
from ufo_tune.core.types import Answer, Dialogue, Generation, Prediction, Sample, Turn
from ufo_tune.errors import ConfigError, DataError
from ufo_tune.tasks import _single_answer as single
from ufo_tune.tasks._truth import asked_text, refuse_tokens, truth
from ufo_tune.templates import Template

TEMPLATE = "vqa"
"""Default template."""


def encode(sample: Sample, template: Template, codec: Codec, rng: np.random.Generator | None) -> Dialogue:
    """The question, and the true text as answer; before them the turns of ``history``.

    Args:
        sample: ``text`` is the question (not needed where the template does not fill it in); ``targets.text``
            (training only) the answer.
        template: wordings; fills ``{question}`` and ``{text}``.
        codec: its tokens may not be spelled in questions or answers.
        rng: draws the wordings; None asks the evaluation's wording and leaves the last answer open.

    Raises:
        ConfigError: the template asks a question of its own, which earlier turns do not lead to.
        DataError: an empty question or earlier answer; in training no targets or an empty answer.
    """
    fields = {"question": asked_text(sample, "question", codec)} if template.asks("question") else {}
    question = template.question(rng, **fields)
    if rng is None:
        asked = single.dialogue(template, question, None)
    else:
        asked = single.dialogue(template, question, template.answer(rng, text=_answer(sample, codec)))
    return replace(asked, turns=(*_history(sample, template, codec, rng), *asked.turns))


def decode(generation: Generation, sample: Sample, codec: Codec) -> Prediction:
    """The answer's words. Any text can be read, so none is invalid."""
    return Prediction(text=generation.texts[0].strip())


def grammar(sample: Sample, codec: Codec, template: Template | None = None) -> None:
    """Nothing is ruled out."""
    return None


def _answer(sample: Sample, codec: Codec) -> str:
    text = truth(sample).text.strip()
    if not text:
        raise DataError(f"{sample.source}: the answer is empty (got {truth(sample).text!r}); give text, or drop it")
    refuse_tokens(sample, "answer", text, codec)
    return text


def _history(sample: Sample, template: Template, codec: Codec, rng: np.random.Generator | None) -> list[Turn]:
    """Earlier turns. Their questions stand in the prompt, so that what follows sees them."""
    if sample.history and not template.asks("question"):
        raise ConfigError(
            f"{sample.source}: template {template.name} asks its own question (got {len(sample.history)} earlier "
            "turns); use a template with {question}, such as vqa"
        )
    turns = []
    for number, said in enumerate(sample.history):
        question, answer = (text.strip() for text in said)
        for what, text in (("question", question), ("answer", answer)):
            if not text:
                raise DataError(f"{sample.source}: the {what} of turn {number} is empty (got {said}); drop the turn")
            refuse_tokens(sample, f"{what} of turn {number}", text, codec)
        turns.append(Turn(template.question(rng, question=question), (Answer(template.answer(rng, text=answer)),)))
    return turns
