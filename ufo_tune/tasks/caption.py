"""Task ``caption``: a sentence about the whole image; the question is the template's own.

Source: UFO (arXiv 2503.01342) sec. 4.1; ufo.md 2.8.
"""

from __future__ import annotations

import numpy as np

from ufo_tune.core.codec import Codec
from ufo_tune.core.types import Dialogue, Generation, Prediction, Sample
from ufo_tune.tasks import _single_answer as single
from ufo_tune.tasks._truth import refuse_tokens, spoken, truth
from ufo_tune.templates import Template

TEMPLATE = "caption"
"""Default template."""


def encode(sample: Sample, template: Template, codec: Codec, rng: np.random.Generator | None) -> Dialogue:
    """The template's question, and one of the true captions as answer.

    Args:
        sample: ``targets`` (training only) hold ``references``, of which one is drawn, or ``text`` alone.
        template: wordings; fills ``{text}``.
        codec: its tokens may not be spelled in a caption.
        rng: draws caption and wordings; None asks the evaluation's wording and leaves the answer open.

    Raises:
        ConfigError: the template's question has a field.
        DataError: in training no targets, or an empty caption.
    """
    question = template.question(rng)
    if rng is None:
        return single.dialogue(template, question, None)
    captions = truth(sample).references or (truth(sample).text,)
    text = spoken(sample, "caption", captions[int(rng.integers(len(captions)))])
    refuse_tokens(sample, "caption", text, codec)
    return single.dialogue(template, question, template.answer(rng, text=text))


def decode(generation: Generation, sample: Sample, codec: Codec) -> Prediction:
    """The caption. Any text can be read, so none is invalid."""
    return Prediction(text=generation.texts[0].strip())


def grammar(sample: Sample, codec: Codec, template: Template | None = None) -> None:
    """Nothing is ruled out."""
    return None
