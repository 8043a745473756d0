"""Crops beside the image, which a task may ask for: what every family makes of them; a new one is tested on arrival."""

from dataclasses import replace

import pytest
import torch

from tests import tiny
from tests.contract import test_generate as generating
from ufo_tune.core.types import Answer, Dialogue, Turn

CROPS = ((10.2, 8.0, 30.0, 20.0), (2.0, 3.0, 50.0, 39.0))


@pytest.fixture(params=tiny.FAMILIES)
def model(request, tmp_path):
    return tiny.model(request.param, tmp_path)


def test_crops_are_further_images_of_plain_hf(model):
    """Each seen as an image of its own, none of them in the map; a row beside that has none is as it is alone."""
    plain = Dialogue((Turn("what is red", (Answer("a circle"),)),), image_attention="causal")
    dialogue = replace(plain, crops=CROPS)
    both = tiny.batch(model, [plain, dialogue])
    b = tiny.batch(model, [dialogue], [tiny.image(1)])
    is_image = (b.ids == model.processor.image_id).long()
    with torch.no_grad():
        ours, alone, beside = model(b), model(tiny.batch(model, [plain])), model(both)
        marks = {"mm_token_type_ids": is_image} if len(b.positions) == 3 else {}
        hf = model.vlm.hf(input_ids=b.ids, attention_mask=torch.ones_like(b.ids), **b.pixels, **marks)
    assert torch.allclose(ours.logits(ours.hidden), hf.logits, atol=1e-4)
    assert b.views[0][: len(both.views[0])] == both.views[0] and all(
        v.thumbnail for v in b.views[0][len(both.views[0]) :]
    )
    assert ours.image_features[0].shape == alone.image_features[0].shape
    assert torch.allclose(alone.hidden[0], beside.hidden[0, : alone.hidden.shape[1]], atol=1e-5)
    other = tiny.batch(model, [replace(plain, crops=(CROPS[0], (0.0, 0.0, 20.0, 30.0)))], [tiny.image(1)])
    with torch.no_grad():
        assert not torch.allclose(model(other).hidden[0, -1], ours.hidden[0, -1], atol=1e-4)


def test_answers_about_crops_are_those_of_teacher_forcing(model):
    """Grid points and slots are the whole image's, whatever else is seen."""
    generating.varied(model)
    dialogue = replace(generating.ROWS[0], crops=CROPS)
    _, (generation,) = generating.run(model, [dialogue], [generating.GRAMMAR])
    generating.check_against_forward(model, dialogue, tiny.image(0), generation, free=False)
