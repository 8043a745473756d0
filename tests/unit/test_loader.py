"""The loader: the same batches with any number of workers, exact resumption, and rows that cannot be used."""

from __future__ import annotations

import itertools
import multiprocessing
import multiprocessing.process
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from ufo_tune.config import MixtureEntry
from ufo_tune.data.loader import Loader, _heed_only_the_parent
from ufo_tune.data.mixture import Groups, Mixture
from ufo_tune.errors import DataError


@dataclass
class FakeBatch:
    """Stands for a batch; the loader looks only at the number of rows in ``ids``."""

    entry: int
    ids: torch.Tensor
    noise: float


def collate(entry: int, groups: Groups, rng: np.random.Generator) -> Any:
    return FakeBatch(entry, torch.tensor([list(g) for g in groups]), float(rng.random()))


def long_odd_rows(entry: int, groups: Groups, rng: np.random.Generator) -> Any:
    """Odd indices are too long."""
    kept = tuple(g for g in groups if g[0] % 2 == 0)
    return collate(entry, kept, rng) if kept else None


def bad_sevens(entry: int, groups: Groups, rng: np.random.Generator) -> Any:
    for group in groups:
        if group[0] % 7 == 0:
            raise DataError(f"made#{group[0]}: mask is damaged (got 0 runs); mend it")
    return collate(entry, groups, rng)


def _loader(function: Any = collate, workers: int = 0, rank: int = 0, **options: Any) -> Loader:
    entries = [MixtureEntry(task="rec", dataset="scenes", weight=w) for w in (1, 2)]
    mixture = Mixture(entries, [range(10), range(21)], batch_size=2, rank=rank, world=2, seed=3)  # type: ignore[list-item]
    return Loader(mixture, function, num_workers=workers, seed=3, **options)


def _take(loader: Loader, count: int) -> list[tuple[int, list[list[int]], float]]:
    return [(b.entry, b.ids.tolist(), b.noise) for b in itertools.islice(loader, count)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("function", [collate, long_odd_rows])
def test_workers_change_nothing(function: Any) -> None:
    assert _take(_loader(function), 30) == _take(_loader(function, workers=2), 30)


def test_a_signal_to_the_whole_group_leaves_workers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Launchers send SIGTERM to all processes; the one that trains goes on until it has saved."""

    def late(worker: int) -> None:
        time.sleep(1)  # the first signal comes before a line of ours has run in the worker
        _heed_only_the_parent(worker)

    monkeypatch.setattr("ufo_tune.data.loader._heed_only_the_parent", late)
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", _start_and_signal)
    others = set(multiprocessing.active_children())  # of earlier tests
    stream = iter(_loader(workers=2))
    first = next(stream)
    workers = set(multiprocessing.active_children()) - others
    assert len(workers) == 2
    for worker in workers:
        _launcher_stops(worker)
    taken = [first, *itertools.islice(stream, 29)]
    assert [(b.entry, b.ids.tolist(), b.noise) for b in taken] == _take(_loader(), 30)  # type: ignore[attr-defined]


def _launcher_stops(worker: Any) -> None:
    subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)  # not from here: workers do obey their parent


def _start_and_signal(worker: Any, start: Any = multiprocessing.process.BaseProcess.start) -> None:
    start(worker)
    _launcher_stops(worker)


def test_a_signal_while_workers_start_still_reaches_the_one_that_trains() -> None:
    got: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    try:
        stream = iter(_loader(workers=1))
        next(stream)
        os.kill(os.getpid(), signal.SIGTERM)
        next(stream)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert got == [signal.SIGTERM]


FAILS = """
import multiprocessing, subprocess
from tests.unit.test_loader import _loader
stream = iter(_loader(workers=2))
next(stream)
print("begun", flush=True)
subprocess.run(["kill", "-KILL", str(multiprocessing.active_children()[0].pid)])
for _ in stream: pass
"""


def test_a_program_that_loses_a_worker_ends() -> None:
    """The other worker, which the error's traceback keeps, must not outlast it. Which error it is depends on chance."""
    ended = subprocess.run([sys.executable, "-c", FAILS], capture_output=True, text=True, timeout=300)
    assert (ended.returncode, ended.stdout) == (1, "begun\n") and "Traceback" in ended.stderr


def test_every_batch_has_its_own_randomness() -> None:
    batches = [_take(_loader(rank=r), 30) for r in (0, 1)]
    assert len({noise for rank in batches for _, _, noise in rank}) == 60
    assert [b[0] for b in batches[0]] == [b[0] for b in batches[1]]


@pytest.mark.parametrize("workers", [0, 2])
def test_resumes_after_the_last_batch_handed_out(workers: int) -> None:
    whole = _take(_loader(), 25)
    first = _loader(workers=workers)
    stream = iter(first)
    for _ in range(9):
        next(stream)
    state = first.state_dict()  # workers are ahead of this
    next(stream)
    second = _loader(workers=2 - workers)
    second.load_state_dict(state)
    assert _take(second, 16) == whole[9:]
    assert sum(state["mixture"]["counts"]) == 9


def test_iterating_again_goes_on() -> None:
    loader = _loader(workers=1)
    assert _take(loader, 5) + _take(loader, 5) == _take(_loader(), 10)
    assert sum(loader.counts) == 10


def test_rows_that_are_too_long_are_counted_and_a_step_keeps_its_entry() -> None:
    loader, plain = _loader(long_odd_rows), _loader()
    got = _take(loader, 60)
    assert [b[0] for b in got] == [b[0] for b in _take(plain, 60)]
    assert all(i % 2 == 0 for _, rows, _ in got for row in rows for i in row)
    kept = sum(len(rows) for _, rows, _ in got)
    assert sum(loader.dropped) >= 120 - kept > 0 and loader.skipped == (0, 0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_sample_is_one_clear_line(workers: int) -> None:
    with pytest.raises(DataError) as caught:
        _take(_loader(bad_sevens, workers=workers), 30)
    assert str(caught.value) in {f"made#{i}: mask is damaged (got 0 runs); mend it" for i in (0, 7, 14)}


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_samples_are_skipped_and_counted_on_request(workers: int) -> None:
    loader = _loader(bad_sevens, workers=workers, on_bad_sample="skip")
    got = _take(loader, 40)
    assert [b[0] for b in got] == [b[0] for b in _take(_loader(), 40)]
    assert all(i % 7 for _, rows, _ in got for row in rows for i in row)
    assert sum(loader.skipped) >= 80 - sum(len(rows) for _, rows, _ in got) > 0 and loader.dropped == (0, 0)


def test_counts_survive_resumption() -> None:
    first = _loader(long_odd_rows)
    _take(first, 20)
    second = _loader(long_odd_rows)
    second.load_state_dict(first.state_dict())
    assert second.dropped == first.dropped and sum(first.dropped) > 0


def test_gives_up_where_nothing_is_usable() -> None:
    with pytest.raises(
        DataError, match=r"no usable row \(got 100 too long or without answers, 0 bad in 50 draws\).*max_length"
    ):
        _take(_loader(lambda entry, groups, rng: None), 1)


def test_leaves_global_randomness_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    _take(_loader(), 3)
    assert torch.equal(torch.get_rng_state(), before)
