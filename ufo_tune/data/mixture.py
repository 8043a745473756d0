"""The stream of training samples: one mixture entry a step, the same on every rank, resumable to the sample.

    for draw in Mixture(entries, sources, batch_size=4, rank=0, world=2, seed=0): ...

Every draw is a pure function of the seed, the step and how often its entry was drawn before, so the state is a few
integers, and no rank can drift by drawing one random number more than another (UFO's sampler could, ufo.md 11.8).
Nothing is drawn or listed in advance: see ``data.epochs``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ufo_tune.config import MixtureEntry
from ufo_tune.core.types import Samples
from ufo_tune.data.epochs import Epochs, Once, Packed, Repeated
from ufo_tune.data.repeat_factors import repeat_factors
from ufo_tune.errors import ConfigError, DataError

_CHOICE, _ORDER = 0, 1  # keep the two families of random numbers apart

Groups = tuple[tuple[int, ...], ...]
"""Indices into one source: one group per batch row."""


@dataclass(frozen=True, slots=True)
class Draw:
    """One step's work of one rank. ``number`` counts the steps of the whole mixture from 0."""

    entry: int
    groups: Groups
    number: int


class Mixture:
    """An infinite stream of draws, by weight over entries; each entry is an endless row of shuffled epochs.

    Within an epoch every group is seen once over all ranks. With ``pack`` > 1 a group holds up to so many indices
    that share an image; with ``repeat_threshold`` samples of rare classes are in several groups.

    Args:
        entries: weights, packing and repeats.
        sources: the samples of each entry; those of packed entries must have ``image_ids``, those of repeated ones
            ``class_lists``.
        batch_size: groups per draw and rank.
        rank: this process.
        world: number of processes.
        seed: of everything random here.

    Raises:
        ConfigError: no entries, a rank out of range, packing without ``image_ids``, repeats without ``class_lists``.
        DataError: an empty source.
    """

    def __init__(
        self,
        entries: Sequence[MixtureEntry],
        sources: Sequence[Samples],
        *,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
    ) -> None:
        if not entries or len(entries) != len(sources):
            raise ConfigError(
                f"data.mixture: needs one source per entry (got {len(entries)} entries, {len(sources)} sources); "
                "list at least one entry"
            )
        if batch_size < 1 or seed < 0 or not 0 <= rank < world:
            raise ConfigError(
                f"mixture: batch size, seed or rank out of range (got {batch_size}, {seed}, rank {rank} "
                f"of {world}); give batch_size >= 1, seed >= 0 and 0 <= rank < world"
            )
        weights = np.asarray([e.weight for e in entries], dtype=np.float64)
        self._edges = np.cumsum(weights / weights.sum())
        self._streams = [_Stream(e, s, seed, i) for i, (e, s) in enumerate(zip(entries, sources, strict=True))]
        self.rank = rank
        self._batch_size, self._world, self._seed = batch_size, world, seed
        self._step = 0
        self._positions = [0] * len(entries)  # groups taken by all ranks together
        self._counts = [0] * len(entries)

    def __iter__(self) -> Iterator[Draw]:
        """Draws without end, from the present state on."""
        while True:
            yield self._next()

    @property
    def counts(self) -> tuple[int, ...]:
        """How often each entry was drawn so far."""
        return tuple(self._counts)

    def random_groups(self, entry: int, count: int, rng: np.random.Generator) -> Groups:
        """Some groups of one entry outside the stream, to stand in for rows that cannot be used."""
        stream = self._streams[entry]
        return tuple(stream.group(int(p)) for p in rng.integers(stream.groups, size=count))

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on; the same on every rank."""
        return {
            "seed": self._seed,
            "step": self._step,
            "positions": list(self._positions),
            "counts": list(self._counts),
            "groups": [s.groups for s in self._streams],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken. Another world or batch size goes on from the same place in the data.

        Raises:
            ConfigError: the state is of another seed or other data.
        """
        for key, own in (("seed", self._seed), ("groups", [s.groups for s in self._streams])):
            if state[key] != own:
                raise ConfigError(
                    f"mixture: cannot resume, {key} changed (got {own}, the checkpoint has {state[key]}); "
                    "resume with the recipe and data of the run, or start a new run"
                )
        self._step = state["step"]
        self._positions, self._counts = list(state["positions"]), list(state["counts"])

    def _next(self) -> Draw:
        rng = np.random.default_rng([self._seed, _CHOICE, self._step])
        entry = min(int(np.searchsorted(self._edges, rng.random(), side="right")), len(self._edges) - 1)
        start = self._positions[entry] + self.rank * self._batch_size
        groups = tuple(self._streams[entry].group(p) for p in range(start, start + self._batch_size))
        draw = Draw(entry, groups, self._step)
        self._positions[entry] += self._world * self._batch_size
        self._counts[entry] += 1
        self._step += 1
        return draw


class _Stream:
    """One entry's groups, epoch after epoch; any position is found directly."""

    def __init__(self, entry: MixtureEntry, source: Samples, seed: int, number: int) -> None:
        where = f"data.mixture.{number}"
        if not len(source):
            raise DataError(f"{where}: dataset {entry.dataset}/{entry.split} is empty; check root, split and options")
        self._key = (seed, _ORDER, number)
        self._epochs = _epochs(entry, source, where)
        self.groups = self._epochs.groups

    def group(self, position: int) -> tuple[int, ...]:
        epoch, place = divmod(position, self.groups)
        return self._epochs.group(place, (*self._key, epoch))


def _epochs(entry: MixtureEntry, source: Samples, where: str) -> Epochs:
    if entry.pack > 1:
        images = getattr(source, "image_ids", None)
        if images is None:
            raise ConfigError(
                f"{where}.pack: dataset {entry.dataset} does not say which samples share an image "
                f"(got {entry.pack}); set pack: 1"
            )
        return Packed(images, entry.pack)
    if entry.repeat_threshold > 0:
        lists = getattr(source, "class_lists", None)
        if lists is None:
            raise ConfigError(
                f"{where}.repeat_threshold: dataset {entry.dataset} does not say which classes its samples hold "
                f"(got {entry.repeat_threshold:g}); set repeat_threshold: 0"
            )
        classes, ends = lists()
        return Repeated(repeat_factors(classes, ends, entry.repeat_threshold))
    return Once(len(source))
