"""Groups, schedule, Muon and AdamW in half precision: singular values, closed forms, torch's own in float32."""

import copy
import math

import pytest
import torch

from tests import tiny
from ufo_tune.config import ModelSection, TrainSection
from ufo_tune.engine.master_weights import MASTER, MasterAdamW
from ufo_tune.engine.muon import Muon, orthogonal
from ufo_tune.engine.optim import factor, optimizer, set_lr
from ufo_tune.errors import ConfigError
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


def test_muon_stands_still_under_a_gradient_of_zero():
    """What no sample of a batch reached has one; it has no direction, and must not become NaN."""
    weight = torch.nn.Parameter(torch.ones(2, 3))
    weight.grad = torch.zeros(2, 3)
    Muon([{"params": [weight], "lr": 0.1, "muon": True, "weight_decay": 0.0}]).step()
    assert torch.equal(weight.data, torch.ones(2, 3))


@pytest.mark.parametrize(("shape", "scale"), [((8, 2), 2.0), ((2, 8), 1.0)])
def test_two_steps_of_muon_by_hand(shape, scale):
    """On diagonals Newton-Schulz is a polynomial of each number; sqrt(rows / columns) and the decay as published."""
    weight, idle = torch.nn.Parameter(torch.ones(shape)), torch.nn.Parameter(torch.ones(shape))
    muon = Muon([{"params": [weight, idle], "lr": 0.1, "muon": True, "weight_decay": 0.5}])
    wanted, buffer = torch.ones(shape), torch.zeros(2)
    for gradient in (torch.tensor([3.0, 1.0]), torch.tensor([-1.0, 2.0])):
        weight.grad = torch.zeros(shape)
        weight.grad[[0, 1], [0, 1]] = gradient
        muon.step()
        buffer = 0.95 * buffer + gradient
        x = gradient + 0.95 * buffer  # Nesterov
        x = x / x.norm()
        for _ in range(5):
            x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
        wanted = wanted * (1 - 0.1 * 0.5)
        wanted[[0, 1], [0, 1]] -= 0.1 * scale * x
        torch.testing.assert_close(weight.data, wanted)
    assert torch.equal(idle.data, torch.ones(shape)), "without a gradient there is no step, and no decay"


def test_schedule_warms_up_and_ends():
    section = TrainSection(max_steps=110, warmup_steps=10, lr_scheduler_type="cosine")
    assert factor(section, 0) == 0.1 and factor(section, 9) == 1.0
    assert factor(section, 60) == pytest.approx(0.5)  # half way down a cosine
    assert factor(section, 35) == pytest.approx((1 + math.sqrt(0.5)) / 2), "a quarter of the way: no straight line"
    assert factor(section, 110) == pytest.approx(0.0)
    linear = section.model_copy(update={"lr_scheduler_type": "linear", "max_seconds": 100.0})
    assert factor(linear, 35, 0.0) == pytest.approx(0.75)
    assert factor(linear, 35, 60.0) == pytest.approx(0.4), "time runs ahead of the steps"


@pytest.mark.parametrize("scheduler", ["cosine", "linear", "constant"])
def test_schedule_at_its_ends(scheduler):
    section = TrainSection(max_steps=110, warmup_steps=10, lr_scheduler_type=scheduler, max_seconds=100.0)
    last = 1.0 if scheduler == "constant" else pytest.approx(0.0)
    assert factor(section, 10) == 1.0, "the warm-up is over"
    assert factor(section, 110) == last
    assert factor(section, 35, 130.0) == last, "time is over, and never more than over"
    at_once = section.model_copy(update={"max_steps": 1, "warmup_steps": 0})
    assert factor(at_once, 0) == 1.0 and factor(at_once, 1) == last
    assert factor(section.model_copy(update={"max_steps": 10}), 10) == 1.0, "nothing but a warm-up"


def test_set_lr_is_a_share_of_each_peak():
    groups = [{"lr": 7.0, "peak_lr": 0.5}, {"lr": 7.0, "peak_lr": 2.0}]
    set_lr(groups, 0.25)
    assert groups == [{"lr": 0.125, "peak_lr": 0.5}, {"lr": 0.5, "peak_lr": 2.0}]


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


@pytest.mark.parametrize("optim", ["adamw", "muon"])
def test_groups_are_decayed_and_stepped_by_their_shape_and_part(tmp_path, optim):
    model, heads = tiny.model("llava", tmp_path), torch.nn.Linear(3, 2)
    lora.apply(model, ModelSection(base="x", language="full", vision="full", projector="full", train_tokens="full"))
    frozen = next(p for n, p in model.vlm.hf.named_parameters() if n.endswith("q_proj.weight"))
    frozen.requires_grad_(False)
    numbers = {"learning_rate": 1e-3, "muon_learning_rate": 0.03, "weight_decay": 0.1, "adam_beta2": 0.95}
    section = TrainSection(optim=optim, lr_multipliers={"vision": 0.5}, **numbers)
    made = optimizer(model, heads, section)
    assert type(made) is (Muon if optim == "muon" else MasterAdamW)
    assert (made.defaults["betas"], made.defaults["eps"]) == ((0.9, 0.95), section.adam_epsilon)
    of = {id(p): group for group in made.param_groups for p in group["params"]}
    words = {id(m.weight) for m in (model.vlm.hf.get_input_embeddings(), model.vlm.hf.get_output_embeddings())}
    named = [*model.vlm.hf.named_parameters(), *heads.named_parameters()]
    assert len(of) == sum(p.requires_grad for _, p in named) and id(frozen) not in of
    for name, p in named:
        if p is frozen:
            continue
        group, own = of[id(p)], name in ("weight", "bias")
        turned = optim == "muon" and p.ndim == 2 and id(p) not in words and "position" not in name and not own
        peak = (0.03 if turned else 1e-3) * (0.5 if "vision" in name else 1.0)
        assert group["peak_lr"] == group["lr"] == pytest.approx(peak), name
        assert group["weight_decay"] == (0.1 if p.ndim > 1 else 0.0), name
        assert group.get("muon", False) == turned, name
        assert (group["name"] == "objectives") == own


def test_adapters_are_no_matrices_for_muon(tmp_path):
    """B A is the matrix; its factors are thin, and B starts at zero."""
    model = tiny.model("llava", tmp_path)
    lora.apply(model, ModelSection(base="x", language="lora"))
    made = optimizer(model, torch.nn.ModuleDict(), TrainSection(optim="muon"))
    thin = {id(p) for n, p in model.vlm.hf.named_parameters() if "lora_" in n}
    assert thin and not thin & {id(p) for g in made.param_groups if g["muon"] for p in g["params"]}


def test_bitsandbytes_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"train.optim: bitsandbytes is not installed \(got 'adamw_8bit'\)"):
        optimizer(tiny.model("llava", tmp_path), torch.nn.ModuleDict(), TrainSection(optim="adamw_8bit"))


def test_weights_in_half_precision_take_steps_below_their_rounding():
    """Under a constant gradient AdamW's step is the learning rate: 300 of 2e-4 from 1 end at 0.94 (bfloat16: 2^-8)."""
    norm = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    adamw = MasterAdamW([norm], 2e-4, weight_decay=0.0, fused=True)
    for _ in range(300):
        norm.grad = torch.full_like(norm, 0.5)
        adamw.step()
        assert norm.dtype == torch.bfloat16 and norm.grad is None
    assert torch.equal(norm.data, torch.full((4,), 0.94).bfloat16())


def test_only_half_precision_with_a_gradient_has_a_copy():
    whole = torch.nn.Parameter(torch.ones(3))
    half, idle = (torch.nn.Parameter(torch.ones(3, dtype=torch.float16)) for _ in range(2))
    adamw = MasterAdamW([whole, half, idle], 1e-3)
    whole.grad, half.grad = torch.ones(3), torch.ones(3, dtype=torch.float16)
    assert adamw.step(lambda: 3.0) == 3.0
    assert [MASTER in adamw.state[p] for p in (whole, half, idle)] == [False, True, False]
    assert whole.grad is not None and torch.equal(idle.data, torch.ones(3, dtype=torch.float16))


def test_half_precision_follows_torch_in_float32_also_when_it_is_resumed():
    g = torch.Generator().manual_seed(2)
    start = torch.randn(50, generator=g).bfloat16()
    grads = torch.randn(40, 50, generator=g).bfloat16()
    whole, half = (torch.nn.Parameter(start.to(dtype)) for dtype in (torch.float32, torch.bfloat16))
    plain = torch.nn.Parameter(start.float())
    other = torch.optim.AdamW([whole], 1e-3, weight_decay=0.1, fused=True)

    def made(weights):
        return MasterAdamW([{"params": [plain]}, {"params": [weights]}], 1e-3, weight_decay=0.1, fused=True)

    adamw = made(half)
    for number, grad in enumerate(grads):
        if number == 20:  # what a checkpoint holds: rounded weights, and the optimizer's state
            state, half = copy.deepcopy(adamw.state_dict()), torch.nn.Parameter(half.detach().clone())
            adamw = made(half)
            adamw.load_state_dict(state)
        whole.grad, half.grad, plain.grad = grad.float(), grad.clone(), grad.float()
        other.step()
        adamw.step()
        assert torch.equal(half.data, whole.detach().bfloat16()) and torch.equal(plain.data, whole.data)
