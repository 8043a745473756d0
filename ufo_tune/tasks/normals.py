"""Task ``normals``: which way the surface at every pixel faces, as a unit vector (x right, y down, z away).

The answer is three slots of ``<DEPTH>`` tokens in a row, one for each component: 2 sigmoid - 1, and the three together
brought to length one.

Source: UFO (arXiv 2503.01342 v3), supplement; ufo.md 4.9. It writes the sigmoid itself, which has no negative
components, and gives each component a token of its own.
"""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F

from ufo_tune.core import answers, placeholders
from ufo_tune.core.answers import Grammar
from ufo_tune.core.codec import Codec
from ufo_tune.core.retrieval import normals_from_logits
from ufo_tune.core.types import Dialogue, Generation, Prediction, Sample, Slot
from ufo_tune.tasks import _single_answer as single
from ufo_tune.tasks._truth import truth, whole_map
from ufo_tune.templates import Template

TEMPLATE = "normals"
"""Default template."""
SLOTS = ("normal",)
_COMPONENTS = 3


def encode(sample: Sample, template: Template, codec: Codec, rng: np.random.Generator | None) -> Dialogue:
    """The question, and a slot for each component of the normals as answer.

    Args:
        sample: ``targets`` (training only) hold the normals.
        template: wordings; fills ``{normals}``.
        codec: how a map is written.
        rng: draws the wordings; None asks the evaluation's wording and leaves the answer open.

    Raises:
        DataError: in training no targets, no normals, or of another size than the image.
    """
    question = template.question(rng)
    if rng is None:
        return single.dialogue(template, question, None)
    components = np.moveaxis(whole_map(sample, truth(sample).normals, "map of normals"), -1, 0)  # [3, H, W]
    text = template.answer(rng, normals=answers.slots(codec, depth=True) * _COMPONENTS)
    return single.dialogue(template, question, text, tuple(Slot("normal", c) for c in components))


def decode(generation: Generation, sample: Sample, codec: Codec) -> Prediction:
    """A unit vector at every pixel. An answer without three whole slots says nothing and counts as invalid."""
    text = placeholders.read(generation.texts[0], codec).text  # the map stands for itself
    logits = single.first_maps(generation, sample.size, codec, generation.depth_id, _COMPONENTS)
    if logits is None:
        return Prediction(text=text, invalid=1)
    normals = F.normalize(normals_from_logits(logits), dim=0)  # [3, H, W]
    return Prediction(normals=normals.permute(1, 2, 0).cpu().numpy(), text=text)  # [3, H, W] -> [H, W, 3]


def grammar(sample: Sample, codec: Codec, template: Template | None = None) -> Grammar:
    """What may be answered: the template's wordings, or the bare slots where it is not given."""
    bare = (answers.Slots(_COMPONENTS * codec.slot_tokens, depth=True),)
    return bare if template is None else single.wordings(template, codec)
