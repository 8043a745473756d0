"""Compiled layers compute the same, liger is asked for what it should do, and what cannot work is refused by name."""

import importlib.machinery
import json
import os
import re
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch._dynamo.testing
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from tests import tiny
from tests.contract import test_flex as attention
from tests.contract import test_generate as generating
from tests.e2e import test_train as training
from ufo_tune.config import LoraSection, ModelSection, Recipe
from ufo_tune.engine import speed
from ufo_tune.engine.train import train
from ufo_tune.errors import ConfigError, ModelError
from ufo_tune.models import lora
from ufo_tune.objectives.mask_retrieval import Objective as MaskRetrieval
from ufo_tune.objectives.next_token import Objective as NextToken

FLEX, COMPILE = {"model": {"attention": "flex"}}, {"train": {"compile": True}}
STRETCHES = {"model": {"attention": "stretches"}}


def recipe(model=None, train=None):
    return Recipe.from_dict(
        {
            "model": {"base": "tiny:llava", **(model or {})},
            "data": {"mixture": [{"task": "rec", "dataset": "scenes"}]},
            "train": train or {},
        }
    )


def machine(kind="cpu", distributed=DistributedType.NO):
    return SimpleNamespace(device=torch.device(kind), distributed_type=distributed)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model": {"attention": "flex"}}, r"model.attention: flex needs a GPU.*\(got cpu\).*sdpa"),
        ({"train": {"compile": True, "liger": True}}, r"train.compile: .*together \(got train.liger\)"),
        ({"train": {"compile": True}, "model": {"quantization": "nf4"}}, r"train.compile: .*quantization: nf4"),
        ({"train": {"compile": True}, "model": {"attention": "stretches"}}, r"train.compile: .*attention: stretches"),
    ],
)
def test_refused_before_anything_is_loaded(given, said, monkeypatch):
    monkeypatch.setattr(speed, "_refuse_liger", lambda device: None)
    with pytest.raises(ConfigError, match=said):
        speed.refuse(recipe(**given), machine())


def test_plain_recipes_are_not_refused():
    speed.refuse(recipe(), machine())


def test_flex_is_not_refused_on_a_gpu():
    speed.refuse(recipe({"attention": "flex"}), machine("cuda"))


def test_layers_that_are_gathered_are_not_compiled():
    with pytest.raises(ConfigError, match=r"train.compile: .*\(got FSDP\); take the profile ddp"):
        speed.refuse(recipe(train={"compile": True}), machine(distributed=DistributedType.FSDP))


@pytest.mark.parametrize(
    ("optim", "kind"),
    [("muon", DistributedType.DEEPSPEED), ("adamw_8bit", DistributedType.FSDP), ("paged_adamw", DistributedType.FSDP)],
)
def test_optimizers_that_do_not_know_shards_are_refused(optim, kind):
    with pytest.raises(ConfigError, match=rf"train.optim: {optim} does not work on weights sharded by {kind.value}"):
        speed.refuse(recipe(train={"optim": optim}), machine(distributed=kind))
    speed.refuse(recipe(train={"optim": optim}), machine(distributed=DistributedType.MULTI_GPU))


def test_a_machine_without_compiler_says_so():
    """In a process of its own, since torch remembers that there is none."""
    tried = """
import torch
from ufo_tune.engine.speed import _refuse_compiler
_refuse_compiler(torch.device("cpu"))
"""
    bare = {**os.environ, "CXX": "no-such-compiler", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
    done = subprocess.run([sys.executable, "-c", tried], env=bare, capture_output=True, text=True, check=False)
    assert re.search(
        r"ConfigError: train.compile: torch.compile does not work here \(.*compiler.*no-such-compiler.*\); install",
        done.stderr,
    ), done.stderr[-2000:]


def test_liger_needs_its_package_and_a_gpu(monkeypatch):
    asked = recipe(train={"liger": True})
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'ufo-tune\[liger\]'"):
        speed.refuse(asked, machine("cuda"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: importlib.machinery.ModuleSpec(name, None))
    with pytest.raises(ConfigError, match=r"kernels need a GPU \(got cpu\)"):
        speed.refuse(asked, machine())
    speed.refuse(asked, machine("cuda"))


@pytest.fixture
def liger(monkeypatch):
    """Stands in for the package: which calls it gets. Whether its kernels compute the same takes a GPU."""
    calls = []
    patch = ModuleType("liger_kernel.transformers.monkey_patch")
    patch.MODEL_TYPE_TO_APPLY_LIGER_FN = {"llama": None, "qwen2": None}
    patch._apply_liger_kernel_to_instance = lambda model, **options: calls.append((model, options))
    transformers = ModuleType("liger_kernel.transformers")
    transformers.monkey_patch = patch
    for module in (ModuleType("liger_kernel"), transformers, patch):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


@pytest.mark.parametrize("family", ["llava", "internvl/internvl3"])
def test_liger_gets_the_decoder_and_leaves_the_loss_alone(family, liger, tmp_path):
    model = tiny.model(family, tmp_path)
    speed.apply(model, recipe(train={"liger": True}))
    ((got, options),) = liger
    assert got is model.vlm.text_model
    assert options == {"cross_entropy": False, "fused_linear_cross_entropy": False}


def test_a_decoder_that_liger_cannot_take_is_refused(liger, monkeypatch, tmp_path):
    model = tiny.model("llava", tmp_path)

    def missing(*_, **__):
        raise ImportError("cannot import name 'LigerOwn'")

    monkeypatch.setattr(
        sys.modules["liger_kernel.transformers.monkey_patch"], "_apply_liger_kernel_to_instance", missing
    )
    with pytest.raises(ModelError, match=r"does not fit the installed transformers \(got 'llama': .*'LigerOwn'\)"):
        speed.use_liger(model.vlm)
    model.vlm.text_model.config.model_type = "own"
    with pytest.raises(ModelError, match=r"does not know this decoder \(got 'own'\)"):
        speed.use_liger(model.vlm)


def steps(model, batches):
    """Loss and gradients of every batch."""
    found = []
    for batch in batches:
        model.zero_grad()
        out = model(batch)
        terms = {**NextToken()(batch, out, None), **MaskRetrieval()(batch, out, None)}
        loss = sum(t.total / t.count.clamp_min(1) for t in terms.values())
        loss.backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        found.append({"loss": loss.detach(), **gradients})
    return found


def check_compiled(family, folder, backend, *, recompute, alone=False):
    """Two batches of other lengths, with <LOCAL> at other places; on request a third, of one row."""
    model = tiny.model(family, folder, layers=10)  # more than torch compiles of one function before it gives up
    lora.apply(model, ModelSection(base="x", lora=LoraSection(dropout=0.0)))
    model.train()
    batches = [
        tiny.batch(model, [tiny.grid_dialogue(5), tiny.grid_dialogue(3)]),
        tiny.batch(model, [tiny.grid_dialogue(2), tiny.grid_dialogue(7)], [tiny.image(2), tiny.image(3, (64, 30))]),
    ] + [tiny.batch(model, [tiny.grid_dialogue(4)])] * alone
    wanted = steps(model, batches)
    names = [n for n, _ in model.named_parameters()], list(model.state_dict())
    torch._dynamo.reset()
    counted = torch._dynamo.testing.CompileCounterWithBackend(backend)
    if recompute:
        model.recompute_activations()
    speed.compile_layers(model.vlm, backend=counted)
    found = steps(model, batches)
    assert names == ([n for n, _ in model.named_parameters()], list(model.state_dict()))
    for one, other in zip(wanted, found, strict=True):
        assert one.keys() == other.keys() and len(one) > 10
        for name, value in one.items():
            assert torch.allclose(value, other[name], rtol=1e-4, atol=1e-5), name
    assert 0 < counted.frame_count <= 2 * (1 + alone)  # for all ten layers and all lengths, by number of rows


@pytest.mark.parametrize("recompute", [pytest.param(False, marks=pytest.mark.slow), True])
def test_compiled_layers_compute_the_same(recompute, tmp_path):
    """Traced and differentiated by torch's compiler, each operation then run as it is: no C++ compiler is needed."""
    check_compiled("llava", tmp_path, "aot_eager", recompute=recompute)


def test_decoding_is_not_compiled(tmp_path):
    model = tiny.model("llava", tmp_path)
    generating.varied(model)
    grammars = [generating.GRAMMAR] * len(generating.ROWS)
    _, wanted = generating.run(model, generating.ROWS, grammars)
    torch._dynamo.reset()
    counted = torch._dynamo.testing.CompileCounter()
    speed.compile_layers(model.vlm, backend=counted)
    _, found = generating.run(model, generating.ROWS, grammars)
    assert counted.frame_count == 0 and [g.texts for g in wanted] == [g.texts for g in found]
    with torch.no_grad():
        model(tiny.batch(model, [tiny.grid_dialogue(1)]))
    assert counted.frame_count == 1  # and it is compiled otherwise


@pytest.mark.parametrize(
    "given",
    [FLEX, STRETCHES, pytest.param(COMPILE, marks=pytest.mark.slow), FLEX | COMPILE],
    ids=["flex", "stretches", "compile", "both"],
)
def test_a_run_takes_the_same_steps(given, monkeypatch, tmp_path):
    """Training, with an evaluation in the middle, that is told to be faster and has no GPU and no C++ compiler."""
    lora_only = {"language": "lora", "vision": "frozen", "projector": "frozen", "train_tokens": "new"}
    plain = training.recipe(
        model={**lora_only, "lora": {"dropout": 0.0}},
        train={"max_steps": 2, "save_steps": 0},
        eval={"every": 1, "protocols": ["scenes_rec:val"], "limit": 2},
    ).model_dump()
    train(Recipe.from_dict(plain), tmp_path / "plain", progress=False)
    monkeypatch.setattr(speed, "refuse", lambda recipe, accelerator: None)
    attention.run_on_cpus(monkeypatch)
    compiled, aot_eager = speed.compile_layers, torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(speed, "compile_layers", lambda vlm: compiled(vlm, aot_eager))
    faster = {name: values | given.get(name, {}) if name in given else values for name, values in plain.items()}
    train(Recipe.from_dict(faster), tmp_path / "faster", progress=False)
    first, second = (
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("plain", "faster")
    )
    assert len(first) == len(second) == 4 and (aot_eager.frame_count > 0) == ("train" in given)
    for wanted, found in zip(first, second, strict=True):
        for name, value in wanted.items():
            if not name.endswith(("second", "seconds")):
                assert found[name] == pytest.approx(value, rel=1e-4, abs=1e-4), name
    saved = [set(load_file(tmp_path / name / "last" / "trained.safetensors")) for name in ("plain", "faster")]
    assert saved[0] == saved[1] and saved[0]


@pytest.mark.slow  # a C++ compiler at work for a minute or more
@pytest.mark.parametrize("family", ["llava", "gemma3", "qwen_vl/qwen3_vl"])
def test_compiled_by_inductor(family, tmp_path):
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8))
    except RuntimeError as error:
        pytest.skip(f"torch.compile does not work here: {str(error).splitlines()[0]}")
    check_compiled(family, tmp_path, "inductor", recompute=False, alone=True)
