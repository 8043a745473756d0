"""Two processes score a protocol to the same digits as one, with and without a part that was done before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKER = """
import json, sys
from pathlib import Path
from accelerate import PartialState
from made_eval.model import Model
from ufo_tune.config import Protocol
from ufo_tune.engine.evaluate import evaluate

out = Path(sys.argv[2])
values = evaluate(Model(die_after=int(sys.argv[3])), Protocol.load(sys.argv[1]), out=out, progress=False)
rank = PartialState().process_index
(out / f"rank{rank}.json").write_text(json.dumps(values))
PartialState().destroy_process_group()
"""


def _run(protocol: Path, out: Path, worker: Path, processes: int, die_after: int = 99) -> list[dict]:
    paths = [str(ROOT), str(ROOT / "tests" / "fixtures" / "plugins"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *launch, str(worker), str(protocol), str(out), str(die_after)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode != 0) == (die_after == 1), done.stderr[-3000:]
    if die_after == 1:
        return []
    return [json.loads((out / f"rank{r}.json").read_text())["test"] for r in range(processes)]


def test_one_and_two_processes_agree(tmp_path):
    template = {"task": "made_eval.point", "questions": ["{phrase}?"], "eval_question": "{phrase}?"}
    (tmp_path / "made.yaml").write_text(yaml.safe_dump(template | {"image_position": "before"}))
    document = {
        "task": "made_eval.point",
        "template": str(tmp_path / "made.yaml"),
        "dataset": "made_eval.boxes",
        "options": {"count": 13},
        "splits": ["test"],
        "pack": 2,
        "metric": "rec_accuracy",
        "decode": {"batch_size": 2},
    }
    protocol, worker = tmp_path / "protocol.yaml", tmp_path / "worker.py"
    protocol.write_text(yaml.safe_dump(document))
    worker.write_text(WORKER)
    (one,) = _run(protocol, tmp_path / "one", worker, 1)
    _run(protocol, tmp_path / "two", worker, 1, die_after=1)  # a first part by one process, the rest by two
    assert len((tmp_path / "two" / "test" / "predictions.jsonl").read_text().splitlines()) == 4
    two = _run(protocol, tmp_path / "two", worker, 2)
    for values in (one, *two):
        values.pop("seconds")
    assert two[0] == two[1] == one
    assert one["n"] == 13
    folder = tmp_path / "two" / "test"
    assert [p.name for p in folder.glob("predictions*")] == ["predictions.jsonl"]
    lines = [sorted((tmp_path / n / "test" / "predictions.jsonl").read_text().splitlines()) for n in ("one", "two")]
    assert lines[0] == lines[1]
