"""Suites: protocols by name, the samples of their splits, and how these stay out of training.

parse_suites("refcoco:val,reason_seg")
kept, lines = Held.of(recipe.eval.protocols).leave_out("data.mixture.0", samples)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ufo_tune import plugins
from ufo_tune.config import Protocol
from ufo_tune.core.types import Samples
from ufo_tune.data import audit
from ufo_tune.data.open import open_dataset
from ufo_tune.errors import ConfigError, DataError


def parse_suites(suites: str | Sequence[str], *, keep_unset: bool = False) -> dict[str, Protocol]:
    """``name:split,name`` as protocols by name, each with the splits asked for; see ``Protocol.load``.

    Raises:
        ConfigError: no such protocol or split, none at all, or two of one name.
    """
    parts = suites.split(",") if isinstance(suites, str) else suites
    splits: dict[str, list[str]] = {}
    protocols: dict[str, Protocol] = {}
    files: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in parts)):
        name, _, split = part.partition(":")
        protocol, key = Protocol.load(name, keep_unset=keep_unset), Path(name).stem
        if split and split not in protocol.splits:
            raise ConfigError(f"{name}: no such split (got {split!r}); {plugins.did_you_mean(split, protocol.splits)}")
        if files.setdefault(key, name) != name:
            raise ConfigError(f"suite: two protocols are called {key} (got {files[key]} and {name}); rename a file")
        protocols[key] = protocol
        splits.setdefault(key, []).extend([split] if split else protocol.splits)
    if not protocols:
        raise ConfigError(f"suite: names no protocol (got {suites!r}); give names of eval/ by comma")
    return {k: p.model_copy(update={"splits": tuple(dict.fromkeys(splits[k]))}) for k, p in protocols.items()}


@dataclass(frozen=True)
class Held:
    """What is held for evaluation: samples by ``protocol:split``, and why each other split cannot be opened."""

    samples: Mapping[str, Samples]
    missing: Mapping[str, str]

    @classmethod
    def of(cls, suites: str | Sequence[str]) -> Held:
        """The samples of every split of the protocols; none for no protocols. What is not on this machine is told.

        Raises:
            ConfigError: a protocol, dataset or option that does not exist.
        """
        found: dict[str, Samples] = {}
        missing: dict[str, str] = {}
        for name, protocol in (parse_suites(suites, keep_unset=True) if suites else {}).items():
            for split in protocol.splits:
                try:
                    p = protocol
                    found[f"{name}:{split}"] = open_dataset(p.dataset, p.root, split, p.task, p.options)
                except DataError as error:
                    missing[f"{name}:{split}"] = str(error)
        return cls(found, missing)

    @cached_property
    def keys(self) -> frozenset[str]:
        """What the names of all images have in common with other names of theirs (``audit.image_key``)."""
        return frozenset(key for samples in self.samples.values() for _, key in audit.names_of(samples))

    def leave_out(self, entry: str, samples: Samples) -> tuple[Samples, list[str]]:
        """An entry of the mixture without the images held for evaluation, and a line for each split it shared some of.

        Raises:
            ConfigError: nothing is left.
        """
        places = audit.first_places(samples, self.keys) if self.keys else {}
        if not places:  # the usual case costs one look at the names
            return samples, []
        total, counts = len(samples), Counter(image for image, _ in audit.names_of(samples))
        gone: set[str] = set()
        lines = []
        for name, held in self.samples.items():
            shared = audit.shared_images(samples, held, places) - gone
            gone |= shared
            if dropped := sum(counts[image] for image in shared):
                lines.append(f"{dropped} of {total} samples of {entry} show images of {name}; left out")
        kept, dropped = audit.without(samples, gone)
        if dropped == total:
            raise ConfigError(
                f"{entry}: every sample shows an image held for evaluation (got {'; '.join(lines)}); train on another "
                "split, or set data.exclude_eval: false"
            )
        return kept, lines
