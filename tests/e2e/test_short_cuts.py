"""A run with the tower's outputs kept, or with packed rows, is the run without; both resume bit for bit."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests import tiny
from tests.e2e.test_train import LORA, recipe
from ufo_tune.core.packing import Packing
from ufo_tune.engine import checkpoint, sharding
from ufo_tune.engine.estimate import estimate
from ufo_tune.engine.train import train
from ufo_tune.errors import ConfigError

MODEL = {**LORA, "lora": {"dropout": 0.0}}
CACHED, PACKED = {"vision_cache": 0.1}, {"pack_tokens": 400, "per_device_train_batch_size": 4}


@pytest.fixture
def talk(tmp_path):
    """Twelve questions with answers of 1 to 89 words, every other one about a picture, as a mixture of one entry."""
    folder = tmp_path / "talk"
    folder.mkdir()
    rows = []
    for n in range(12):
        rows.append({"question": "what", "answer": " ".join(["box"] * (1 + 8 * n))})
        if n % 2:
            Image.fromarray(tiny.image(n)).save(folder / f"{n}.png")
            rows[-1]["image"] = f"{n}.png"
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {"mixture": [{"task": "vqa", "dataset": "jsonl", "root": str(folder)}]}


def weights(folder):
    return load_file(folder / "trained.safetensors")


def losses(out):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k.startswith("loss/")} for line in lines]


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(v, second[k]) for k, v in first.items())


def test_a_run_with_the_tower_s_outputs_kept_is_the_run_without(tmp_path):
    plain = train(recipe(model=MODEL), tmp_path / "plain", progress=False)
    cached = train(recipe(model=MODEL, train=CACHED), tmp_path / "cached", progress=False)
    assert losses(tmp_path / "plain") == losses(tmp_path / "cached")
    assert same(weights(plain), weights(cached))


def test_a_packed_run_is_the_run_without(tmp_path, talk, monkeypatch):
    """Sums in another order: equal to rounding, not to the bit."""
    made = []
    monkeypatch.setattr(Packing, "of", lambda *a, of=Packing.of: made.append(a[0]) or of(*a))
    train(recipe(model=MODEL, data=talk, train={**PACKED, "pack_tokens": 0}), tmp_path / "plain", progress=False)
    assert not made
    train(recipe(model=MODEL, data=talk, train=PACKED), tmp_path / "packed", progress=False)
    assert made
    for apart, together in zip(losses(tmp_path / "plain"), losses(tmp_path / "packed"), strict=True):
        assert together == pytest.approx(apart, rel=1e-4)


def test_both_together_resume_bit_for_bit(tmp_path, talk):
    """The resumed run's cache is empty where the other's was full."""
    asked = recipe(model=MODEL, data=talk, train={**CACHED, **PACKED})
    whole = train(asked, tmp_path / "whole", progress=False)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut", symlinks=True)
    shutil.rmtree(tmp_path / "cut" / "checkpoint-6")
    checkpoint.point(tmp_path / "cut" / "last", "checkpoint-3")
    assert same(weights(whole), weights(train(asked, tmp_path / "cut", resume=True, progress=False)))


def test_the_end_tells_what_the_cache_was_worth(tmp_path, capsys):
    train(recipe(model=MODEL, train={**CACHED, "max_steps": 8}), tmp_path / "run")
    told = capsys.readouterr()
    assert "vision cache: " in told.out + told.err


def test_a_trained_tower_and_sharded_weights_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"train\.vision_cache.*freeze model\.vision"):
        train(recipe(train=CACHED), tmp_path / "full", progress=False)
    monkeypatch.setattr(sharding, "in_step", lambda _: True)
    with pytest.raises(ConfigError, match=r"train\.vision_cache.*profile ddp"):
        train(recipe(model=MODEL, train=CACHED), tmp_path / "sharded", progress=False)


def test_estimate_counts_packed_rows(talk):
    """Fewer tokens go through the decoder, so its forward and backward are fewer operations."""
    plain, packed = (
        estimate(recipe(model=MODEL, data=talk, train={**PACKED, "pack_tokens": n}), profiles=("ddp",), quick=True)
        for n in (0, 400)
    )
    assert packed.tokens_per_step == plain.tokens_per_step
    assert packed.flops_per_step < plain.flops_per_step
