"""QLoRA for every family: what is packed, what trains, what is saved, and what a merge says of it."""

import importlib.util
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests import tiny
from tests.contract import test_generate as generating
from ufo_tune.config import ModelSection, Recipe, TrainSection
from ufo_tune.engine import checkpoint, hub, load, optim, probe, quantized, sharding
from ufo_tune.engine.train import train
from ufo_tune.engine.trainable import Trainable
from ufo_tune.errors import ConfigError, ModelError
from ufo_tune.models import lora
from ufo_tune.objectives.mask_retrieval import Objective as MaskRetrieval
from ufo_tune.objectives.next_token import Objective as NextToken

KINDS = ("nf4", "int8")
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (ufo-tune[quant])"
)
TALK = {"mixture": [{"task": "vqa", "dataset": "scenes"}]}
SECTION = ModelSection(base="x", lora={"dropout": 0.0})


@pytest.fixture(params=tiny.FAMILIES)
def prepared(request, tmp_path):
    """A folder with a random model of a family."""
    tiny.model(request.param, tmp_path).save(tmp_path / "prepared")
    return tmp_path / "prepared"


def unpacked(layer):
    """The matrix that a packed layer stands for, by bitsandbytes' own formats."""
    from bitsandbytes import functional

    weight = layer.weight
    if hasattr(weight, "quant_state"):
        return functional.dequantize_4bit(weight.data, weight.quant_state).float()
    return weight.CB.float() * weight.SCB[:, None].float() / 127  # [out, in]


def layers_of(model):
    """Linear layers of the decoder's layers by name, looking through adapters."""
    inside = {id(m) for layer in model.vlm.layers for m in layer.modules()}
    found = {n: m for n, m in model.vlm.hf.named_modules() if id(m) in inside and isinstance(m, nn.Linear)}
    return {n.replace(".base_layer", ""): m for n, m in found.items() if "lora_" not in n}


def loss(model):
    batch = tiny.batch(model, [tiny.grid_dialogue(3)])
    out = model(batch)
    terms = {**NextToken()(batch, out, None), **MaskRetrieval()(batch, out, None)}
    return sum(t.total / t.count.clamp_min(1) for t in terms.values())


@needs_bitsandbytes
@pytest.mark.parametrize("kind", KINDS)
def test_exactly_the_matrices_of_the_layers_are_packed(prepared, kind):
    plain, packed = load.load(prepared), load.load(prepared, quantization=kind)
    wanted = layers_of(plain)
    assert len(wanted) == 14  # 4 of attention, 3 of the feed-forward part, 2 layers
    assert sorted(quantized.matrices(packed.vlm.hf)) == sorted(wanted)
    for name, layer in layers_of(packed).items():
        weight = wanted[name].weight.detach()
        error = (unpacked(layer) - weight).abs()
        if kind == "int8":  # half a step, where a row's largest value is 127 of them; and what float16 rounds
            bound = weight.abs().amax(1, keepdim=True) / 127 * (0.5 + 127 * 2**-10)
        else:  # the widest gap of the 16 values is from -1 to -0.6962, of a block of 64; the scales are rounded too
            blocks = weight.reshape(-1, 64)  # [blocks, 64]
            bound = (blocks.abs().amax(1, keepdim=True) * 0.18).expand_as(blocks).reshape(weight.shape)  # [out, in]
        assert bool((error <= bound).all()) and float(error.max()) > 0, name
    kept = dict(packed.vlm.hf.named_parameters())
    for name, value in plain.vlm.hf.named_parameters():
        if name.removesuffix(".weight") not in wanted:
            assert torch.equal(kept[name], value) and kept[name].dtype == value.dtype, name


@needs_bitsandbytes
@pytest.mark.parametrize("kind", KINDS)
def test_training_moves_adapters_and_new_rows_and_nothing_else(prepared, kind):
    """Two steps, as LoRA's A has no gradient while B is zero; activations recomputed, as the recipes have it."""
    model = load.load(prepared, quantization=kind)
    lora.apply(model, SECTION)
    model.recompute_activations()
    model.train()
    state = lambda: {n: v.detach().clone() for n, v in model.vlm.hf.state_dict().items() if torch.is_tensor(v)}  # noqa: E731
    before = state()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    for _ in range(2):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    moved = {n for n, v in state().items() if not torch.equal(v, before[n])}
    assert moved == {n for n in before if "lora_" in n or "trainable_tokens_delta" in n}
    assert len(moved) >= 2 * 14 + 1
    packed = [n for n, p in model.vlm.hf.named_parameters() if not p.is_floating_point()]
    assert len(packed) == 14, "the wrapping must leave the matrices packed"


@needs_bitsandbytes
def test_gradients_are_those_of_the_rounded_weights(prepared):
    """The packed model against a plain one whose matrices hold the rounded values: the same loss and gradients."""
    packed, plain = load.load(prepared, quantization="nf4"), load.load(prepared)
    for name, layer in layers_of(plain).items():
        layer.weight.data.copy_(unpacked(layers_of(packed)[name]))
    results = []
    for model in (packed, plain):
        torch.manual_seed(0)
        lora.apply(model, SECTION)
        with torch.no_grad():
            for name, parameter in sorted(model.vlm.hf.named_parameters()):
                if parameter.requires_grad:
                    generator = torch.Generator().manual_seed(len(name))
                    parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        value = loss(model.train())
        value.backward()
        named = model.vlm.hf.named_parameters()
        results.append((value.detach(), {n: p.grad for n, p in named if p.requires_grad}))
    (found, gradients), (wanted, expected) = results
    assert torch.allclose(found, wanted, rtol=1e-4)
    assert gradients.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(gradients[name], value, rtol=1e-3, atol=1e-4 * float(value.abs().max())), name


def trained(prepared, kind):
    """A run folder whose adapter is away from zero, and its model."""
    recipe = Recipe.from_dict({"model": {"base": str(prepared), "quantization": kind}, "data": TALK})
    model = load.load(prepared, quantization=kind)
    model.settings |= {"base": str(prepared), "base_options": {}, "quantization": kind}
    lora.apply(model, recipe.model)
    with torch.no_grad():
        for name, parameter in model.vlm.hf.named_parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    run = prepared.parent / "run"
    part = checkpoint.part(run, 1)
    checkpoint.write(part, model, Trainable(model, {}).state_dict(), recipe, {"step": 1})
    checkpoint.complete(part, run, 1, limit=1)
    return run, model


@needs_bitsandbytes
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_loads_as_it_was_and_answers(prepared, kind):
    run, model = trained(prepared, kind)
    loaded = load.load(run)
    assert len(quantized.matrices(loaded.vlm.hf)) == 14
    expected, found = probe.outputs(model), probe.outputs(loaded)
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name
    assert quantized.matrices(load.load(run, quantization="").vlm.hf) == []
    size = sum(f.stat().st_size for f in (run / "last").glob("*.safetensors"))
    trains = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert size < 3 * 4 * trains, "a checkpoint holds what trained (in two files), not the packed matrices"
    _, generations = generating.run(loaded, generating.ROWS, [generating.GRAMMAR] * len(generating.ROWS))
    for dialogue, generation in zip(generating.ROWS, generations, strict=True):
        assert len(generation.texts) == len(dialogue.turns[-1].answers)
        assert all(t == "background" or t.partition(",")[0] in generating.CLASSES for t in generation.texts)


@needs_bitsandbytes
@pytest.mark.parametrize(("family", "kind"), [("llava", "nf4"), ("qwen_vl/qwen3_vl", "int8")])  # one untied, one tied
def test_merging_goes_into_the_plain_base_and_says_how_far_the_run_was(family, kind, tmp_path, capsys):
    tiny.model(family, tmp_path).save(tmp_path / "prepared")
    run, model = trained(tmp_path / "prepared", kind)
    out = tmp_path / "merged"
    differences = hub.merge(run, out)
    assert differences.keys() == {"text", "mask", "quantized text", "quantized mask"}
    assert max(differences["text"], differences["mask"]) <= 1e-4
    merged = load.load(out)
    assert quantized.matrices(merged.vlm.hf) == []
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    assert "quantization" not in json.loads((out / "ufo_config.json").read_text())
    wanted = probe.outputs(merged)
    for name, value in probe.outputs(model).items():
        apart = float((value - wanted[name]).abs().max() / wanted[name].abs().max())
        assert differences[f"quantized {name}"] == pytest.approx(apart, rel=0.01) and apart > 1e-3


@needs_bitsandbytes
def test_a_base_that_is_packed_on_disk_is_not_merged_into(tmp_path):
    tiny.model("llava", tmp_path).save(tmp_path / "plain")
    load.load(tmp_path / "plain", quantization="nf4").save(tmp_path / "prepared")
    assert len(quantized.matrices(load.load(tmp_path / "prepared").vlm.hf)) == 14
    run, _ = trained(tmp_path / "prepared", "")
    with pytest.raises(ModelError, match=r"quantised on disk \(got 14 packed matrices, .*in full precision"):
        hub.merge(run, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def recipe(**section):
    scenes = {"task": "res", "template": "scenes_res", "dataset": "scenes", "options": {"size": 6}}
    return Recipe.from_dict(
        {
            "model": {
                "base": "tiny:llava",
                "options": {"words": ["segment", "box", "of", "red", "circle"], "integers": 40},
                "codec": {"num_bins": 40, "slot_side": 2},
                "quantization": "nf4",
                "lora": {"r": 64, "alpha": 64},  # 64 x 64 numbers: bitsandbytes keeps smaller ones in 32 bits
            },
            "data": {"mixture": [scenes]},
            "train": {"max_steps": 4, "save_steps": 2, "save_total_limit": 3, "learning_rate": 1e-3, "report_to": [],
                      "gradient_checkpointing": True, **section},
        }
    )  # fmt: skip


def tensors(tree):
    """All tensors of nested dicts; bitsandbytes keeps its own one level further down."""
    if isinstance(tree, dict):
        return [t for value in tree.values() for t in tensors(value)]
    return [tree] if torch.is_tensor(tree) else []


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize("name", ["adamw_8bit", "paged_adamw", "paged_adamw_8bit"])
def test_optimizers_of_bitsandbytes_step_and_resume(name, tmp_path):
    out = tmp_path / "run"
    whole = load_file(train(recipe(optim=name), out, progress=False) / checkpoint.TRAINED)
    states = torch.load(out / "last" / checkpoint.STATE, weights_only=True)["optimizer"]["state"]
    packed = any(t.dtype == torch.uint8 and t.numel() >= 4096 for t in tensors(states))
    assert packed == name.endswith("8bit"), "moments in 8 bits, or not"
    start = load_file(out / "checkpoint-2" / checkpoint.TRAINED)
    assert all(not torch.equal(start[n], value) for n, value in whole.items())
    shutil.rmtree(out / "checkpoint-4")
    checkpoint.point(out / "last", "checkpoint-2")
    again = load_file(train(recipe(optim=name), out, resume=True, progress=False) / checkpoint.TRAINED)
    assert all(torch.equal(again[n], value) for n, value in whole.items())


@pytest.mark.parametrize("model", [{"language": "full"}, {"language": "frozen", "train_tokens": "full"}])
def test_packed_matrices_are_in_no_full_checkpoint(model):
    with pytest.raises(ConfigError, match=f"nf4 weights stay as they are .got language: {model['language']}"):
        Recipe.from_dict({"model": {"base": "x", "quantization": "nf4", **model}, "data": TALK})


def test_packed_matrices_are_not_sharded(monkeypatch, tmp_path):
    monkeypatch.setattr(sharding, "is_sharded", lambda accelerator: True)
    with pytest.raises(ConfigError, match=r"model.quantization: .*cannot be sharded \(got nf4 .*ddp, zero1 or zero2"):
        train(recipe(), tmp_path / "run", progress=False)


def test_without_bitsandbytes_one_line_says_what_to_install(monkeypatch, tmp_path):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "bitsandbytes" else found(name, *a)
    )
    with pytest.raises(ConfigError, match=r"model.quantization: .*not installed \(got 'nf4'\).*'ufo-tune\[quant\]'"):
        load.base("tiny:llava", "llava", {}, {}, quantization="nf4")
    assert quantized.weights("", torch.float32) == {}
    model = tiny.model("llava", tmp_path)
    lora.apply(model, SECTION)
    with pytest.raises(ConfigError, match=r"train.optim: .*not installed \(got 'paged_adamw'\).*'ufo-tune\[quant\]'"):
        optim.optimizer(model, nn.ModuleDict(), TrainSection(optim="paged_adamw"))
