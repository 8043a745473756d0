"""``scripts/launch_slurm.sh`` on a cluster of two machines that are this one: Slurm's commands are stood in for.

As Slurm does it, the script runs from a copy elsewhere, and ``srun`` starts its words once on every machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distributed.test_profiles import HAS_DEEPSPEED, ROOT, STEPS, free_port, recipe, rows

SCRIPT = ROOT / "scripts" / "launch_slurm.sh"
SRUN = """#!/usr/bin/env bash
set -e
while [[ "$1" == --* ]]; do shift; done
SLURM_NODEID=0 "$@" & first=$!
SLURM_NODEID=1 "$@" & second=$!
trap 'kill -TERM $first $second' TERM
wait $first
wait $second
"""
SCONTROL = """#!/usr/bin/env bash
set -e
[ "$*" = "show hostnames node[1-2]" ]
echo 127.0.0.1
sleep 0.2 # whoever reads one line only has left by now
echo node2
"""


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """The environment of a job on two nodes with one processor each."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    path = [str(commands), str(Path(sys.executable).parent), os.environ["PATH"]]
    given = {
        "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "1", "MASTER_PORT": free_port(),
        "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT), "PATH": os.pathsep.join(path),
    }  # fmt: skip
    return os.environ | given


def submit(cluster: dict[str, str], folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the job in a folder."""
    spooled = folder / "slurm_script"
    shutil.copy(SCRIPT, spooled)
    return subprocess.run(
        ["bash", str(spooled), *words], cwd=folder, env=cluster, capture_output=True, text=True, timeout=600
    )


@pytest.mark.skipif(not HAS_DEEPSPEED, reason="no deepspeed")
def test_two_machines_train_as_one_run(cluster, tmp_path):
    recipe(rows(tmp_path), 2).save(tmp_path / "my recipe.yaml")
    done = submit(cluster, tmp_path, "zero2_nodes", "my recipe.yaml", "--out", "runs/my", "--quiet")
    assert done.returncode == 0, done.stderr[-3000:]
    again = submit(
        cluster | {"SLURM_RESTART_COUNT": "1"}, tmp_path, "zero2_nodes", "my recipe.yaml", "--out", "runs/my"
    )
    assert again.returncode == 0, again.stderr[-3000:]  # requeued, it goes on, and has nothing left to do
    log = [json.loads(line) for line in (tmp_path / "runs" / "my" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == STEPS and (tmp_path / "runs" / "my" / "last" / "model.safetensors").is_file()
    trained = [row for row in log if "mixture/vqa/jsonl/chats" in row]
    assert len(trained) == STEPS  # two machines that know nothing of each other would both write


def test_an_unknown_profile_is_told(cluster, tmp_path):
    done = submit(cluster, tmp_path, "zero9", "my.yaml")
    assert done.returncode == 2 and "no such profile" in done.stderr and "zero9" in done.stderr
