"""New tokens beside frozen tables: peft's own numbers, and nothing as large as a table on the way."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests import tiny
from ufo_tune.config import ModelSection
from ufo_tune.models import lora
from ufo_tune.models.new_tokens import NewTokens
from ufo_tune.objectives.next_token import Objective

PEFTS = NewTokens.__base__
FAMILIES = ["llava", "gemma3"]  # two tables; one table for both, whose embeddings are scaled


class Largest(TorchDispatchMode):
    """Notes how large a float tensor any operation makes; views of a table are none."""

    def __init__(self) -> None:
        super().__init__()
        self.made = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        known = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                if tensor.untyped_storage().data_ptr() not in known:
                    self.made = max(self.made, tensor.numel())
        return found


def made(family, folder, language):
    model = tiny.model(family, folder)
    lora.apply(model, ModelSection(base="x", language=language, vision="frozen", projector="full"))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "trainable_tokens_delta" in name or "lora_B" in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)  # peft starts where nothing is changed
    return model.eval()


def as_peft_has_it(model):
    other = copy.deepcopy(model)
    for module in other.modules():
        if isinstance(module, NewTokens):
            module.__class__ = PEFTS
    return other


def step(model, batch):
    """Loss, states and gradients."""
    out = model(batch)
    term = Objective()(batch, out, None)["token"]
    term.total.backward()
    return {"loss": term.total.detach(), "hidden": out.hidden.detach()} | {
        n: p.grad for n, p in model.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize("language", ["lora", "frozen"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_is_pefts(family, language, tmp_path):
    model = made(family, tmp_path, language)
    other = as_peft_has_it(model)
    batch = tiny.batch(model, [tiny.grid_dialogue(5), tiny.grid_dialogue(3)])
    ours, theirs = step(model, batch), step(other, batch)
    assert any(isinstance(m, NewTokens) for m in model.modules())
    assert ours.keys() == theirs.keys() and any("trainable_tokens_delta" in n for n in ours)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert list(model.state_dict()) == list(other.state_dict())


def test_switched_off_it_is_the_table(tmp_path):
    model = made("llava", tmp_path, "lora")
    ids = torch.arange(40)[None]
    plain = model.vlm.hf.get_input_embeddings().token_adapter.base_layer(ids)
    with model.adapter.disable_adapter():
        assert torch.equal(model.vlm.embed_text(ids), plain)
    assert not torch.equal(model.vlm.embed_text(torch.tensor([model.new_token_ids()])), plain[:, :1])


@pytest.mark.parametrize("family", FAMILIES)
def test_no_table_is_copied(family, tmp_path):
    model = made(family, tmp_path, "lora")
    table = model.vlm.hf.get_input_embeddings().token_adapter.base_layer.weight.numel()
    ids = torch.tensor([[5, model.new_token_ids()[0]]])
    sizes = []
    for each in (as_peft_has_it(model), model):
        with Largest() as largest:
            logits = each.vlm.logits(each.vlm.embed_text(ids))
            logits.logsumexp(-1).sum().backward()
        sizes.append(largest.made)
    assert sizes[0] >= table > 10 * sizes[1]
