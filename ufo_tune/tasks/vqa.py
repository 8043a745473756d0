"""Task ``vqa``: any question with an answer in words; ``history`` becomes earlier turns."""

from __future__ import annotations

import numpy as np

from ufo_tune.core import placeholders
from ufo_tune.core.codec import Codec
from ufo_tune.core.types import Dialogue, Generation, Prediction, Sample
from ufo_tune.errors import DataError
from ufo_tune.tasks import _talk
from ufo_tune.templates import Template

TEMPLATE = "vqa"
"""Default template."""


def encode(sample: Sample, template: Template, codec: Codec, rng: np.random.Generator | None) -> Dialogue:
    """The question, and the true text as answer; before them the turns of ``history``.

    Args:
        sample: ``text`` is the question; ``targets.text`` (training only) the answer.
        template: wordings; fills ``{question}`` and ``{text}``.
        codec: its tokens may not be spelled in questions or answers.
        rng: draws the wordings; None asks the evaluation's wording and leaves the last answer open.

    Raises:
        ConfigError: the template asks a question of its own.
        DataError: an empty question or answer; in training no targets; places, which words alone cannot point at.
    """
    said = [sample.text, *(text for turn in sample.history for text in turn)]
    if sample.targets is not None and len(sample.targets.boxes) and any(map(placeholders.found, said)):
        raise DataError(
            f"{sample.source}: task vqa cannot point (got {len(sample.targets.boxes)} boxes); leave <bbox> and <mask> "
            "out, or train the model on task conversation"
        )
    return _talk.dialogue(sample, template, rng, _talk.Words(sample, codec))


def decode(generation: Generation, sample: Sample, codec: Codec) -> Prediction:
    """The answer's words. Any text can be read, so none is invalid."""
    return Prediction(text=generation.texts[0].strip())


def grammar(sample: Sample, codec: Codec, template: Template | None = None) -> None:
    """Nothing is ruled out."""
    return None
