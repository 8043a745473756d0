"""Batches from a mixture, in worker processes or here, the same either way and resumable to the batch.

    loader = Loader(mixture, collate, num_workers=2, seed=0)
    for batch in loader: ...

Randomness belongs to the draw, not to the worker; the state counts batches that were handed out, not those that
workers prepared ahead.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ufo_tune.core.types import Batch
from ufo_tune.data.mixture import Draw, Groups, Mixture
from ufo_tune.errors import DataError, UfoTuneError

Collate = Callable[[int, Groups, np.random.Generator], Batch | None]
"""(entry, groups, rng) -> the batch of the rows that can be used, or None where none can."""
MAX_ATTEMPTS = 50
"""Draws of one step before the loader gives up: something is wrong with all of the data."""
_SIGTERM = {signal.SIGTERM} if hasattr(signal, "sigwaitinfo") else set()
"""Masked in workers. Empty on macOS, where they cannot learn who sent it and end with any."""


@dataclass(slots=True)
class _Result:
    """What a worker sends back. An error travels as a value: torch would wrap it in a traceback."""

    entry: int
    batch: Batch | None = None
    dropped: int = 0  # rows that were too long or without answers
    skipped: int = 0  # rows with a bad sample
    error: UfoTuneError | None = None


class Loader:
    """An endless stream of batches.

    A draw without a single usable row is replaced by other groups of the *same* entry: all ranks go on with the
    same task at the same step.

    Args:
        mixture: where draws come from; the loader owns its state from now on.
        collate: makes a batch; runs in the workers.
        num_workers: processes; 0 works here.
        seed: of the generators given to ``collate``.
        on_bad_sample: what a ``DataError`` in ``collate`` does: stop, or skip its row and count it.
    """

    def __init__(
        self,
        mixture: Mixture,
        collate: Collate,
        *,
        num_workers: int = 0,
        seed: int = 0,
        on_bad_sample: Literal["error", "skip"] = "error",
    ) -> None:
        self._mixture = mixture
        self._work = _Work(mixture, collate, (seed, mixture.rank), on_bad_sample == "skip")
        self._num_workers = num_workers
        self._state = mixture.state_dict()
        self._dropped = [0] * len(mixture.counts)
        self._skipped = [0] * len(mixture.counts)

    @property
    def dropped(self) -> tuple[int, ...]:
        """Rows of each entry that were too long, or had no answers to learn from."""
        return tuple(self._dropped)

    @property
    def skipped(self) -> tuple[int, ...]:
        """Rows of each entry that had a bad sample."""
        return tuple(self._skipped)

    @property
    def counts(self) -> tuple[int, ...]:
        """Batches of each entry that were handed out."""
        return tuple(self._state["counts"])

    def __iter__(self) -> Iterator[Batch]:
        """Batches without end, from the last one that was handed out on.

        Raises:
            DataError: a bad sample (unless skipped), or no usable row in many attempts.
        """
        self._mixture.load_state_dict(self._state)  # forget what was prepared ahead
        ahead: deque[dict[str, Any]] = deque()
        loader = DataLoader(
            self._work,
            batch_size=None,
            sampler=_Draws(self._mixture, ahead),
            num_workers=self._num_workers,
            worker_init_fn=_heed_only_the_parent,
            collate_fn=_as_is,
            generator=torch.Generator(),  # else torch takes a number from the global state at every start
        )
        with _sigterm_held_back():
            results = iter(loader)
        try:
            for result in results:
                self._state = ahead.popleft()
                self._dropped[result.entry] += result.dropped
                self._skipped[result.entry] += result.skipped
                if result.error is not None:
                    raise result.error
                yield result.batch
        finally:
            del results  # ends the workers now; an error's traceback would keep them

    def state_dict(self) -> dict[str, Any]:
        """Where to go on: after the last batch that was handed out."""
        return {"mixture": dict(self._state), "dropped": list(self._dropped), "skipped": list(self._skipped)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the batch at which ``state_dict`` was taken; call before ``iter``.

        Raises:
            ConfigError: the state is of another seed or other data.
        """
        self._mixture.load_state_dict(state["mixture"])
        self._state = self._mixture.state_dict()
        self._dropped, self._skipped = list(state["dropped"]), list(state["skipped"])


@contextmanager
def _sigterm_held_back() -> Iterator[None]:
    """Processes that start in here are born with SIGTERM masked; one that this process gets arrives at the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGTERM)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _heed_only_the_parent(worker: int) -> None:
    """Make a worker end at its parent's SIGTERM, and at no one else's.

    Launchers tell their whole group of processes to stop, and the one that trains still needs its workers to save;
    but a worker that ignored its parent too would keep a program that failed from ending.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGTERM)  # again, for start methods that do not inherit it
    parent = multiprocessing.parent_process()
    if parent is not None and _SIGTERM:
        threading.Thread(target=_end_when_told_by, args=(parent.pid,), daemon=True).start()


def _end_when_told_by(process: int | None) -> None:
    while signal.sigwaitinfo(_SIGTERM).si_pid != process:
        pass
    os._exit(0)


class _Draws:
    """The mixture as a sampler that notes the state after each draw. Runs in the main process."""

    def __init__(self, mixture: Mixture, ahead: deque[dict[str, Any]]) -> None:
        self._mixture, self._ahead = mixture, ahead

    def __iter__(self) -> Iterator[Draw]:
        for draw in self._mixture:
            self._ahead.append(self._mixture.state_dict())
            yield draw


class _Work(Dataset[_Result]):
    """From a draw to a batch. Runs in the workers."""

    def __init__(self, mixture: Mixture, collate: Collate, key: tuple[int, int], skip: bool) -> None:
        self._mixture, self._collate, self._key, self._skip = mixture, collate, key, skip

    def __getitem__(self, draw: Draw) -> _Result:
        result = _Result(draw.entry)
        groups = draw.groups
        try:
            for attempt in range(MAX_ATTEMPTS):
                key = (*self._key, draw.entry, draw.number, attempt)
                result.batch = self._collated(draw.entry, groups, key, result)
                if result.batch is not None:
                    return result
                stand_in = np.random.default_rng([*key, 0, 0])
                groups = self._mixture.random_groups(draw.entry, len(draw.groups), stand_in)
            raise DataError(
                f"data.mixture.{draw.entry}: no usable row (got {result.dropped} too long or without answers, "
                f"{result.skipped} bad in {MAX_ATTEMPTS} draws); raise data.max_length or mend the data"
            )
        except UfoTuneError as error:
            result.error = error
        return result

    def _collated(self, entry: int, groups: Groups, key: tuple[int, ...], result: _Result) -> Batch | None:
        """The batch of the usable rows; counts the others."""
        batch, error = self._tried(entry, groups, key)
        if error is not None and self._skip:
            good = tuple(g for g in groups if self._tried(entry, (g,), key)[1] is None)
            result.skipped += len(groups) - len(good)
            groups = good
            batch, error = self._tried(entry, groups, key) if groups else (None, None)
        if error is not None:
            raise error
        result.dropped += len(groups) - (0 if batch is None else len(batch.ids))
        return batch

    def _tried(self, entry: int, groups: Groups, key: tuple[int, ...]) -> tuple[Batch | None, DataError | None]:
        try:
            return self._collate(entry, groups, np.random.default_rng(key)), None
        except DataError as error:
            return None, error


def _as_is(value: Any) -> Any:
    return value
