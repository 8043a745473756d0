"""Packed rows train as they would apart, for every family: losses, counts and gradients."""

from dataclasses import replace

import pytest
import torch

from tests import tiny
from ufo_tune.config import ModelSection
from ufo_tune.core.types import PAD, Answer, Dialogue, Turn
from ufo_tune.engine.trainable import Trainable
from ufo_tune.models import lora

OBJECTIVES = {"next_token": {"slot_weight": 0.5}, "mask_retrieval": {}, "depth_retrieval": {}, "normal_retrieval": {}}
WHOLE = ModelSection(base="t", language="full", vision="full", projector="full", train_tokens="full")
LORA = ModelSection(base="t", projector="full", lora={"dropout": 0.0})


@pytest.fixture(params=tiny.FAMILIES)
def model(request, tmp_path):
    return tiny.model(request.param, tmp_path)


def mixed(model):
    """Grid points, maps, text only, and an image whose tokens are causal: pictures of several sizes."""
    talk = Dialogue((Turn("where is the circle", (Answer("the circle is red"),)),))
    dialogues = [
        tiny.grid_dialogue(4), tiny.map_dialogue(), talk, replace(tiny.grid_dialogue(2), image_attention="causal"), talk
    ]  # fmt: skip
    pictures = [tiny.image(0), tiny.image(1), None, tiny.image(2), tiny.image(3, (56, 30))]
    return tiny.batch(model, dialogues, pictures)


def trained(module, batch):
    """Totals, counts and gradients of one pass."""
    module.zero_grad()
    terms = module(batch)
    sum(t.total / t.count.clamp_min(1) for t in terms.values()).backward()
    values = {n: (t.total.item(), t.count.item()) for n, t in terms.items()}
    return values, {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("section", [WHOLE, LORA], ids=["full", "lora"])
def test_packed_equals_apart(model, section):
    lora.apply(model, section)
    module = Trainable(model, OBJECTIVES).train()
    batch = mixed(model)
    lengths = (batch.segment != PAD).sum(1).tolist()
    apart, wanted = trained(module, batch)
    assert {n: count for n, (_, count) in apart.items() if count} == {n: count for n, (_, count) in apart.items()}
    for packs in ((lengths[:2], lengths[2:]), (lengths,), (lengths[:1], lengths[1:4], lengths[4:])):
        batch.packs = tuple(map(tuple, packs))
        together, found = trained(module, batch)
        for name, values in apart.items():
            assert together[name] == pytest.approx(values, rel=1e-5), name
        assert found.keys() == wanted.keys()
        largest = max(float(g.abs().max()) for g in wanted.values())
        for name, gradient in wanted.items():
            assert (found[name] - gradient).abs().max() <= 1e-5 * largest, name


def test_a_neighbour_changes_nothing(model):
    """Other words in the second sample of a row: the first one's states stay, bit for bit; its own change."""
    batch = mixed(model)
    batch.packs = (tuple((batch.segment != PAD).sum(1).tolist()),)
    before = model(batch).hidden
    text = batch.segment[2] != PAD
    batch.ids[2, text] = batch.ids[2, text].roll(1)
    after = model(batch).hidden
    for row in (0, 1, 3, 4):
        real = batch.segment[row] != PAD
        assert torch.equal(before[row, real], after[row, real])
    assert not torch.equal(before[2, text], after[2, text])
