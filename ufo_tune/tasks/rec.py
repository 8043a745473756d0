"""Task ``rec``: a phrase in, the box of what it names out.

A template may allow phrases that name several things (``{boxes}``) or nothing (``no_target``), as gRefCOCO's do.

Source: UFO (arXiv 2503.01342) sec. 3.1; ufo.md 2.4 and 3. GREC (arXiv 2308.16182)
"""

from __future__ import annotations

import re

import numpy as np
import torch

from ufo_tune.core import answers, placeholders
from ufo_tune.core.answers import Grammar
from ufo_tune.core.codec import Codec
from ufo_tune.core.types import Dialogue, Generation, Prediction, Sample
from ufo_tune.tasks import _single_answer as single
from ufo_tune.tasks._single_answer import NO_TARGET
from ufo_tune.tasks._truth import asked_text, boxes_inside, nothing, one_object
from ufo_tune.templates import Template

__all__ = ["NO_TARGET", "TEMPLATE", "decode", "encode", "grammar"]

TEMPLATE = "rec"
"""Default template."""

_CENTRE = torch.tensor([[0.5, 0.5]])
"""The only answer has no grid point; ``cxcywh_local`` is then relative to the middle, which makes it absolute."""


def encode(sample: Sample, template: Template, codec: Codec, rng: np.random.Generator | None) -> Dialogue:
    """The question, and the box as answer.

    Args:
        sample: ``text`` is the phrase; ``targets`` (training only) hold one box, or as many as the template allows.
        template: wordings; fills ``{phrase}``, ``{range}`` and ``{box}`` or ``{boxes}``.
        codec: how a box is written.
        rng: draws the wordings; None asks the evaluation's wording and leaves the answer open.

    Raises:
        DataError: empty phrase; in training no targets, another number of boxes, or a box outside the image.
    """
    phrase = asked_text(sample, "phrase", codec)
    question = template.question(rng, phrase=phrase, range=f"0-{codec.num_bins}")
    if rng is None:
        return single.dialogue(template, question, None, phrase=phrase)
    if template.no_target and nothing(sample):
        return single.dialogue(template, question, NO_TARGET, phrase=phrase)
    several = template.answers_in("boxes")
    if nothing(sample) or not several:
        one_object(sample)
    bins = codec.encode_boxes(boxes_inside(sample), sample.size, _CENTRE)  # [N, 4]
    spans = "".join(answers.box(row, codec) for row in bins.tolist())
    text = template.answer(rng, boxes=spans) if several else template.answer(rng, box=spans)
    return single.dialogue(template, question, text, phrase=phrase)


def decode(generation: Generation, sample: Sample, codec: Codec) -> Prediction:
    """The boxes of the answer, with the answer's certainty as score, and its words, with ``<bbox>`` for each of them.

    ``NO_TARGET`` gives no box. An answer without a readable box gives one of zeros, a miss, and counts as invalid.
    """
    found = answers.parse(generation.texts[0], codec).boxes
    text = _words(generation.texts[0], codec)
    if not found and single.says_nothing(text):
        return Prediction(text=text)
    if not found:
        return Prediction(torch.zeros(1, 4), scores=torch.zeros(1), text=text, invalid=1)
    boxes = codec.decode_boxes(torch.tensor(found), sample.size, _CENTRE)  # [N, 4]
    return Prediction(boxes, scores=single.certainty(generation).expand(len(boxes)).clone(), text=text)


def grammar(sample: Sample, codec: Codec, template: Template | None = None) -> Grammar:
    """What may be answered: the template's wordings, or the bare box where it is not given."""
    return (answers.Box(),) if template is None else single.wordings(template, codec)


def _words(text: str, codec: Codec) -> str:
    """What was said, with ``<bbox>`` for each box that can be read; others are left out, as their boxes are."""
    span = f"{re.escape(codec.box_open)}.*?{re.escape(codec.box_close)}"
    kept = re.sub(span, lambda box: box[0] if answers.parse(box[0], codec).boxes else "", text, flags=re.DOTALL)
    return placeholders.read(kept, codec).text
