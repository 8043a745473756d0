"""The mixture: shares, epochs, ranks, packing and exact resumption."""

from __future__ import annotations

import itertools
import pickle
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from ufo_tune.config import MixtureEntry
from ufo_tune.data import epochs
from ufo_tune.data.epochs import Packed, shuffled
from ufo_tune.data.mixture import Draw, Mixture
from ufo_tune.errors import ConfigError, DataError


class Numbers(list):
    """Stands for a dataset; the mixture looks only at its length and image ids."""

    def __init__(self, count: int, image_ids: Sequence[str] | None = None) -> None:
        super().__init__(range(count))
        if image_ids is not None:
            self.image_ids = image_ids


def _entries(*weights: float, pack: int = 1) -> list[MixtureEntry]:
    return [MixtureEntry(task="rec", dataset="scenes", weight=w, pack=pack) for w in weights]


def _take(mixture: Mixture, count: int) -> list[Draw]:
    return list(itertools.islice(mixture, count))


def test_shares_follow_the_weights() -> None:
    mixture = Mixture(_entries(1, 2, 5), [Numbers(7)] * 3, batch_size=2, seed=1)
    draws = _take(mixture, 8000)
    seen = Counter(d.entry for d in draws)
    for entry, share in enumerate((1 / 8, 2 / 8, 5 / 8)):
        assert abs(seen[entry] - 8000 * share) < 4 * np.sqrt(8000 * share * (1 - share))  # 4 standard deviations
    assert mixture.counts == tuple(seen[i] for i in range(3))
    assert [d.number for d in draws] == list(range(8000))


def test_each_epoch_sees_every_sample_once_in_another_order() -> None:
    draws = _take(Mixture(_entries(1), [Numbers(12)], batch_size=3), 16)
    stream = [i for d in draws for group in d.groups for i in group]
    epochs = [stream[i : i + 12] for i in range(0, 48, 12)]
    assert all(sorted(e) == list(range(12)) for e in epochs)
    assert len({tuple(e) for e in epochs}) == 4


@pytest.mark.parametrize("small", [0, 1 << 16])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 16, 17, 100, 1001])
def test_an_order_is_a_permutation_with_or_without_a_table(
    count: int, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epochs, "_SMALL", small)
    orders = [tuple(shuffled(p, count, (3, epoch)) for p in range(count)) for epoch in range(8)]
    assert all(sorted(o) == list(range(count)) for o in orders)
    assert count < 10 or len(set(orders)) == 8


def test_all_orders_are_equally_likely() -> None:
    """Chi-square over the 24 orders of 4 places: 23 degrees of freedom, 99.9 % lie below 49.7."""
    trials = 4800
    seen = Counter(tuple(shuffled(p, 4, (0, key)) for p in range(4)) for key in range(trials))
    expected = trials / 24
    assert sum((seen[o] - expected) ** 2 / expected for o in itertools.permutations(range(4))) < 49.7


def test_neighbours_do_not_stay_neighbours() -> None:
    count = 100_000  # without a table
    order = np.array([shuffled(p, count, (1, 2)) for p in range(count)])
    gaps = np.abs(np.diff(order))
    assert abs(gaps.mean() - count / 3) < 4 * count * np.sqrt(1 / 18) / np.sqrt(count)  # of two random places
    assert (gaps == 1).sum() < 12  # 2 are expected
    cells = np.histogram2d(np.arange(count), order, bins=20)[0]  # chi-square, 361 degrees of freedom
    assert ((cells - count / 400) ** 2 / (count / 400)).sum() < 361 + 5 * np.sqrt(2 * 361)
    assert abs(np.corrcoef(np.arange(count), order)[0, 1]) < 4 / np.sqrt(count)


def test_twelve_million_samples_start_at_once() -> None:
    """Nothing is listed: places far into a late epoch are found as fast as the first."""
    count = 12_000_000
    mixture = Mixture(_entries(1), [range(count)], batch_size=64)  # type: ignore[list-item]
    state = mixture.state_dict()
    mixture.load_state_dict({**state, "positions": [5 * count - 32]})  # in the middle of a draw an epoch ends
    (draw,) = _take(mixture, 1)
    assert len({i for g in draw.groups for i in g}) >= 60 and all(0 <= g[0] < count for g in draw.groups)
    assert len(pickle.dumps(mixture._streams)) < 2000


def test_partners_of_one_image_change_and_nothing_else_is_kept() -> None:
    packed = Packed(["a"] * 4 + ["b"], 2)
    assert packed.groups == 3
    pairs = {frozenset(g) for key in range(60) for p in range(3) if len(g := packed.group(p, (key,))) == 2}
    assert pairs == {frozenset(p) for p in itertools.combinations(range(4), 2)}


@pytest.mark.parametrize("pack", [1, 3])
def test_ranks_agree_on_the_entry_and_share_an_epoch(pack: int) -> None:
    sources = [Numbers(24, [str(i // 4) for i in range(24)]), Numbers(12, [str(i) for i in range(12)])]
    ranks = [Mixture(_entries(1, 1, pack=pack), sources, batch_size=2, rank=r, world=3, seed=5) for r in range(3)]
    seen: list[list[int]] = [[], []]
    for draws in itertools.islice(zip(*ranks, strict=True), 200):
        assert len({d.entry for d in draws}) == 1 and len({d.number for d in draws}) == 1
        seen[draws[0].entry] += [i for d in draws for group in d.groups for i in group]
    for stream, size in zip(seen, (24, 12), strict=True):
        assert len(stream) > 3 * size
        for start in range(0, len(stream) - size, size):
            assert sorted(stream[start : start + size]) == list(range(size))


def test_packing_joins_samples_of_one_image() -> None:
    sizes = [1, 2, 3, 5, 8]
    ids = [f"img{k}" for k, n in enumerate(sizes) for _ in range(n)]
    order = np.random.default_rng(0).permutation(len(ids))
    ids = [ids[i] for i in order]
    expected = sum(-(-n // 3) for n in sizes)
    mixture = Mixture(_entries(1, pack=3), [Numbers(len(ids), ids)], batch_size=1)
    groups = [d.groups[0] for d in _take(mixture, 2 * expected)]
    for epoch in (groups[:expected], groups[expected:]):
        assert sorted(i for g in epoch for i in g) == list(range(len(ids)))
        assert all(len({ids[i] for i in g}) == 1 and 1 <= len(g) <= 3 for g in epoch)
        full = Counter(ids[g[0]] for g in epoch if len(g) == 3)
        assert full == Counter({f"img{k}": n // 3 for k, n in enumerate(sizes) if n >= 3})
    assert groups[:expected] != groups[expected:]
    assert {frozenset(g) for g in groups[:expected]} != {frozenset(g) for g in groups[expected:]}  # other partners


@pytest.mark.parametrize("cut", [0, 1, 17, 40])
def test_resumes_exactly(cut: int) -> None:
    def make() -> Mixture:
        return Mixture(_entries(1, 3), [Numbers(5), Numbers(11)], batch_size=4, seed=9)

    whole = _take(make(), 60)
    first = make()
    _take(first, cut)
    state = pickle.loads(pickle.dumps(first.state_dict()))
    second = make()
    second.load_state_dict(state)
    assert _take(second, 60 - cut) == whole[cut:]


def test_state_is_a_copy() -> None:
    mixture = Mixture(_entries(1), [Numbers(5)], batch_size=1)
    state = mixture.state_dict()
    _take(mixture, 3)
    assert state["positions"] == [0] and state["counts"] == [0]


def test_another_world_size_goes_on_in_the_same_epoch() -> None:
    one = Mixture(_entries(1), [Numbers(12)], batch_size=2)
    seen = [i for d in _take(one, 2) for g in d.groups for i in g]
    for rank in range(2):
        part = Mixture(_entries(1), [Numbers(12)], batch_size=2, rank=rank, world=2)
        part.load_state_dict(one.state_dict())
        seen += [i for d in _take(part, 2) for g in d.groups for i in g]
    assert sorted(seen) == list(range(12))


def test_refuses_a_state_of_other_data() -> None:
    state = Mixture(_entries(1), [Numbers(5)], batch_size=1).state_dict()
    with pytest.raises(ConfigError, match="groups changed"):
        Mixture(_entries(1), [Numbers(6)], batch_size=1).load_state_dict(state)
    with pytest.raises(ConfigError, match="seed changed"):
        Mixture(_entries(1), [Numbers(5)], batch_size=1, seed=1).load_state_dict(state)


def test_leaves_global_randomness_alone() -> None:
    np.random.seed(0)
    before = np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    _take(Mixture(_entries(1, 1), [Numbers(5)] * 2, batch_size=1), 20)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # type: ignore[index]


def test_bad_arguments() -> None:
    with pytest.raises(DataError, match="scenes/train is empty"):
        Mixture(_entries(1), [Numbers(0)], batch_size=1)
    with pytest.raises(ConfigError, match=r"data\.mixture\.0\.pack: dataset scenes does not say"):
        Mixture(_entries(1, pack=2), [Numbers(3)], batch_size=1)
    with pytest.raises(ConfigError, match="one source per entry"):
        Mixture([], [], batch_size=1)
    with pytest.raises(ConfigError, match="out of range"):
        Mixture(_entries(1), [Numbers(3)], batch_size=1, rank=1, world=1)
