"""Processes of any number score a protocol to the same digits, with and without a part that was done before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = ("predictions.jsonl", "analysis.json", "pictures/captions.json")
WORKER = """
import json, os, signal, sys, time
from pathlib import Path
from accelerate import PartialState
from made_eval.model import Model
from ufo_tune.config import Protocol
from ufo_tune.engine.evaluate import evaluate

out, killed_rank, after = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
rank = PartialState(cpu=True).process_index


class Worker(Model):
    # Who shares a batch moves its answers by a hair, as sums of floating point do.
    def answer(self, sample):
        said = super().answer(sample)
        return said if said == "no idea" else ",".join(str(float(v) + 1e-3 * self.company) for v in said.split(","))

    def predict(self, batch, decode, grammars):
        if rank == killed_rank and len(self.batches) >= after:
            os.kill(os.getpid(), signal.SIGKILL)
        self.company = sum(int(s.text.split()[1]) for row in batch.samples for s in row)
        time.sleep(0.05 * (rank % 3))  # no two processes are done at the same time
        return super().predict(batch, decode, grammars)


values = evaluate(Worker(), Protocol.load(sys.argv[1]), out=out, progress=False)
(out / f"rank{rank}.json").write_text(json.dumps(values))
PartialState().destroy_process_group()
"""
Run = dict[str, Any]


def _run(folder: Path, name: str, processes: int, killed: tuple[int, int] | None = None) -> list[Run]:
    """The values that each process returned; ``killed``: (rank, after so many batches) dies on the way."""
    paths = [str(ROOT), str(ROOT / "tests" / "fixtures" / "plugins"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    rank, after = killed or (-1, 0)
    out = folder / name
    command = [sys.executable, *launch, "worker.py", "protocol.yaml", str(out), str(rank), str(after)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode != 0) == (killed is not None), done.stderr[-3000:]
    if killed:
        assert not (out / "metrics.json").exists()
        return []
    return [json.loads((out / f"rank{r}.json").read_text())["test"] for r in range(processes)]


def _metrics(out: Path) -> Run:
    """``metrics.json`` without the seconds."""
    document = json.loads((out / "metrics.json").read_text())
    for values in document["splits"].values():
        values.pop("seconds")
    return document


def _written(out: Path) -> dict[str, bytes]:
    return {name: (out / "test" / name).read_bytes() for name in FILES}


@pytest.fixture
def folder(tmp_path: Path):
    """A function that writes the worker and a protocol of so many samples."""

    def folder(count: int) -> Path:
        template = {"task": "made_eval.point", "questions": ["{phrase}?"], "eval_question": "{phrase}?"}
        (tmp_path / "made.yaml").write_text(yaml.safe_dump(template | {"image_position": "before"}))
        document = {
            "task": "made_eval.point",
            "template": "made.yaml",
            "dataset": "made_eval.boxes",
            "options": {"count": count},
            "splits": ["test"],
            "pack": 2,
            "metric": "rec_accuracy",
            "decode": {"batch_size": 2},
        }
        (tmp_path / "protocol.yaml").write_text(yaml.safe_dump(document))
        (tmp_path / "worker.py").write_text(WORKER)
        return tmp_path

    return folder


# 3 samples in 2 rows: two of four processes have nothing to do.
@pytest.mark.parametrize(("count", "runs"), [(29, {"two": 2, "four": 4}), (3, {"four": 4})])
def test_one_two_and_four_processes_agree(folder, count, runs):
    at = folder(count)
    (one,) = _run(at, "one", 1)
    assert one["n"] == count
    for name, processes in runs.items():
        for values in _run(at, name, processes):
            assert {**values, "seconds": 0} == {**one, "seconds": 0}
        assert _metrics(at / name) == _metrics(at / "one")
        assert _written(at / name) == _written(at / "one")
        assert sorted(p.name for p in (at / name / "test").iterdir()) == [
            "analysis.json",
            "pictures",
            "predictions.jsonl",
        ]


def test_a_killed_evaluation_goes_on_with_another_number_of_processes(folder):
    at = folder(29)
    _run(at, "whole", 1)
    _run(at, "cut", 2, killed=(1, 2))
    left = sum(len(p.read_text().splitlines()) for p in (at / "cut" / "test").glob("predictions*.jsonl"))
    assert 8 <= left < 29  # two batches of two rows of two by the one that died; the other was stopped somewhere
    _run(at, "cut", 1, killed=(0, 1))
    _run(at, "cut", 4)
    assert _metrics(at / "cut") == _metrics(at / "whole")
    assert _written(at / "cut") == _written(at / "whole")
