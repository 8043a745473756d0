"""Attention by stretches says what sdpa says, for every family, and leaves out most of what nobody sees."""

import json

import pytest
import torch

from tests import tiny
from tests.contract import test_generate as generating
from tests.contract.test_flex import computed, layouts
from ufo_tune.core.sequence import visible
from ufo_tune.core.types import PAD
from ufo_tune.errors import ModelError
from ufo_tune.models import stretches
from ufo_tune.models.stretches import Stretches


@pytest.fixture
def short(monkeypatch):
    """Stretches that tests' short answers need several of."""
    monkeypatch.setattr(stretches, "_SHORTEST", 8)


@pytest.mark.parametrize("shortest", [1, 64])  # answers have up to 39 tokens
@pytest.mark.parametrize("length", [300, 515])
def test_no_pair_is_lost(length, shortest, monkeypatch):
    monkeypatch.setattr(stretches, "_SHORTEST", shortest)
    segment, image = layouts(3, length, seed=length)
    dense = visible(segment, image, torch.tensor([False, True, False]))
    found = Stretches.of(segment, dense)
    assert sum(found.sizes) == length and len(found.masks) == len(found.sizes) > 2
    whose = (segment != PAD)[:, None, :, None]
    seen = [int((part & own).sum()) for part, own in zip(found.masks, whose.split(found.sizes, 2), strict=True)]
    assert sum(seen) == int((dense & whose).sum())
    assert sum(m.numel() for m in found.masks) < dense.numel()


def test_a_hundred_answers_leave_out_most_pairs():
    """256 tokens of prompt and 100 answers of 12: 18 stretches of 64 and one of 48, each with the one before it."""
    segment = torch.cat([torch.full((256,), -1), torch.arange(100).repeat_interleave(12)])[None]
    dense = visible(segment, torch.zeros_like(segment, dtype=torch.bool), torch.tensor([False]))
    found = Stretches.of(segment, dense)
    assert found.sizes == [256, *[64] * 18, 48]
    assert sum(m.numel() for m in found.masks) == 256**2 + 64 * 320 + 17 * 64 * 384 + 48 * 368 < 0.25 * dense.numel()


def test_few_answers_are_not_cut():
    segment = torch.cat([torch.full((40,), -1), torch.arange(12).repeat_interleave(10)])[None]
    assert Stretches.of(segment, visible(segment, segment < -1, torch.tensor([False]))) is None


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_stretches_equal_sdpa(family, short, tmp_path):
    model = tiny.model(family, tmp_path).train()
    batch = tiny.batch(model, [tiny.grid_dialogue(14), tiny.grid_dialogue(3)], [tiny.image(0), tiny.image(1, (64, 30))])
    wanted = computed(model, batch)
    stretches.use(model.vlm)
    assert len(model.embed(batch).further["stretches"].sizes) > 3
    found = computed(model, batch)
    assert wanted.keys() == found.keys() and len(wanted) > 20
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, rtol=1e-4, atol=1e-5), name


def test_with_recomputed_activations(short, tmp_path):
    model = tiny.model("llava", tmp_path).train()
    batch = tiny.batch(model, [tiny.grid_dialogue(9)])
    wanted = computed(model, batch)
    stretches.use(model.vlm)
    model.recompute_activations()
    for name, value in computed(model, batch).items():
        assert torch.allclose(wanted[name], value, rtol=1e-4, atol=1e-5), name


def test_rows_that_share_a_row_attend_as_before(short, tmp_path):
    model = tiny.model("llava", tmp_path).train()
    batch = tiny.batch(model, [tiny.grid_dialogue(5), tiny.grid_dialogue(3)])
    wanted = computed(model, batch)
    stretches.use(model.vlm)
    batch.packs = (tuple((batch.segment != PAD).sum(1).tolist()),)
    for name, value in computed(model, batch).items():
        assert torch.allclose(wanted[name], value, rtol=1e-4, atol=1e-5), name


def test_decoding_stays_as_it_is_and_a_saved_folder_does_not_know(short, tmp_path):
    model = tiny.model("llava", tmp_path)
    generating.varied(model)
    grammars = [generating.GRAMMAR] * len(generating.ROWS)
    _, wanted = generating.run(model, generating.ROWS, grammars)
    stretches.use(model.vlm)
    _, found = generating.run(model, generating.ROWS, grammars)
    assert [g.texts for g in wanted] == [g.texts for g in found]
    assert model.vlm.hf.model.vision_tower.config._attn_implementation == "sdpa"
    model.save(tmp_path / "saved")
    assert stretches.NAME not in json.dumps(json.loads((tmp_path / "saved" / "config.json").read_text()))


def test_a_decoder_that_chooses_itself_is_refused(tmp_path):
    model = tiny.model("llava", tmp_path)
    model.vlm.text_model._supports_attention_backend = False
    with pytest.raises(ModelError, match="by name .got stretches for LlamaModel.; set model.attention: sdpa"):
        stretches.use(model.vlm)
