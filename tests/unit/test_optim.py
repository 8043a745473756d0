"""Groups, schedule and Muon, against the singular value decomposition and closed forms."""

import math

import pytest
import torch

from tests import tiny
from ufo_tune.config import ModelSection, TrainSection
from ufo_tune.engine.muon import Muon, orthogonal
from ufo_tune.engine.optim import factor, optimizer
from ufo_tune.models import lora


@pytest.mark.parametrize("shape", [(8, 8), (6, 20), (20, 6)])
def test_orthogonal_keeps_the_singular_vectors(shape):
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    found = orthogonal(x)
    # In the basis of x's singular vectors the result is diagonal, with values near 1.
    inner = u.mT @ found @ vh.mT
    diagonal = torch.diagonal(inner, dim1=1, dim2=2)
    assert torch.allclose(inner, torch.diag_embed(diagonal), atol=1e-3)
    well = s > 0.05 * s[:, :1]  # tiny singular values need more than five iterations
    assert ((diagonal > 0.6) & (diagonal < 1.3))[well].all()


def test_muon_groups_step_orthogonally_and_others_by_adamw():
    g = torch.Generator().manual_seed(1)
    matrix, vector = torch.nn.Parameter(torch.randn(6, 6, generator=g)), torch.nn.Parameter(torch.ones(3))
    twin = torch.nn.Parameter(torch.ones(3))
    before = matrix.detach().clone()
    both = Muon([{"params": [matrix], "lr": 0.1, "muon": True, "weight_decay": 0.0}, {"params": [vector], "lr": 0.01}])
    alone = torch.optim.AdamW([twin], 0.01)
    matrix.grad = torch.randn(6, 6, generator=g)
    vector.grad = twin.grad = torch.tensor([1.0, -2.0, 3.0])
    both.step()
    alone.step()
    assert torch.equal(vector, twin)
    moved = torch.linalg.svdvals((before - matrix.detach()) / 0.1)
    assert ((moved > 0.3) & (moved < 1.3)).all() and abs(float(moved.max()) - 1) < 0.3


def test_schedule_warms_up_and_ends():
    section = TrainSection(max_steps=110, warmup_steps=10, lr_scheduler_type="cosine")
    assert factor(section, 0) == 0.1 and factor(section, 9) == 1.0
    assert factor(section, 60) == pytest.approx(0.5)  # half way down a cosine
    assert factor(section, 110) == pytest.approx(0.0)
    linear = section.model_copy(update={"lr_scheduler_type": "linear", "max_seconds": 100.0})
    assert factor(linear, 35, 0.0) == pytest.approx(0.75)
    assert factor(linear, 35, 60.0) == pytest.approx(0.4), "time runs ahead of the steps"


@pytest.mark.parametrize("optim", ["adamw", "muon"])
def test_every_trained_parameter_is_in_one_group(tmp_path, optim):
    model = tiny.model("llava", tmp_path)
    full = ModelSection(base="x", language="full", vision="full", projector="full", train_tokens="full")
    lora.apply(model, full)
    made = optimizer(model, torch.nn.ModuleDict(), TrainSection(optim=optim, lr_multipliers={"vision": 0.5}))
    listed = [p for g in made.param_groups for p in g["params"]]
    assert len(listed) == len({id(p) for p in listed}) == sum(p.requires_grad for p in model.parameters())
    for group in made.param_groups:
        assert group["weight_decay"] == 0 or all(p.ndim > 1 for p in group["params"])
        if group.get("muon"):
            assert all(p.ndim == 2 for p in group["params"]) and group["name"] != "tokens"
    vision = next(g for g in made.param_groups if g["name"] == "vision" and not g.get("muon"))
    assert math.isclose(vision["peak_lr"], 0.5 * TrainSection().learning_rate)
