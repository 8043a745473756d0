"""Task ``res``: a phrase or sentence in, the mask of what it names out.

A template may allow phrases that name nothing (``no_target``; gRefCOCO), which are answered by ``NO_TARGET``, and
answers that explain the mask in words (``{mask} {text}``).

Source: UFO (arXiv 2503.01342) sec. 3.2; ufo.md 2.5, 2.6 and 4. GRES (arXiv 2306.00968) and LISA (arXiv 2308.00692)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import numpy as np
import torch

from ufo_tune.core import answers, masks, placeholders
from ufo_tune.core.answers import Grammar
from ufo_tune.core.codec import Codec
from ufo_tune.core.tiles import Blend, Tile
from ufo_tune.core.types import Dialogue, Generation, Prediction, Sample, Slot
from ufo_tune.plugins import Between
from ufo_tune.tasks import _single_answer as single
from ufo_tune.tasks._single_answer import NO_TARGET
from ufo_tune.tasks._truth import asked_text, explanation, nothing, one_object, whole_masks
from ufo_tune.templates import Template

__all__ = ["NO_TARGET", "SLOTS", "TEMPLATE", "decode", "encode", "grammar", "join"]

TEMPLATE = "res"
"""Default template."""
SLOTS = ("mask",)


def encode(sample: Sample, template: Template, codec: Codec, rng: np.random.Generator | None) -> Dialogue:
    """The question, and a slot for the mask as answer.

    Args:
        sample: ``text`` is the phrase; ``targets`` (training only) hold one mask, or none where the template allows
            that, and may hold an explanation in ``text``.
        template: wordings; fills ``{phrase}``, ``{mask}`` and, where there is an explanation, ``{text}``.
        codec: how a mask is written.
        rng: draws the wordings; None asks the evaluation's wording and leaves the answer open.

    Raises:
        ConfigError: every wording needs an explanation, and the sample has none.
        DataError: empty phrase; in training no targets, not one mask, or a mask of another size than the image.
    """
    phrase = asked_text(sample, "phrase", codec)
    question = template.question(rng, phrase=phrase)
    if rng is None:
        return single.dialogue(template, question, None, phrase=phrase)
    if template.no_target and nothing(sample):
        return single.dialogue(template, question, NO_TARGET, phrase=phrase)
    one_object(sample)
    slot = Slot("mask", masks.decode(whole_masks(sample)[0]))
    text = template.answer(rng, mask=answers.slots(codec), **explanation(sample, codec))
    return single.dialogue(template, question, text, (slot,), phrase)


def decode(
    generation: Generation, sample: Sample, codec: Codec, *, threshold: Annotated[float, Between(0, 1)] = 0.5
) -> Prediction:
    """The mask of the first whole slot, its bounds as box, and a score: the answer's certainty times the mask's.

    The mask's is the mean probability of its pixels, 0 where it has none: the words alone tell nothing where only one
    wording is allowed. ``NO_TARGET`` gives an empty mask, as sure as the words; an answer without a whole slot gives
    one too, and counts as invalid. The answer's words are kept, with ``<mask>`` where the mask was.

    Args:
        generation: one answer.
        sample: what was asked.
        codec: how a mask is written.
        threshold: probability above which a pixel belongs to the mask. One half makes the fewest wrong pixels; Dice is
            best at half the best Dice there is, where probabilities are true ones (Lipton et al., "Optimal thresholding
            of classifiers to maximize F1 measure", 2014).
    """
    text = placeholders.read(generation.texts[0], codec).text
    logits = single.first_maps(generation, sample.size, codec, generation.slot_id)
    if logits is not None:
        positive = logits > torch.tensor(threshold).logit()  # [1, H, W]
        found = masks.encode_many(positive)
        score = single.certainty(generation) * masks.mean_inside(logits.sigmoid(), positive).float().cpu()
        return Prediction(masks.boxes_of(found), found, score, text=text)
    empty = masks.encode(np.zeros(sample.size, dtype=bool))
    said = single.says_nothing(text)
    score = single.certainty(generation) if said else torch.zeros(1)
    return Prediction(torch.zeros(1, 4), (empty,), score, text=text, invalid=int(not said))


def join(
    parts: Iterable[tuple[Tile, Generation]],
    sample: Sample,
    codec: Codec,
    *,
    threshold: Annotated[float, Between(0, 1)] = 0.5,
) -> Prediction:
    """The mask of a picture from answers about overlapping tiles of it: probabilities blended, then cut.

    A tile that cannot be read counts as empty and as one invalid answer. Score: the mean certainty of the tiles that
    can, times the mask's where any tile has one. Words: those of the first of them.

    Args:
        parts: (the tile of the picture, what was said of it), taken one by one.
        sample: of the whole picture.
        codec: how a mask is written.
        threshold: as for ``decode``.
    """
    blend, sure, words, drawn, invalid = Blend(1, sample.size), [torch.zeros(0)], "", False, 0
    for tile, generation in parts:
        logits = single.first_maps(generation, tile.size, codec, generation.slot_id)
        text = placeholders.read(generation.texts[0], codec).text
        blend.add(tile, torch.zeros(1, *tile.size) if logits is None else logits.sigmoid())
        drawn = drawn or logits is not None
        if logits is not None or single.says_nothing(text):
            sure.append(single.certainty(generation))
            words = words or text
        else:
            invalid += 1
    probabilities = blend.result()  # [1, H, W]
    positive = probabilities > threshold
    found = masks.encode_many(positive)
    read = torch.cat(sure)  # [tiles that can be read]
    score = read.mean(0, keepdim=True).nan_to_num(0.0)  # the mean of none is NaN
    if drawn:
        score = score * masks.mean_inside(probabilities, positive).float().cpu()
    return Prediction(masks.boxes_of(found), found, score, text=words, invalid=invalid)


def grammar(sample: Sample, codec: Codec, template: Template | None = None) -> Grammar | None:
    """What may be answered: the template's wordings, or None (anything) where it is not given or they hold text."""
    return None if template is None or template.answers_in("text") else single.wordings(template, codec)
