"""Over a thousand steps: ranks draw the same entries and share an epoch; a killed stream goes on as if it lived."""

from __future__ import annotations

import itertools
import os
import signal
from collections import Counter
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.test_loader import FakeBatch
from tests.unit.test_repeat_factors import Classed
from ufo_tune.config import MixtureEntry
from ufo_tune.data.loader import Loader
from ufo_tune.data.mixture import Draw, Groups, Mixture

STEPS = 1000
SIZES = (997, 350, 1201)


class Pictured(list):
    """Samples of which three show one image."""

    def __init__(self, count: int) -> None:
        super().__init__(range(count))
        self.image_ids = [f"image {i // 3}" for i in range(count)]


def _mixture(rank: int = 0, world: int = 1) -> Mixture:
    """Plain, packed and repeated samples."""
    options: list[dict[str, Any]] = [{"weight": 2}, {"pack": 2}, {"weight": 0.5, "repeat_threshold": 0.3}]
    entries = [MixtureEntry(task="detection", dataset=f"set{i}", **o) for i, o in enumerate(options)]
    held = [[i % 7, 7] if i % 7 < 2 else [7] for i in range(SIZES[2])]
    sources: list[Any] = [range(SIZES[0]), Pictured(SIZES[1]), Classed(held)]
    return Mixture(entries, sources, batch_size=3, rank=rank, world=world, seed=11)


def _take(stream: Any, count: int) -> list[Draw]:
    return list(itertools.islice(stream, count))


def test_two_ranks_draw_the_same_entries_and_disjoint_samples() -> None:
    ranks = [_take(_mixture(r, 2), STEPS) for r in (0, 1)]
    assert [d.entry for d in ranks[0]] == [d.entry for d in ranks[1]]
    places = _mixture().state_dict()["groups"]
    for entry, size in enumerate(SIZES):
        by_rank = [[g for d in draws if d.entry == entry for g in d.groups] for draws in ranks]
        chunks = [[own[i : i + 3] for i in range(0, len(own), 3)] for own in by_rank]
        stream = [g for pair in zip(*chunks, strict=True) for chunk in pair for g in chunk]  # in the order of positions
        whole = len(stream) // places[entry]
        assert whole >= (0, 1, 0)[entry]
        for epoch in range(whole):
            seen = Counter(i for g in stream[epoch * places[entry] :][: places[entry]] for i in g)
            assert set(seen) == set(range(size))
            assert entry == 2 or set(seen.values()) == {1}  # so no sample is drawn by both ranks
    plain = [[i for d in draws if d.entry == 0 for g in d.groups for i in g] for draws in ranks]
    first = SIZES[0] // 6 * 3  # of each rank in the first epoch
    assert len(plain[0]) > first and not set(plain[0][:first]) & set(plain[1][:first])


def test_entries_follow_their_weights() -> None:
    seen = Counter(d.entry for d in _take(_mixture(), STEPS))
    for entry, share in enumerate((2 / 3.5, 1 / 3.5, 0.5 / 3.5)):
        assert abs(seen[entry] - STEPS * share) < 4 * np.sqrt(STEPS * share * (1 - share))


@pytest.mark.parametrize("cut", [1, 333, 999])
def test_a_resumed_mixture_equals_an_uninterrupted_one(cut: int) -> None:
    whole = _take(_mixture(1, 2), STEPS)
    first = _mixture(1, 2)
    _take(first, cut)
    second = _mixture(1, 2)
    second.load_state_dict(first.state_dict())
    assert _take(second, STEPS - cut) == whole[cut:]


def _collate(entry: int, groups: Groups, rng: np.random.Generator) -> Any:
    return FakeBatch(entry, torch.tensor([g[0] for g in groups]), float(rng.random()))


def _loader(rank: int, workers: int) -> Loader:
    return Loader(_mixture(rank, 2), _collate, num_workers=workers, seed=11)


def _batches(loader: Loader, count: int) -> list[tuple[int, list[int], float]]:
    return [(b.entry, b.ids.tolist(), b.noise) for b in itertools.islice(loader, count)]  # type: ignore[attr-defined]


def _train_until_killed(pipe: Any) -> None:
    """Hands out batches, says where it stands after each, and never ends."""
    loader = _loader(1, 2)
    for batch in loader:
        pipe.send((loader.state_dict(), (batch.entry, batch.ids.tolist(), batch.noise)))  # type: ignore[attr-defined]


def test_a_killed_loader_goes_on_as_if_it_lived() -> None:
    whole = _batches(_loader(1, 0), 120)
    context = get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=_train_until_killed, args=(there,))
    process.start()
    seen = [here.recv() for _ in range(50)]
    os.kill(process.pid or 0, signal.SIGKILL)  # in the middle of what its workers prepare
    process.join()
    assert [batch for _, batch in seen] == whole[:50]
    for last in (20, 50):
        second = _loader(1, 2)
        second.load_state_dict(seen[last - 1][0])
        assert _batches(second, 30) == whole[last : last + 30]
