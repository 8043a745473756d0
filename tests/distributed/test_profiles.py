"""DeepSpeed's ZeRO and FSDP take the steps that one process takes, evaluate without waiting for ever, and resume.

A batch is one row per process, and in half of them only one of the two has an image; answers end at different lengths.
Profiles of several machines run as two launchers on loopback, as each machine would start one.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from ufo_tune.config import Recipe
from ufo_tune.engine import checkpoint
from ufo_tune.engine.load import load

ROOT = Path(__file__).resolve().parents[2]
PROFILES = ROOT / "recipes" / "accelerate"
SMALL = {"words": ["what", "is", "this", "box", "of", "red", "blue", "a", "segment"], "integers": 40,
         "width": 32, "heads": 2, "image_size": 32}  # fmt: skip
HAS_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
ZERO = ["zero1", "zero2", "zero3", "zero3_offload", "zero2_nodes", "zero3_nodes"]
KINDS = [
    *(pytest.param(kind, marks=pytest.mark.skipif(not HAS_DEEPSPEED, reason="no deepspeed")) for kind in ZERO),
    "fsdp2",
]
STEPS = 4


def rows(folder: Path) -> Path:
    """Eight samples: every second one is text only; answers of one to four words."""
    lines = []
    for number in range(8):
        said = " ".join(["red", "a", "blue", "red"][: 1 + number % 4])
        row = {"messages": [{"role": "user", "content": "what is this"}, {"role": "assistant", "content": said}]}
        if number % 2:
            pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
            row["image"] = f"{number}.png"
        lines.append(json.dumps(row))
    (folder / "chats.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def recipe(folder: Path, processes: int) -> Recipe:
    parts = {"language": "full", "vision": "full", "projector": "full", "train_tokens": "full"}
    return Recipe.from_dict(
        {
            "model": {"base": "tiny:llava", "options": SMALL, "codec": {"num_bins": 40, "slot_side": 2}, **parts},
            "data": {
                "mixture": [
                    {"task": "vqa", "dataset": "jsonl", "split": "chats", "root": str(folder)},
                    {"task": "res", "template": "scenes_res", "dataset": "scenes", "options": {"size": 12}},
                ],
                "exclude_eval": False,
            },
            "train": {
                "max_steps": STEPS,
                "per_device_train_batch_size": 2 // processes,
                "learning_rate": 1e-3,
                "adam_epsilon": 1e-2,  # above the gradients: steps follow them, where AdamW's signs would follow noise
                "logging_steps": 1,
                "save_steps": 2,
                "report_to": [],
                "seed": 3,
            },
            # Answers of one to four words, a token at a time: processes differ in how often they call the head.
            "objectives": {"next_token": {"rows": 1}, "mask_retrieval": {}},
            "eval": {"every": 2, "protocols": ["scenes_vqa:val", "scenes_res:val"], "limit": 3},
        }
    )


def train(kind: str, folder: Path, *arguments: str) -> Path:
    """Run ``ufo-tune train`` under a profile; a run that hangs fails by the clock."""
    file, out = folder / f"{kind}.yaml", folder / kind
    if not file.exists():
        recipe(folder, 1 if kind == "one" else 2).save(file)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    further = ["train", str(file), "--out", str(out), "--quiet", *arguments]
    commands = starts(kind)
    logs = [folder / f"{kind}_{rank}.log" for rank in range(len(commands))]  # a pipe that nobody reads would fill up
    with ExitStack() as stack:
        runs = [
            stack.enter_context(subprocess.Popen([*command, *further], env=environment, stdout=into, stderr=into))
            for command, into in zip(commands, [stack.enter_context(log.open("w")) for log in logs], strict=True)
        ]
        try:
            codes = [run.wait(900) for run in runs]
        finally:
            for run in runs:
                run.kill()
    said = [log.read_text() for log in logs]
    assert not any(codes), "\n".join(f"{text[:2000]} ... {text[-2000:]}" for text in said)
    return out


def free_port() -> str:
    """Of this machine, at this moment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def starts(kind: str) -> list[list[str]]:
    """What each machine calls, one of two processes or two of one."""
    if kind == "one":
        return [[sys.executable, "-m", "ufo_tune"]]
    if kind.startswith("fsdp2"):
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        return [[*launch, str(ROOT / "tests" / "distributed" / "fsdp_on_cpu.py")]]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(PROFILES / f"{kind}.yaml")]
    command = str(ROOT / "tests" / "distributed" / "zero_of_small_models.py")
    if not kind.endswith("_nodes"):
        return [[*launch, "--num_processes", "2", "--num_machines", "1", command]]
    port = free_port()
    launch += ["--num_processes", "2", "--num_machines", "2", "--main_process_ip", "127.0.0.1"]
    return [[*launch, "--main_process_port", port, "--machine_rank", rank, command] for rank in ("0", "1")]


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    """What one process does with both rows."""
    return train("one", rows(tmp_path_factory.mktemp("profiles")))


@pytest.mark.parametrize("kind", KINDS)
def test_a_profile_takes_the_steps_of_one_process_and_resumes(one, kind):
    out = train(kind, one.parent)
    first, second = (
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] for folder in (one, out)
    )
    assert [line["step"] for line in first] == [line["step"] for line in second]
    compared: set[str] = set()
    for wanted, found in zip(first, second, strict=True):
        names = {n for n in wanted if not n.endswith(("second", "seconds"))}
        assert names == {n for n in found if not n.endswith(("second", "seconds"))}
        compared |= names
        for name in names:
            assert found[name] == pytest.approx(wanted[name], rel=2e-3, abs=2e-4), (name, wanted["step"])
    assert {"loss/token", "loss/dice", "scenes_vqa/val/exact_match", "scenes_res/val/cIoU"} <= compared
    weights = load_file(out / "last" / "model.safetensors")  # whole, whoever had which part
    wanted = load_file(one / "last" / "model.safetensors")
    assert wanted.keys() == weights.keys()
    for name, value in wanted.items():
        assert (value - weights[name]).abs().max() <= 2e-6, name
    load(out)
    if kind == "zero1" or kind.endswith("_nodes"):  # states are written as those of zero2, and of one machine
        return
    shutil.rmtree(out / f"checkpoint-{STEPS}")
    checkpoint.point(out / "last", f"checkpoint-{STEPS // 2}")
    again = load_file(train(kind, one.parent, "--resume") / "last" / "model.safetensors")
    for name, value in weights.items():
        assert (again[name] - value).abs().max() <= 1e-6, name


def test_fsdp_in_mixed_precision_resumes_from_unrounded_weights(tmp_path):
    """Loaded in bfloat16 and trained in float32: a checkpoint must not go through bfloat16 again."""
    folder = rows(tmp_path)
    document = recipe(folder, 2).model_dump(mode="json")
    document["model"]["dtype"], document["train"]["bf16"], document["eval"]["every"] = "bfloat16", True, 0
    Recipe.from_dict(document).save(folder / "fsdp2_bf16.yaml")
    out = train("fsdp2_bf16", folder)
    whole = load_file(out / "last" / "model.safetensors")
    assert any((value != value.bfloat16().float()).any() for value in whole.values()), "kept in float32"
    shutil.rmtree(out / f"checkpoint-{STEPS}")
    checkpoint.point(out / "last", f"checkpoint-{STEPS // 2}")
    again = load_file(train("fsdp2_bf16", folder, "--resume") / "last" / "model.safetensors")
    for name, value in whole.items():
        assert (again[name] - value).abs().max() <= 1e-6, name
