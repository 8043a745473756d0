"""Task ``rec``: a phrase in, the box of what it names out.

Source: UFO (arXiv 2503.01342) sec. 3.1; ufo.md 2.4 and 3.
"""

from __future__ import annotations

import numpy as np
import torch

from ufo_tune.core import answers
from ufo_tune.core.answers import Grammar
from ufo_tune.core.codec import Codec
from ufo_tune.core.types import Dialogue, Generation, Prediction, Sample
from ufo_tune.tasks import _single_answer as single
from ufo_tune.tasks._truth import asked_text, boxes_inside, one_object
from ufo_tune.templates import Template

TEMPLATE = "rec"
"""Default template."""

_CENTRE = torch.tensor([[0.5, 0.5]])
"""The only answer has no grid point; ``cxcywh_local`` is then relative to the middle, which makes it absolute."""


def encode(sample: Sample, template: Template, codec: Codec, rng: np.random.Generator | None) -> Dialogue:
    """The question, and the box as answer.

    Args:
        sample: ``text`` is the phrase; ``targets`` (training only) hold one box.
        template: wordings; fills ``{phrase}``, ``{range}``, ``{box}``.
        codec: how a box is written.
        rng: draws the wordings; None asks the evaluation's wording and leaves the answer open.

    Raises:
        DataError: empty phrase; in training no targets, not one box, or a box outside the image.
    """
    phrase = asked_text(sample, "phrase", codec)
    question = template.question(rng, phrase=phrase, range=f"0-{codec.num_bins}")
    text = None
    if rng is not None:
        one_object(sample)
        bins = codec.encode_boxes(boxes_inside(sample), sample.size, _CENTRE)  # [1, 4]
        text = template.answer(rng, box=answers.box(bins[0].tolist(), codec))
    return single.dialogue(template, question, text, phrase=phrase)


def decode(generation: Generation, sample: Sample, codec: Codec) -> Prediction:
    """The first box of the answer, with the answer's certainty as score.

    An answer without a readable box gives a box of zeros, a miss, and counts as invalid.
    """
    text = generation.texts[0]
    found = answers.parse(text, codec).boxes[:1]
    if not found:
        return Prediction(torch.zeros(1, 4), scores=torch.zeros(1), text=text, invalid=1)
    boxes = codec.decode_boxes(torch.tensor(found), sample.size, _CENTRE)  # [1, 4]
    return Prediction(boxes, scores=single.certainty(generation), text=text)


def grammar(sample: Sample, codec: Codec, template: Template | None = None) -> Grammar:
    """What may be answered: the template's wordings, or the bare box where it is not given."""
    return (answers.Box(),) if template is None else single.wordings(template, codec)
