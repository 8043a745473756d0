"""``train.bf16`` for every family: autocast and our own arithmetic between its layers."""

import pytest
import torch

from tests import tiny


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_weights_in_float32_meet_features_in_bfloat16(family, tmp_path):
    """Interpolated features meet states of another precision at every layer."""
    model = tiny.model(family, tmp_path)
    batch = tiny.batch(model, [tiny.grid_dialogue(), tiny.grid_dialogue(2)])
    wanted = model(batch).hidden
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model(batch).hidden
    assert (hidden.float() - wanted).norm() < 0.05 * wanted.norm()  # eight bits: 0.4 % at each of some steps
    hidden.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.vlm.hf.parameters() if p.grad is not None)
