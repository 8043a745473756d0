"""Task ``depth``: how far away every pixel is, in metres.

The answer is one slot of ``<DEPTH>`` tokens; its map goes through the sigmoid to the codec's ``depth_range``. What lies
beyond the range cannot be said: the nearest or farthest depth is answered, and the loss leaves such pixels out.

Source: UFO (arXiv 2503.01342) sec. 3.2; ufo.md 4.9.
"""

from __future__ import annotations

import numpy as np

from ufo_tune.core import answers, placeholders
from ufo_tune.core.answers import Grammar
from ufo_tune.core.codec import Codec
from ufo_tune.core.retrieval import depth_from_logits
from ufo_tune.core.types import Dialogue, Generation, Prediction, Sample, Slot
from ufo_tune.tasks import _single_answer as single
from ufo_tune.tasks._truth import truth, whole_map
from ufo_tune.templates import Template

TEMPLATE = "depth"
"""Default template."""
SLOTS = ("depth",)


def encode(sample: Sample, template: Template, codec: Codec, rng: np.random.Generator | None) -> Dialogue:
    """The question, and a slot for the depth map as answer.

    Args:
        sample: ``targets`` (training only) hold the depth map.
        template: wordings; fills ``{depth}``.
        codec: how a map is written.
        rng: draws the wordings; None asks the evaluation's wording and leaves the answer open.

    Raises:
        DataError: in training no targets, no depth map, or one of another size than the image.
    """
    question = template.question(rng)
    if rng is None:
        return single.dialogue(template, question, None)
    slot = Slot("depth", whole_map(sample, truth(sample).depth, "depth map"))
    return single.dialogue(template, question, template.answer(rng, depth=answers.slots(codec, depth=True)), (slot,))


def decode(generation: Generation, sample: Sample, codec: Codec) -> Prediction:
    """Metres at every pixel. An answer without a whole slot says nothing and counts as invalid.

    Between tokens logits are interpolated, not metres: that is what the loss saw.
    """
    text = placeholders.read(generation.texts[0], codec).text  # the map stands for itself
    logits = single.first_maps(generation, sample.size, codec, generation.depth_id)
    if logits is None:
        return Prediction(text=text, invalid=1)
    return Prediction(depth=depth_from_logits(logits[0], codec.depth_range).cpu().numpy(), text=text)


def grammar(sample: Sample, codec: Codec, template: Template | None = None) -> Grammar:
    """What may be answered: the template's wordings, or the bare slot where it is not given."""
    bare = (answers.Slots(codec.slot_tokens, depth=True),)
    return bare if template is None else single.wordings(template, codec)
