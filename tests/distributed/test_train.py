"""Two processes take the step that one process takes on their batches together, to rounding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from ufo_tune.config import Recipe

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["box", "of", "segment"]
SMALL = {"width": 32, "heads": 2, "image_size": 32}


def _recipe(rows: int) -> Recipe:
    """Boxes, words and masks: rows differ in supervised tokens, and a step's entries in terms."""
    from ufo_tune.datasets import scenes

    data = {"dataset": "scenes", "options": {"size": 12}}
    parts = {"language": "full", "vision": "full", "projector": "full", "train_tokens": "full"}
    codec = {"num_bins": 40, "slot_side": 2}
    return Recipe.from_dict(
        {
            "model": {
                "base": "tiny:llava",
                "options": {
                    "words": [*scenes.WORDS, *WORDS],
                    "integers": 40,
                    "width": 32,
                    "heads": 2,
                    "image_size": 32,
                },
                "codec": codec,
                **parts,
            },
            "data": {
                "mixture": [
                    {"task": "rec", "template": "scenes_rec", **data},
                    {"task": "res", "template": "scenes_res", "weight": 2, **data},
                    {"task": "vqa", "template": "scenes_vqa", **data},
                ]
            },
            "train": {
                "max_steps": 2,
                "per_device_train_batch_size": rows,
                "gradient_accumulation_steps": 3,
                "learning_rate": 1e-3,
                "logging_steps": 1,
                "save_steps": 1,
                "report_to": [],
                "seed": 5,
            },
        }
    )


def _train(folder: Path, processes: int) -> Path:
    recipe, out = folder / f"{processes}.yaml", folder / f"out{processes}"
    _recipe(4 // processes).save(recipe)
    launch = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"] if processes > 1 else []
    command = [sys.executable, "-m", *launch, "ufo_tune", "train", str(recipe), "--out", str(out), "--quiet"]
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stderr[:2000]} ... {done.stderr[-1000:]}"
    assert done.stdout.count("last checkpoint: ") == 1, "one process speaks for all"
    return out


def test_one_and_two_processes_take_the_same_steps(tmp_path):
    one, two = (_train(tmp_path, n) for n in (1, 2))
    logs = [[json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()] for out in (one, two)]
    assert [line["step"] for line in logs[0]] == [line["step"] for line in logs[1]] == [1, 2]
    seen: set[str] = set()
    for first, second in zip(*logs, strict=True):
        names = {k for k in first if k.startswith("loss/")}
        assert names == {k for k in second if k.startswith("loss/")}
        seen |= names
        for name in (*names, "lr"):
            torch.testing.assert_close(first[name], second[name], rtol=2e-4, atol=1e-6)
    assert seen == {"loss/token", "loss/dice", "loss/focal"}
    states = [torch.load(out / "checkpoint-1" / "training_state.pt", weights_only=True) for out in (one, two)]
    gradients = []  # after one step of AdamW the first moment is a tenth of the clipped gradient
    for state in states:
        gradients.append(torch.cat([s["exp_avg"].flatten() for s in state["optimizer"]["state"].values()]))
    assert gradients[0].abs().max() > 1e-3
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-6)
    weights = [load_file(out / "checkpoint-1" / "model.safetensors") for out in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():  # AdamW's first step is the gradient's sign, so noise around 0 may differ
        different = (value - weights[1][name]).abs() > 1e-5
        assert different.float().mean() < 0.01, name
    assert states[0]["loader"]["mixture"]["positions"] == states[1]["loader"]["mixture"]["positions"]
