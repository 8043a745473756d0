"""Task ``res``: a phrase or sentence in, the mask of what it names out.

Source: UFO (arXiv 2503.01342) sec. 3.2; ufo.md 2.5, 2.6 and 4.
"""

from __future__ import annotations

import numpy as np
import torch

from ufo_tune.core import answers, masks
from ufo_tune.core.answers import Grammar
from ufo_tune.core.codec import Codec
from ufo_tune.core.retrieval import mask_logits, slot_queries
from ufo_tune.core.types import Dialogue, Generation, Prediction, Sample, Slot
from ufo_tune.core.views import crop_logits
from ufo_tune.tasks import _single_answer as single
from ufo_tune.tasks._truth import asked_text, one_object, whole_masks
from ufo_tune.templates import Template

TEMPLATE = "res"
"""Default template."""


def encode(sample: Sample, template: Template, codec: Codec, rng: np.random.Generator | None) -> Dialogue:
    """The question, and a slot for the mask as answer.

    Args:
        sample: ``text`` is the phrase; ``targets`` (training only) hold one mask.
        template: wordings; fills ``{phrase}`` and ``{mask}``.
        codec: how a mask is written.
        rng: draws the wordings; None asks the evaluation's wording and leaves the answer open.

    Raises:
        DataError: empty phrase; in training no targets, not one mask, or a mask of another size than the image.
    """
    phrase = asked_text(sample, "phrase", codec)
    question = template.question(rng, phrase=phrase)
    if rng is None:
        return single.dialogue(template, question, None, phrase=phrase)
    one_object(sample)
    slot = Slot("mask", masks.decode(whole_masks(sample)[0]))
    text = template.answer(rng, mask=answers.slots(codec))
    return single.dialogue(template, question, text, (slot,), phrase)


def decode(generation: Generation, sample: Sample, codec: Codec) -> Prediction:
    """The mask of the first whole slot, its bounds as box, and the answer's certainty as score.

    An answer without a whole slot gives an empty mask and counts as invalid.
    """
    text = generation.texts[0]
    queries, _, _ = slot_queries(generation.ids[:1], generation.hidden[:1], generation.slot_id, codec.slot_tokens)
    if not len(queries):
        empty = masks.encode(np.zeros(sample.size, dtype=bool))
        return Prediction(torch.zeros(1, 4), (empty,), torch.zeros(1), text=text, invalid=1)
    logits = crop_logits(mask_logits(queries[:1], generation.image_features), generation.views, sample.size)
    found = masks.encode_many(logits > 0)  # [1, H, W]
    return Prediction(masks.boxes_of(found), found, single.certainty(generation), text=text)


def grammar(sample: Sample, codec: Codec, template: Template | None = None) -> Grammar | None:
    """What may be answered: the template's wordings, or None (anything) where it is not given."""
    return None if template is None else single.wordings(template, codec)
