"""What evaluations of a model say about it, read back from the folders that ``evaluate`` wrote.

    for protocol in read([Path("merged/eval")], {"run": "5e0a...", "merged": "91c2..."}):
        protocol.rows()      # ours and the published numbers, one mapping each

Scores of other weights are refused: a model card must not carry another model's numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from ufo_tune import plugins
from ufo_tune.errors import EvalError
from ufo_tune.metrics._base import is_count

_WHOSE = {"merged": "these weights", "run": "the run before it was merged", "": "weights that cannot be compared"}


@dataclass(frozen=True, slots=True)
class Scored:
    """One protocol's scores.

    Attributes:
        name: of the protocol.
        document: its ``metrics.json``.
        folder: where that lies.
        whose: what was measured, in words.
    """

    name: str
    document: dict[str, Any]
    folder: Path
    whose: str

    def rows(self) -> list[dict[str, Any]]:
        """Table rows: ours for every split with n and invalid, then the published ones of these splits."""
        splits, protocol = self.document["splits"], self.document["protocol"]
        rows: list[dict[str, Any]] = []
        for split, values in splits.items():
            counts = {k: values[k] for k in ("n", "invalid")}
            own = scores(values, protocol["metric"])
            rows.append({"model": "**this one**", "split": split, **counts, **own, "source": "measured"})
            rows += [dict(row) for row in protocol["reference"] if row["split"] == split]
        return rows

    def eval_results(self) -> Iterator[EvalResult]:
        """Every score for the ``model-index`` of a card."""
        protocol = self.document["protocol"]
        how = {"protocol": self.name, "template": self.document["template"], "limit": self.document["limit"] or None}
        how |= {"decode": protocol["decode"], "measured_on": self.whose}
        for split, values in self.document["splits"].items():
            for metric, value in scores(values, protocol["metric"]).items():
                yield EvalResult(
                    task_type="image-text-to-text",
                    task_name=protocol["task"],
                    dataset_type=protocol["dataset"],
                    dataset_name=f"{self.name} ({protocol['dataset']})",
                    dataset_split=split,
                    dataset_args={"n": int(values["n"]), "invalid": int(values["invalid"]), **protocol["options"]},
                    metric_type=metric,
                    metric_name=f"{metric} ({protocol['metric']})",
                    metric_value=value,
                    metric_args={k: v for k, v in how.items() if v is not None},
                )

    def pictures(self) -> Iterator[tuple[str, Path, str]]:
        """(kind, file, caption) of what ``evaluate`` drew: the best, the worst, the unreadable of every split."""
        for split in self.document["splits"]:
            captions = self.folder / split / "pictures" / "captions.json"
            if captions.exists():
                for name, caption in json.loads(captions.read_text(encoding="utf-8")).items():
                    yield name.partition("_")[0], captions.parent / name, f"{self.name}, {split}: {caption}"


def read(folders: Iterable[Path], weights: Mapping[str, str]) -> list[Scored]:
    """Every protocol below these folders, by name.

    Args:
        folders: what ``ufo-tune eval`` wrote.
        weights: ``merged`` and ``run`` -> fingerprint; without them it is not known whose scores these are.
    Raises:
        EvalError: no scores in a folder, they are damaged, or those of other weights.
    """
    found: list[Scored] = []
    for folder in folders:
        documents = {file: _document(file) for file in sorted(folder.rglob("metrics.json"))}
        own = [(f, d) for f, d in documents.items() if {"protocol", "splits", "weights"} <= set(d)]
        if not own:
            raise EvalError(f"{folder}: no scores (got no metrics.json of a protocol); give the --out of ufo-tune eval")
        for file, document in own:
            whose = next((k for k, v in weights.items() if v == document["weights"]), "")
            if weights and not whose:
                raise EvalError(
                    f"{file}: scores of other weights (got {document['weights']}, the model is {weights['merged']} and "
                    f"its run {weights['run']}); evaluate this model"
                )
            found.append(Scored(file.parent.name, document, file.parent, _WHOSE[whose]))
    return sorted(found, key=lambda scored: scored.name)


def scores(values: Mapping[str, Any], metric: str) -> dict[str, float]:
    """What was measured, without counts and times; a value that is not defined is left out.

    Args:
        values: of a split, as ``metrics.json`` holds them.
        metric: whose they are.
    Raises:
        ConfigError: no such metric.
    """
    undefined = getattr(plugins.find("metrics", metric), "UNDEFINED", math.nan)
    kept = {k: v for k, v in values.items() if k != "seconds" and not is_count(k)}
    return {k: v for k, v in kept.items() if isinstance(v, int | float) and not math.isnan(v) and v != undefined}


def _document(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise EvalError(f"{file}: cannot be read ({error}); evaluate again") from error
    return found
