"""Where masks are retrieved from: after the language model, or before it, alike in training and generation."""

import pytest
import torch

from tests import tiny
from ufo_tune.config import DecodeSection
from ufo_tune.engine.load import load


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.model("llava", tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("where", ["output", "input"])
def test_training_and_generation_retrieve_from_the_same_states(model, tmp_path, where):
    model.retrieve_from = where
    batch = tiny.batch(model, [tiny.grid_dialogue(3)], train=False)
    with torch.no_grad():
        output = model(batch)
        embeds = model.embed(batch).embeds
    states = {"output": output.hidden, "input": embeds}[where]
    side, _ = model.processor.cells
    expected = states[0, batch.image_index[0]].reshape(side, side, -1)  # [K, D] -> [h, w, D]: one view, raster order
    generation = model.predict(batch, DecodeSection(max_new_tokens=2), [])[0]
    torch.testing.assert_close(output.image_features[0], expected)
    torch.testing.assert_close(generation.image_features, expected, atol=1e-5, rtol=1e-5)
    model.save(tmp_path)
    assert load(tmp_path).retrieve_from == where


def test_re_adding_travels_with_the_weights(model, tmp_path):
    model.re_add_local = False
    model.save(tmp_path)
    assert load(tmp_path).re_add_local is False
