"""How a model came to be, as ``merge`` writes it into ``ufo_config.json``: enough for a model card, nothing private.

of(checkpoint, base, settings, weights)
# {"origin": {"base": "llava-hf/llava-1.5-7b-hf", "licence": "llama2"},
#  "trained": {"tasks": ["res"], "recipe": {...}, "steps": 500, "seconds": 3600.0, "co2_grams": None,
#              "versions": {"torch": "2.13.0", ...}, "weights": {"run": "5e0a...", "merged": "91c2..."}}}
"""

from __future__ import annotations

import csv
import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml

from ufo_tune.engine import licence
from ufo_tune.resources import read_yaml

PACKAGES = ("ufo-tune", "torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "bitsandbytes")
_EMISSIONS = "emissions.csv"  # of codecarbon, where somebody let it watch the run


def of(checkpoint: Path, base: str, settings: Mapping[str, Any], weights: Mapping[str, str]) -> dict[str, Any]:
    """``origin`` and ``trained`` of a checkpoint's model.

    Args:
        checkpoint: the folder that is merged; its run's ``log.jsonl`` lies in it or above it.
        base: what the run started from, or nothing where that is not known.
        settings: the model's; an ``origin`` in it is that of the base, which was prepared from another.
        weights: ``run`` and ``merged`` -> fingerprint, so that scores can be told to be this model's.
    """
    origin = settings.get("origin") or (licence.origin(base) if base else {})
    file = checkpoint / "recipe.yaml"
    recipe = without_places(read_yaml(file)) if file.exists() else {}
    if recipe and origin:
        recipe["model"]["base"] = origin["base"]
    entries = recipe["data"]["mixture"] if recipe else ()
    trained = {
        "tasks": list(dict.fromkeys(e["task"] for e in entries)) or sorted(settings["templates"]),
        "recipe": recipe,
        **_spent(checkpoint.resolve()),
        "versions": versions(),
        "weights": dict(weights),
    }
    return {"origin": origin, "trained": trained}


def without_places(value: Any) -> Any:
    """A document without the folders of this machine: absolute paths become ``${DATA}/<last part>``."""
    if isinstance(value, dict):
        return {k: without_places(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_places(v) for v in value]
    if not isinstance(value, str):
        return value
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(value).is_absolute():
            return f"${{DATA}}/{kind(value).name}"
    return value


def write_recipe(recipe: Mapping[str, Any], file: Path) -> None:
    """The recipe as YAML, in the order of its sections."""
    file.write_text(yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True), encoding="utf-8")


def versions() -> dict[str, str]:
    """Installed versions of what computes."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # an extra that is not installed had no part in it
    return found


def _spent(checkpoint: Path) -> dict[str, Any]:
    """Steps, at least so many wall seconds over all restarts, grams of CO2 equivalent; None where not written."""
    run = checkpoint if (checkpoint / "log.jsonl").exists() else checkpoint.parent
    steps, seconds, before = 0, 0.0, 0.0
    if (run / "log.jsonl").exists():
        for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            seconds += row["seconds"] - (before if row["seconds"] >= before else 0.0)  # resumed: its clock began anew
            steps, before = row["step"], row["seconds"]
    return {"steps": steps or None, "seconds": round(seconds, 1) or None, "co2_grams": _emitted(run / _EMISSIONS)}


def _emitted(file: Path) -> float | None:
    """The sum of a codecarbon file's ``emissions`` (kilograms), in grams."""
    if not file.exists():
        return None
    with file.open(encoding="utf-8", newline="") as rows:
        return 1000 * sum(float(row["emissions"]) for row in csv.DictReader(rows))
