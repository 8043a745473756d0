"""Task ``vqa``: any question with an answer in words; captions too, by a template that asks for them."""

from __future__ import annotations

import numpy as np

from ufo_tune.core.codec import Codec
from ufo_tune.core.types import Dialogue, Generation, Prediction, Sample
from ufo_tune.errors import DataError
from ufo_tune.tasks import _single_answer as single
from ufo_tune.tasks._truth import asked_text, refuse_tokens, truth
from ufo_tune.templates import Template

TEMPLATE = "vqa"
"""Default template."""


def encode(sample: Sample, template: Template, codec: Codec, rng: np.random.Generator | None) -> Dialogue:
    """The question, and the true text as answer.

    Args:
        sample: ``text`` is the question (not needed where the template does not fill it in); ``targets.text``
            (training only) the answer.
        template: wordings; fills ``{question}`` and ``{text}``.
        codec: its tokens may not be spelled in question or answer.
        rng: draws the wordings; None asks the evaluation's wording and leaves the answer open.

    Raises:
        DataError: empty question; in training no targets or an empty answer.
    """
    fields = {"question": asked_text(sample, "question", codec)} if template.asks("question") else {}
    question = template.question(rng, **fields)
    if rng is None:
        return single.dialogue(template, question, None)
    answer = truth(sample).text.strip()
    if not answer:
        raise DataError(f"{sample.source}: the answer is empty (got {truth(sample).text!r}); give text, or drop it")
    refuse_tokens(sample, "answer", answer, codec)
    return single.dialogue(template, question, template.answer(rng, text=answer))


def decode(generation: Generation, sample: Sample, codec: Codec) -> Prediction:
    """The answer's words. Any text can be read, so none is invalid."""
    return Prediction(text=generation.texts[0].strip())


def grammar(sample: Sample, codec: Codec, template: Template | None = None) -> None:
    """Nothing is ruled out."""
    return None
