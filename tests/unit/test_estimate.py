"""``estimate`` against sums done by hand, torch's own profiler and torch's own operation counter."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.flop_counter import FlopCounterMode

from ufo_tune import cli
from ufo_tune.config import ModelSection, Recipe
from ufo_tune.core.codec import Codec
from ufo_tune.engine import estimate as engine
from ufo_tune.engine import ledger, load, room
from ufo_tune.engine.estimate import Weight, estimate, optimizer_size, quantised_size
from ufo_tune.engine.kv_cache import token_size
from ufo_tune.engine.master_weights import MasterAdamW
from ufo_tune.engine.optim import optimizer
from ufo_tune.engine.phantom import phantom
from ufo_tune.engine.sources import Sources
from ufo_tune.engine.train import train
from ufo_tune.engine.trainable import Trainable
from ufo_tune.errors import ConfigError, ModelError
from ufo_tune.models import lora

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "bench"))
from _measure import peak_of

D, LAYERS, MLP, HEADS = 64, 2, 192, 4  # of ``tiny:llava``; 36 patches and a class token
FULL = {"language": "full", "vision": "full", "projector": "full", "train_tokens": "full"}


def recipe(model=None, task="res", **train):
    return Recipe.from_dict(
        {
            "model": {"base": "tiny:llava", "dtype": "float32", **(model or {})},
            "data": {"mixture": [{"task": task, "dataset": "scenes"}]},
            "train": {"per_device_train_batch_size": 2, **train},
        }
    )


def real(found):
    """The run's module with weights, and the batches that the estimate looks at."""
    m = found.model
    model = load.base(m.base, m.family, m.codec, m.options, dtype=m.dtype)
    lora.apply(model, m)
    if found.train.gradient_checkpointing:
        model.recompute_activations()
    return Trainable(model, found.objectives).train(), engine._batches(found, Sources(found, model))


def loss(module, batch):
    return sum(term.total for term in module(batch).values())


# ---- what trains


def test_a_tiny_llama_counted_by_hand():
    rows = len(Codec().special_tokens) * D * 2  # in the embeddings and in the head, which are not tied
    r = 8
    adapters = LAYERS * (4 * r * (D + D) + 3 * r * (D + MLP))
    assert trained(phantom(ModelSection(base="tiny:llava"))) == adapters + rows
    decoder = LAYERS * (4 * D * D + 3 * D * MLP + 2 * D) + D
    assert trained(phantom(ModelSection(base="tiny:llava", language="full"))) == decoder + rows


def trained(model):
    return sum(p.numel() for p in model.vlm.hf.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("base", "section"),
    [
        ("tiny:llava", {"language": "frozen", "projector": "full"}),
        ("tiny:internvl/internvl3", FULL),  # tied embeddings
        ("tiny:qwen_vl/qwen3_vl", {"lora": {"r": 3}}),
        ("embedded", {"lora": {"r": 3}}),
    ],
)
def test_a_phantom_has_the_shapes_and_dtypes_of_the_real_model_and_no_bytes(base, section):
    family = base.removeprefix("tiny:").partition("/")[0] if ":" in base else "llava"
    settings = ModelSection(base=base, family=family, **section)
    model = load.base(base, family, {}, {})
    lora.apply(model, settings)
    before = torch.get_rng_state()
    made = phantom(settings)
    assert torch.equal(torch.get_rng_state(), before)

    def described(hf):
        return {n: (p.shape, p.dtype, p.requires_grad) for n, p in hf.named_parameters()}

    assert described(made.vlm.hf) == described(model.vlm.hf)
    assert all(isinstance(p, FakeTensor) for p in made.vlm.hf.parameters())


# ---- bytes by closed forms


def test_moments_are_what_torch_keeps():
    for dtype, size in ((torch.bfloat16, 3600), (torch.float32, 2400)):
        parameter = nn.Parameter(torch.zeros(300, dtype=dtype))
        parameter.grad = torch.ones_like(parameter)
        adamw = MasterAdamW([parameter])
        adamw.step()
        kept = sum(v.nbytes for v in adamw.state[parameter].values() if v.ndim)
        assert optimizer_size("adamw", 300, parameter.element_size()) == kept == size


@pytest.mark.parametrize(
    ("optim", "numel", "value", "moments", "size"),
    [
        ("adamw", 1000, 4, 2, 8000),
        ("muon", 1000, 4, 1, 4000),
        ("paged_adamw", 1000, 2, 2, 8000),
        ("adamw_8bit", 8192, 2, 2, 2 * 8192 + 2 * 32 * 4),
        ("paged_adamw_8bit", 4095, 2, 2, 8 * 4095),  # too small for 8 bits
    ],
)
def test_moments_by_hand(optim, numel, value, moments, size):
    assert optimizer_size(optim, numel, value, moments) == size


def test_quantised_matrices_by_hand():
    # 128 x 128: 8192 bytes of halves, a scale of one byte for each 64, one of four for the 256 of these
    assert quantised_size("nf4", 128 * 128, 128) == 8192 + 256 + 4
    assert quantised_size("int8", 128 * 128, 128) == 128 * 128 + 128 * 4


CHANGES = np.array([100, 50, -50, 30, 40, -30, -100])
KINDS = np.array([0, 1, 1, 2, 3, 2, 0])  # activations, logits, working, gradients


def test_the_fullest_moment_of_a_pass():
    trace = ledger.Trace(CHANGES, KINDS, 0)
    assert trace.peak() == {"activations": 100, "logits": 0, "working": 30, "gradients": 40}
    assert trace.peak(0.25) == {"activations": 100, "logits": 50, "working": 0, "gradients": 0}
    assert trace.peak(standing=True) == {"activations": 100, "logits": 50, "working": 0, "gradients": 40}


WEIGHTS = (
    Weight(numel=1000, value=4, packed=0, trains=True, moments=2, block=0),
    Weight(numel=3000, value=4, packed=0, trains=False, moments=2, block=1),
    Weight(numel=500, value=4, packed=0, trains=False, moments=2, block=-1),
)


@pytest.mark.parametrize(
    ("profile", "parts"),
    [
        ("ddp", {"weights": 18000, "gradients": 4000, "buckets": 4000, "optimizer": 8000}),
        ("zero1", {"weights": 18000, "gradients": 4000, "buckets": 4 * 5e8, "optimizer": (4000 + 8000) / 4}),
        ("zero2", {"weights": 18000, "gradients": 1000, "buckets": 4 * 5e8, "optimizer": (4000 + 8000) / 4}),
        ("zero3", {"weights": 4500, "gathered": 18000, "gradients": 1000, "buckets": 4 * 5e8, "optimizer": 3000}),
        ("zero3_offload", {"gathered": 18000, "buckets": 4 * 5e8, "host": (18000 + 4000 + 8000 + 4000) / 4}),
        ("fsdp2", {"weights": 4500, "gathered": 18000, "gradients": 1000, "optimizer": 2000}),
    ],
)
def test_what_each_profile_spreads_over_four(profile, parts):
    trace = ledger.Trace(np.array([10, 4000]), np.array([0, 3]), 0)
    found = engine._profile(engine.PROFILES[profile], WEIGHTS, trace, recipe(), 4)
    assert found == dict.fromkeys((*engine.PARTS, "host"), 0) | {"activations": 10} | parts


def test_bf16_under_deepspeed_has_short_weights_and_a_long_master_copy():
    trace = ledger.Trace(np.array([4000]), np.array([3]), 0)
    found = engine._profile(engine.PROFILES["zero1"], WEIGHTS, trace, recipe(bf16=True), 4)
    assert (found["weights"], found["gradients"]) == (9000, 2000)
    assert found["optimizer"] == (4000 + 8000) / 4
    assert found["buckets"] == 2 * 5e8


def test_one_process_has_no_buckets_and_gathers_nothing():
    trace = ledger.Trace(np.array([4000]), np.array([3]), 0)
    for profile in ("ddp", "fsdp2"):
        found = engine._profile(engine.PROFILES[profile], WEIGHTS, trace, recipe(), 1)
        assert {p for p in found if found[p]} == {"weights", "gradients", "optimizer"}


def test_keys_and_values_of_a_token_by_hand():
    model = phantom(ModelSection(base="tiny:llava", options={"kv_heads": 2}, dtype="bfloat16"))
    assert token_size(model) == 2 * LAYERS * 2 * (D // HEADS) * 2


# ---- against the real step


@pytest.mark.parametrize(
    ("model", "train"),
    [
        ({}, {}),
        (FULL, {"gradient_checkpointing": True, "gradient_accumulation_steps": 2}),
        ({"base": "tiny:qwen_vl/qwen3_vl", "family": "qwen_vl"}, {"bf16": True}),
    ],
    ids=["lora", "full, checkpointed, accumulated", "qwen3, bf16"],
)
def test_memory_is_what_the_profiler_measures(model, train):
    """Two optimizer steps, the second with moments; the issue asks for 15 %, the same operations are counted."""
    settings = recipe(model, **train)
    parts = estimate(settings, profiles=("ddp",)).profiles["ddp"]
    module, batches = real(settings)
    opt = optimizer(module.model, module.objectives, settings.train)

    def steps(batch):
        for _ in range(2):
            for _ in range(settings.train.gradient_accumulation_steps):
                with torch.autocast("cpu", torch.bfloat16, enabled=settings.train.bf16):
                    total = loss(module, batch)
                total.backward()
            opt.step()
            opt.zero_grad()

    measured = []
    for batch in engine._extremes(batches):
        opt.state.clear()
        measured.append(peak_of(lambda batch=batch: steps(batch)))
    assert parts["needed"] - parts["weights"] - parts["batch"] == pytest.approx(max(measured), rel=0.05)
    assert parts["weights"] == sum(p.nbytes for p in module.parameters())


def test_operations_are_torchs_own_and_those_of_attention():
    settings = recipe(FULL)
    module, batches = real(settings)
    (batch, *_) = engine._extremes(batches)
    with FlopCounterMode(display=False) as counter:
        loss(module, batch).backward()
    width = batch.ids.shape[1]
    attention = 14 * D * len(batch.ids) * LAYERS * (width**2 + 37**2)  # two products forward, five backward
    assert estimate(settings, quick=True).flops_per_step == counter.get_total_flops() + attention


# ---- before a run


def test_training_stops_before_it_would_run_out_of_memory(tmp_path, monkeypatch, capsys):
    settings = recipe(max_steps=1, report_to=[])
    monkeypatch.setattr(room, "room_of", lambda device: 2**20)
    with pytest.raises(ConfigError, match=r"would run out of memory \(got 1 MiB on cpu\); memory: .* take fewer"):
        train(settings, tmp_path / "run", progress=True)
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(room, "room_of", lambda device: None)  # nobody knows: it is only told
    train(settings, tmp_path / "run", progress=True)
    assert "memory: " in capsys.readouterr().err


def test_the_room_of_a_host_is_between_what_is_free_and_all():
    found = room.room_of(torch.device("cpu"))
    assert found is None or 2**27 < found <= 2**20 + os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert room.room_of(torch.device("meta")) is None


def test_only_what_is_certain_is_refused():
    found = estimate(recipe({"language": "frozen"}, optim="paged_adamw"), profiles=("ddp",), quick=True)
    parts = found.profiles["ddp"]
    room.refuse(found, "ddp", parts["needed"], "cpu")  # moments may go to the host
    with pytest.raises(ConfigError, match="out of memory"):
        room.refuse(found, "ddp", parts["needed"] - parts["optimizer"], "cpu")


def test_a_base_that_is_elsewhere_is_said_to_be(tmp_path):
    with pytest.raises(ModelError, match="none: no such folder"):
        phantom(ModelSection(base=str(tmp_path / "none")))


# ---- the command


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my.yaml"
    recipe().save(path)
    return str(path)


def test_command_prints_a_table_and_what_a_step_does(capsys, file):
    assert cli.main(["estimate", file, "--gpus", "2", "--profile", "ddp,zero3", "--eval.protocols=[scenes_rec]"]) == 0
    first, header, *rows = capsys.readouterr().out.splitlines()
    assert "on each of 2 GPUs" in first and header.split() == ["ddp", "zero3"]
    names = [row.split()[0] for row in rows]
    assert names[0] == "weights" and "needed" in names
    assert names[-3:] == ["rows:", "step:", "evaluation:"]


def test_command_prints_json(capsys, file):
    assert cli.main(["estimate", file, "--gpus", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["profiles"]) == ["ddp", "zero1", "zero2", "zero3", "zero3_offload", "fsdp2"]
    assert found["gpus"] == 4 and found["tokens_per_step"] <= 4 * found["rows"] * found["row_tokens"]
    for parts in found["profiles"].values():
        assert parts["needed"] == sum(parts[name] for name in engine.PARTS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--profile", "zero4"], "--profile: no such profile (got 'zero4'); did you mean 'zero"),
        (["--gpus", "0"], "--gpus is out of range (got 0)"),
    ],
)
def test_command_refuses_what_it_does_not_know(capsys, file, arguments, says):
    assert cli.main(["estimate", file, *arguments]) == 2
    assert says in capsys.readouterr().err
