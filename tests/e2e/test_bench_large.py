"""The benchmark of large models: its counts against torch's own counter; its CPU part, which checks its own sides."""

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ufo_tune.config import ModelSection
from ufo_tune.core.sequence import visible
from ufo_tune.engine.trainable import Trainable
from ufo_tune.models import lora

SCRIPTS = Path(__file__).parents[2] / "scripts" / "bench"
SIZES = {"width": 64, "mlp": 192, "layers": 2, "heads": 4, "tower_width": 32, "tower_mlp": 64, "tower_layers": 2,
         "tower_heads": 2, "vocabulary": 1300}  # fmt: skip


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("_large_models"), importlib.import_module("_large_floor")


def counted(call):
    """Operations by torch's counter, attention as plain products."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["LLAVA", "INTERNVL"])
def test_operations_of_a_step_are_those_of_torch(bench, name):
    models, floor = bench
    kv_heads = 4 if name == "LLAVA" else 2
    shape = replace(getattr(models, name), kv_heads=kv_heads, **SIZES)
    built = models.Weights(shape).seeing(1)
    lora.apply(built, ModelSection(base="bench"))
    batch = models.asked(built.train(), models.taught(12, 4), 1)
    assert len(batch.image_index[0]) == shape.tokens and (batch.labels[0] == built.processor.end_id).sum() == 12

    pixels = counted(lambda: built.vlm.image_features(batch.pixels))
    assert floor.tower_operations(shape, 1) == pytest.approx(pixels, rel=0.01)  # it has a class token more

    trainable = Trainable(built, {"next_token": {}})
    whole = counted(lambda: sum(t.total for t in trainable(batch).values()).backward())
    adapters = 6 * batch.ids.numel() * sum(p.numel() for n, p in built.vlm.named_parameters() if "lora_" in n)
    is_image = torch.zeros_like(batch.ids).index_fill_(1, batch.image_index[0], 1).bool()
    unseen = batch.ids.numel() ** 2 - int(visible(batch.segment, is_image, batch.causal_image).sum())
    expected = floor.step_operations(shape, batch) + adapters + 3 * 4 * shape.layers * shape.width * unseen
    assert expected == pytest.approx(whole, rel=0.03)


def test_floors_of_a_hand_worked_decode(bench):
    """One answer, a prompt of 10 tokens, two passes; a machine of one operation and one byte a second tells which."""
    models, floor = bench
    shape = replace(models.LLAVA, **{**SIZES, "kv_heads": 2, "layers": 3})
    matrices = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 192
    assert floor.layer_weights(shape) == matrices
    passes = floor.copied_passes(shape, 5, 10, 1, 3)
    assert [(p.tokens, p.keys, p.read) for p in passes] == [(5, 60, 60), (5, 65, 65)]
    computing = floor.decode_seconds(shape, floor.Machine(1.0, 1e18, 4), passes, 50)
    assert computing == pytest.approx(3 * (2 * 2 * matrices * 5 + 4 * 64 * 125) + 2 * 2 * 64 * 1300 * 5)
    reading = floor.decode_seconds(shape, floor.Machine(1e18, 1.0, 4), passes, 50)
    assert reading == pytest.approx(4 * (3 * (2 * matrices + 64 * 125 + 64 * 50) + 2 * 64 * 1300))
    dense = floor.dense_passes(shape, 5, 10, 1, 3)
    assert [(p.tokens, p.keys, p.read, p.masked) for p in dense] == [(5, 100, 20, 100), (5, 125, 25, 125)]


@pytest.mark.slow
def test_ratios_on_a_cpu(tmp_path):
    """It fails by itself where a side's states, choices, loss or gradients are others."""
    out = tmp_path / "large.json"
    command = [sys.executable, str(SCRIPTS / "large.py"), "--tiles", "1", "--repeat", "1", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (found,) = json.loads(out.read_text())["models"]
    rows = {r["what"]: r for r in found["decode"]}
    assert {k: sorted(r["seconds"]) for k, r in rows.items()} == {
        "detection, all boxes": ["copied", "dense", "ours"],
        "detection, a tenth boxes": ["copied", "dense", "ours"],
        "RES": ["copied", "ours"],
        "REC": ["copied", "ours"],
    }
    boxes = rows["detection, all boxes"]
    # Prompt and image once more for each answer, in float32: 2 layers, keys and values, 2 heads of 32.
    assert boxes["bytes"]["copied"] > 100 * (boxes["tokens"] - 100) * 2 * 2 * 64 * 4
    assert boxes["bytes"]["ours"] < boxes["bytes"]["copied"] / 2
    assert [r["answers"] for r in found["train"]] == [40] and "LoRA step" in done.stdout
