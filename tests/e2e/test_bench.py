"""The measurements run at toy size: both sides of every ratio are there, and every variant reaches the table."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow  # processes of their own, a minute or two

SCRIPTS = Path(__file__).parents[2] / "scripts" / "bench"


def run(script, *arguments):
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / script), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_train_step(tmp_path):
    out = tmp_path / "train_step.json"
    shape = ("--width", 32, "--layers", 1, "--repeat", 1, "--train", "lora", "full")
    printed = run("train_step.py", "--vocabularies", 2000, 3000, *shape, "--out", out)
    rows = json.loads(out.read_text())["rows"]
    assert [(r["vocabulary"], r["train"]) for r in rows] == [
        (v, t) for v in (2000, 3000) for t in ("lora", "full")
    ]  # fmt: skip
    for row in rows:
        assert 0 < row["supervised"] < row["tokens"]
        # The full side holds at least logits of all tokens that the other has not: float32, one row.
        extra = (row["tokens"] - row["supervised"]) * row["vocabulary"] * 4
        assert row["bytes"]["full"] > row["bytes"]["supervised"] + extra
        assert f"{row['memory_ratio']:.2f}x" in printed


def test_plain_step(tmp_path):
    """It fails by itself where the two sides do not compute the same."""
    out = tmp_path / "plain_step.json"
    shape = ("--width", 32, "--layers", 2, "--repeat", 1, "--train", "lora", "full")
    printed = run("plain_step.py", "--vocabularies", 2000, *shape, "--out", out)
    rows = json.loads(out.read_text())["rows"]
    tasks = [("detection", 0), ("instance_segmentation", 18)]
    assert [(r["task"], r["train"], r["masks"]) for r in rows] == [
        (t, k, m) for t, m in tasks for k in ("lora", "full")
    ]
    for row in rows:
        assert 40 < row["supervised"] < row["tokens"] - 256
        # The plain side keeps some maps of each mask for its way back, and full logits.
        assert row["bytes"]["plain"] > row["bytes"]["ours"] + 4 * row["masks"] * 448 * 448 * 4
        assert f"{row['memory_ratio']:.2f}x" in printed


def test_attention(tmp_path):
    """Without a GPU it counts: pairs by a closed form, never fewer blocks than pairs; and nothing is timed."""
    out = tmp_path / "attention.json"
    printed = run("attention.py", "--sides", 448, 896, "--answers", 3, 40, "--repeat", 1, "--out", out)
    rows = json.loads(out.read_text())["rows"]
    assert [(r["side"], r["answers"]) for r in rows] == [(s, a) for s in (448, 896) for a in (3, 40)]
    for row in rows:
        image = 256 * (row["side"] // 448) ** 2
        prompt, tokens = image + 40, image + 40 + 20 * row["answers"]
        pairs = image**2 + sum(image + k for k in range(1, 41))
        pairs += row["answers"] * sum(prompt + k for k in range(1, 21))
        assert row["tokens"] == tokens and row["pairs_seen"] == pytest.approx(pairs / tokens**2, rel=1e-5)
        assert pairs < row["blocks_computed"] * (-(-tokens // 128) * 128) ** 2 and row["blocks_computed"] < 1
        assert ("sdpa" in row) == torch.cuda.is_available() == ("no GPU: nothing is timed" not in printed)


def test_machine(tmp_path):
    out = tmp_path / "machine.json"
    run("machine.py", "--out", out)
    assert all(value > 0 for value in json.loads(out.read_text()).values())


def test_ablations(tmp_path):
    options = "{image_size: 32, patch: 8, width: 32, heads: 2, integers: 100, words: [segment, detect, box, of]}"
    out, doc = tmp_path / "a.json", tmp_path / "docs" / "a.md"
    sizes = ("--steps", 6, "--batch", 1, "--samples", 1, "--seeds", 0, 1, "--jobs", 1)
    command = ("--base", "tiny:llava", "--base-options", options, *sizes, "--work", tmp_path / "work")
    run("ablations.py", *command, "--out", out, "--doc", doc)
    found = json.loads(out.read_text())
    variants = ["default", "one_slot_token", "causal_image", "local_at_input", "features_before"]
    assert [(r["variant"], r["seed"]) for r in found["runs"]] == [(v, s) for v in variants for s in (0, 1)]
    assert {(r["task"], r["metric"]) for r in found["rows"]} >= {("res", "boundary_IoU"), ("detection", "AP50")}
    losses = {
        v: [
            {k: x for k, x in line.items() if "loss" in k}
            for r in found["runs"]
            if r["variant"] == v
            for line in r["log"]
        ]
        for v in variants
    }
    for name in variants[1:]:  # each change reaches the model: the same data gives other losses
        assert losses[name] != losses["default"], name
    assert all(f"`{v}`" in doc.read_text() for v in variants)
    # What is finished is not run again, and what a person wrote under the tables stays.
    said = "\n## Against the paper\n\nRead by a person.\n"
    doc.write_text(doc.read_text() + said)
    assert "[10/10]" in run("ablations.py", *command, "--out", out, "--doc", doc)
    assert doc.read_text().endswith(said) and doc.read_text().count(said) == 1


def test_data(tmp_path):
    out = tmp_path / "data.json"
    printed = run("data.py", "--batches", 6, "--images", 10, "--annotations", 1000, "--out", out)
    found = json.loads(out.read_text())
    for task in ("detection", "res"):
        ours, plain = (found["speed"][task][side] for side in ("ours", "plain"))
        assert plain["ms"] > ours["ms"] > 0 and f"ratio: {plain['ms'] / ours['ms']:.2f}x" in printed
        parts = [v for stages in (ours, plain) for k, v in stages.items() if k not in ("ms", "worker_mb")]
        assert sum(parts) == pytest.approx(ours["ms"] + plain["ms"])
    assert found["start_up"]["ours, prepared"]["seconds"] < 5


def test_vision_cache(tmp_path):
    """It fails by itself where a step with the tower and one without do not compute the same."""
    out = tmp_path / "vision_cache.json"
    printed = run("vision_cache.py", "--width", 32, "--layers", 1, "--repeat", 1, "--towers", 1, "--out", out)
    rows = json.loads(out.read_text())["rows"]
    assert [r["family"] for r in rows] == ["llava", "smolvlm"]
    # Kept of an image, float32: LLaVA's one layer with its class token, SmolVLM's five views of patches.
    assert [r["kept_bytes"] for r in rows] == [4 * 32 * (1 + 24 * 24), 4 * 32 * 5 * 16 * 16]
    assert all(r["floor"] > 1 and f"{r['time_ratio']:.2f}x" in printed for r in rows)


def test_packing(tmp_path):
    out = tmp_path / "packing.json"
    printed = run("packing.py", "--width", 32, "--layers", 1, "--repeat", 1, "--budget", 600, "--out", out)
    for row in json.loads(out.read_text())["rows"]:
        assert row["padding"]["packed"] < row["padding"]["padded"]
        for side in ("padded", "packed"):
            rows, width = row["shapes"][side]
            assert row["padding"][side] == pytest.approx(1 - row["tokens"] / (rows * width))
        assert f"{row['time_ratio']:.2f}x" in printed
