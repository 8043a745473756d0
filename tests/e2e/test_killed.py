"""Twenty SIGKILLs, at random moments and at every stage of a save: what was killed goes on and ends the same.

Children are forked from a process that has everything imported, so that a kill costs no imports.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import ufo_tune.engine.train as loop
from tests.e2e.test_train import LORA, recipe
from ufo_tune import cli
from ufo_tune.engine import checkpoint, load
from ufo_tune.engine.predictions import FILE, UNFINISHED, PredictionLog
from ufo_tune.errors import ConfigError

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["ufo_tune.cli", "ufo_tune.engine.train", "ufo_tune.engine.hub", "ufo_tune.models.llava"])
STEPS, SAVE = 12, 2
RANDOM_TRAIN, RANDOM_EVAL = 7, 3  # with those at the stages below: 20
KILLED = -signal.SIGKILL


def child(command: list[str], death: tuple[str, int, bool] | None = None, by: int = signal.SIGKILL) -> None:
    """Run the command line; with ``death`` (what, which call of it, after it or before) this process is signalled."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # bit-equality is promised for CPUs
    torch.set_num_threads(1)
    if death is not None:
        _arm(*death, by)
    sys.exit(cli.main(command))


def _arm(what: str, number: int, after: bool, by: int) -> None:
    places = {"checkpoint": checkpoint, "torch": torch, "os": os, "shutil": shutil, "log": PredictionLog}
    place, _, name = what.partition(".")
    real, calls = getattr(places[place], name), itertools.count(1)

    def dies(*args: Any, **kwargs: Any) -> Any:
        due = next(calls) == number
        if due and not after:
            os.kill(os.getpid(), by)
        result = real(*args, **kwargs)
        if due and after:
            os.kill(os.getpid(), by)
        return result

    setattr(places[place], name, dies)


def attempt(command: list[str], *, seconds: float = 300.0, death: tuple[str, int, bool] | None = None) -> int | None:
    """The exit code of a child that is killed after so many seconds, if it still runs."""
    started = FORKS.Process(target=child, args=(command, death))
    started.start()
    started.join(seconds)
    started.kill()
    started.join()
    return started.exitcode


class Run:
    """A training run in a folder, begun or gone on with by each ``attempt``."""

    def __init__(self, file: Path, out: Path) -> None:
        self.out = out
        self.command = ["train", str(file), "--out", str(out), "--resume", "--quiet"]

    @property
    def step(self) -> int:
        """Where ``--resume`` goes on."""
        return int((self.out / "last").resolve().name.rpartition("-")[2]) if (self.out / "last").exists() else 0

    def log(self) -> list[int]:
        """Steps, in the order in which they were taken."""
        path = self.out / "log.jsonl"
        return [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.exists() else []

    def attempt(self, **how: Any) -> int | None:
        """Go on; it must start right after the last checkpoint and take each step once."""
        step, taken = self.step, len(self.log())
        code = attempt(self.command, **how)
        new = self.log()[taken:]
        assert new == list(range(step + 1, step + 1 + len(new)))
        assert self.step >= step, "nothing is lost but the steps since the last checkpoint"
        return code

    def weights(self) -> dict[str, torch.Tensor]:
        """What trained, at the end."""
        assert self.step == STEPS
        assert not list(self.out.glob(".checkpoint-*")), "torn saves are cleared away"
        (file,) = (f for f in (checkpoint.TRAINED, "model.safetensors") if (self.out / "last" / f).exists())
        return load_file(self.out / "last" / file)


def uninterrupted(folder: Path, model: dict[str, Any]) -> tuple[Path, Run, float]:
    """A recipe, the run that nobody kills, and how many seconds it takes."""
    file = folder / "recipe.yaml"
    section = {
        "max_steps": STEPS,
        "save_steps": SAVE,
        "gradient_accumulation_steps": 1,
        "per_device_train_batch_size": 1,
    }
    recipe(model=model, train=section).save(file)
    assert attempt(["recipes", "ls"]) == 0  # imports are paid for
    run, started = Run(file, folder / "whole"), time.monotonic()
    assert run.attempt() == 0
    return file, run, time.monotonic() - started


@pytest.fixture(scope="module")
def lora(tmp_path_factory) -> tuple[Path, Run, float]:
    """With dropout, so that random states count too."""
    return uninterrupted(tmp_path_factory.mktemp("lora"), LORA)


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> tuple[Path, Run, float]:
    """Whole models."""
    return uninterrupted(tmp_path_factory.mktemp("full"), {})


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def killed_at_random(begin: Callable[[int], Callable[[float], int | None]], kills: int, whole: float, seed: int) -> int:
    """Kill attempts at random moments of the time that a whole run takes; the n-th run begins when another is done.

    Returns:
        How many runs there are; the last one is done too.
    """
    rng = np.random.default_rng(seed)
    runs, killed = 0, 0
    while killed < kills:
        go_on, code = begin(runs), KILLED
        runs += 1
        while code == KILLED:
            code = go_on(float(rng.uniform(0.1, 0.9)) * whole if killed < kills else 300.0)
            killed += code == KILLED
        assert code == 0
        whole *= 0.8  # it got through: the machine has become faster
    return runs


def test_training_killed_at_random_moments_ends_the_same(lora, tmp_path):
    file, whole, took = lora

    def begin(number: int) -> Callable[[float], int | None]:
        run = Run(file, tmp_path / f"run{number}")
        return lambda seconds: run.attempt(seconds=seconds)

    runs = killed_at_random(begin, RANDOM_TRAIN, took, seed=0)
    for number in range(runs):
        assert same(whole.weights(), Run(file, tmp_path / f"run{number}").weights())


SAVING = [  # what dies, at which call, after it; and whether the checkpoint counts
    ("checkpoint.write", 1, False, False),
    ("torch.save", 1, False, False),  # weights are there, the state is not
    ("checkpoint.complete", 1, False, False),
    ("checkpoint.point", 1, False, False),  # it has its name, ``last`` has not moved
    ("os.replace", 1, False, False),
    ("os.replace", 1, True, True),  # older ones are still there
    ("shutil.rmtree", 3, True, True),  # one of them is gone; the first two calls make room for the new one
]


def test_training_killed_at_every_stage_of_a_save_ends_the_same(full, tmp_path):
    file, whole, _ = full
    run = Run(file, tmp_path / "run")
    for what, number, after, counts in SAVING:
        before = run.step
        assert run.attempt(death=(what, number, after)) == KILLED, what
        assert run.step == before + (SAVE if counts else 0), what
        assert not run.step or load.load(run.out), "a torn save is never what is loaded"
    assert run.attempt() == 0
    assert same(whole.weights(), run.weights())
    assert checkpoint.steps(run.out) == [STEPS - SAVE, STEPS], "as many are kept as the recipe says"


def test_a_finished_run_is_left_as_it_is(full):
    """Resumed once more it has nothing to save: a kill while it did could leave no checkpoint at all."""
    _, run, _ = full
    before = (run.out / "last" / "model.safetensors").stat()
    assert run.attempt() == 0
    after = (run.out / "last" / "model.safetensors").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_sigterm_saves_and_exits_well_and_the_rest_is_the_same(lora, tmp_path):
    file, whole, _ = lora
    run = Run(file, tmp_path / "run")
    told = FORKS.Process(target=child, args=(run.command, ("checkpoint.write", 2, True), signal.SIGTERM))
    told.start()  # the signal comes within the second save
    told.join(300)
    assert told.exitcode == 0
    stopped = run.step
    assert 2 * SAVE <= stopped < STEPS and run.log() == list(range(1, stopped + 1)), (
        "every step that was taken is saved"
    )
    assert run.attempt() == 0
    assert run.log() == list(range(1, STEPS + 1)), "no step is taken twice"
    assert same(whole.weights(), run.weights())


def protocol(folder: Path, task: str, metric: str) -> str:
    """A protocol of 12 samples in 6 batches."""
    file = folder / f"killed_{task}.yaml"
    document = {
        "task": task, "template": f"scenes_{task}", "dataset": "scenes", "splits": ["val"], "options": {"size": 3},
        "metric": metric, "decode": {"batch_size": 2, "constrained": True, "max_new_tokens": 24},
    }  # fmt: skip
    file.write_text(yaml.safe_dump(document))
    return str(file)


def scores(out: Path) -> dict[str, Any]:
    """Every ``metrics.json`` below a folder, without times."""

    def timeless(value: Any) -> Any:
        return {k: timeless(v) for k, v in value.items() if k != "seconds"} if isinstance(value, dict) else value

    return {str(p.relative_to(out)): timeless(json.loads(p.read_text())) for p in out.rglob("metrics.json")}


class Evaluation:
    """Two protocols on one model, with predictions in a folder."""

    def __init__(self, model: Path, suites: str, out: Path) -> None:
        self.out = out
        self.command = ["eval", str(model), "--suite", suites, "--out", str(out)]

    def unfinished(self) -> dict[Path, list[str]]:
        """The predictions that the next attempt goes on with."""
        found = [p.parent / FILE for p in self.out.rglob(UNFINISHED)]
        lines = {p: p.read_text().splitlines(keepends=True) for p in found if p.exists()}
        return {p: [line for line in rows if line.endswith("\n")] for p, rows in lines.items()}

    def attempt(self, **how: Any) -> int | None:
        """Go on; predictions that were there must stay."""
        before = self.unfinished()
        for path in before:  # what a kill in the middle of a write leaves
            with path.open("a") as file:
                file.write('{"source": "sce')
        code = attempt(self.command, **how)
        for path, rows in before.items():
            assert path.read_text().startswith("".join(rows)) or not rows
        return code


def test_evaluation_killed_at_any_moment_scores_the_same(tmp_path):
    words = ["segment", "box", "of", "red", "circle"]
    model = load.base("tiny:llava", "llava", {"num_bins": 40, "slot_side": 2}, {"words": words, "integers": 40})
    model.save(tmp_path / "model")
    suites = ",".join(protocol(tmp_path, *pair) for pair in (("rec", "rec_accuracy"), ("res", "seg_iou")))
    whole = Evaluation(tmp_path / "model", suites, tmp_path / "whole")
    assert attempt(["recipes", "ls"]) == 0  # imports are paid for
    started = time.monotonic()
    assert whole.attempt() == 0
    took, wanted = time.monotonic() - started, scores(whole.out)
    assert len(wanted) == 3

    begun: list[Evaluation] = []

    def begin(number: int) -> Callable[[float], int | None]:
        begun.append(Evaluation(tmp_path / "model", suites, tmp_path / f"out{number}"))
        return lambda seconds: begun[-1].attempt(seconds=seconds)

    killed_at_random(begin, RANDOM_EVAL, took, seed=1)
    staged = Evaluation(tmp_path / "model", suites, tmp_path / "staged")
    for death in (("log.add", 3, True), ("log.add", 4, False), ("os.replace", 1, False)):
        assert staged.attempt(death=death) == KILLED
    assert staged.attempt() == 0
    for run in (*begun, staged):
        assert scores(run.out) == wanted
        for folder in ("killed_rec/val", "killed_res/val"):
            first, second = (
                [json.loads(line)["source"] for line in (out / folder / FILE).read_text().splitlines()]
                for out in (whole.out, run.out)
            )
            assert sorted(first) == sorted(second) and len(set(second)) == len(second) == 12


def scored(monkeypatch, *values: float) -> None:
    """Evaluations during training give these values, one after the other."""
    given = iter(values)
    monkeypatch.setattr(loop, "evaluate", lambda *_args, **_kwargs: {"val": {"Acc@0.5": next(given), "other": 0.0}})


def judged(best: str, **train: Any) -> Any:
    section = {"max_steps": 8, "save_steps": 2, "save_total_limit": 1, "gradient_accumulation_steps": 1, **train}
    return recipe(train=section, eval={"every": 2, "protocols": ["scenes_rec:val"], "best": best})


NAN = float("nan")


@pytest.mark.parametrize("save_steps", [2, 0], ids=["every save", "only better ones"])
@pytest.mark.parametrize(
    ("best", "values"),
    [("scenes_rec/val/Acc@0.5", (0.1, 0.9, NAN, 0.5)), ("-scenes_rec/val/Acc@0.5", (NAN, 0.1, 0.3, 0.2))],
    ids=["highest", "lowest"],
)
def test_the_best_checkpoint_stays(tmp_path, monkeypatch, best, values, save_steps):
    scored(monkeypatch, *values)
    out = tmp_path / "run"
    loop.train(judged(best, save_steps=save_steps), out, progress=False)
    assert (out / "best").resolve().name == "checkpoint-4" and (out / "last").resolve().name == "checkpoint-8"
    assert checkpoint.steps(out) == [4, 8], "one is kept, and the best"
    load.load(out / "best")


def test_the_best_checkpoint_is_found_by_a_run_that_died_before_it_counted(tmp_path, monkeypatch):
    scored(monkeypatch, 0.1, 0.9)
    out, real = tmp_path / "run", checkpoint.point

    def dies(link: Path, target: str) -> None:
        if (link.name, target) == ("last", "checkpoint-4"):
            raise KeyboardInterrupt
        real(link, target)

    monkeypatch.setattr(checkpoint, "point", dies)
    with pytest.raises(KeyboardInterrupt):
        loop.train(judged("scenes_rec/val/Acc@0.5"), out, progress=False)
    assert (out / "last").resolve().name == "checkpoint-2"
    monkeypatch.setattr(checkpoint, "point", real)
    scored(monkeypatch, 0.9, 0.2, 0.8)
    loop.train(judged("scenes_rec/val/Acc@0.5"), out, resume=True, progress=False)
    assert (out / "best").resolve().name == "checkpoint-4" and checkpoint.steps(out) == [4, 8]


def test_a_best_that_no_protocol_gives_is_refused(tmp_path, monkeypatch):
    scored(monkeypatch, 0.1)
    with pytest.raises(ConfigError, match=r"eval.best: no such value \(got 'scenes_rec/val/Acc@0.6'\).*val/Acc@0.5"):
        loop.train(judged("scenes_rec/val/Acc@0.6"), tmp_path / "run", progress=False)
    with pytest.raises(ConfigError, match=r"'scenes_res/val/score' names no protocol of this section.*scenes_rec:val"):
        judged("scenes_res/val/score")
    with pytest.raises(ConfigError, match=r"'scenes_rec/score' needs protocol/split/metric"):
        judged("scenes_rec/score")
