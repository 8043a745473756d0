"""``merge``: one Hugging Face folder out of a run, verified before anyone is told that it is done."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ufo_tune import outputs
from ufo_tune.engine import licence, probe, provenance
from ufo_tune.engine.load import load, precision
from ufo_tune.engine.predictions import fingerprint
from ufo_tune.engine.quantized import matrices
from ufo_tune.engine.whole_folder import whole_or_nothing
from ufo_tune.errors import ConfigError, ModelError
from ufo_tune.models.ufo import UfoModel

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference allowed, relative to the largest logit; low precision rounds the merged weights once more."""


def merge(run: Path, out: Path) -> dict[str, float]:
    """Merge a run's adapter into its base, write a plain Hugging Face folder, reload it elsewhere and compare.

    The folder has the base's precision and the texts of its licence; its ``ufo_config.json`` tells how it was trained
    (``engine.provenance``). What only training needs, the objectives' heads and the optimizer, stays behind.

    Args:
        run: a run folder or one of its checkpoints (full fine-tunes are copied and verified alike).
        out: folder to write; must not exist yet.
    Returns:
        ``{"text": ..., "mask": ...}``: the largest relative difference of text and mask logits to the run's. A run
        on quantised weights is merged into the base's own precision; ``quantized text`` and ``quantized mask`` then
        say how far the run itself, on its quantised weights, is from what was merged.
    Raises:
        ConfigError: ``out`` exists, or cannot be a folder.
        ModelError: the run cannot be loaded, its base is quantised on disk, or the merged model answers differently
            (``out`` is then removed).
    """
    if outputs.folder(out).exists():
        raise ConfigError(f"{out}: exists already; choose another --out")
    if not run.is_dir():
        raise ModelError(f"{run}: no such folder; give one that `ufo-tune train` wrote")
    model = load(run, quantization="")
    if packed := matrices(model.vlm.hf):
        raise ModelError(
            f"{run}: its base is quantised on disk (got {len(packed)} packed matrices, {packed[0]} first), and merging "
            "would round away what was learnt; train on the base in full precision with model.quantization: nf4"
        )
    expected = probe.outputs(model)
    weights = {"run": fingerprint(model)}
    apart: dict[str, float] = {}
    if model.settings.pop("quantization", ""):
        # Far more than merging changes is what the run saw while it trained: the rounded base under its adapter.
        trained = load(run)
        weights["run"] = fingerprint(trained)
        apart = _relative(expected, probe.outputs(trained))
        del trained
    base = model.settings.pop("base", "")
    model.settings.pop("base_options", None)
    _fold_in(model, base)
    dtype = next(model.parameters()).dtype
    checkpoint = (run / "last") if (run / "last").exists() else run
    model.settings |= provenance.of(checkpoint, base, model.settings, weights | {"merged": fingerprint(model)})
    with whole_or_nothing(out) as part:
        model.save(part)
        licence.keep(base, part)
        if recipe := model.settings["trained"]["recipe"]:
            provenance.write_recipe(recipe, part / "recipe.yaml")
        differences = _compare(expected, _elsewhere(part), dtype)
    return differences | {f"quantized {name}": value for name, value in apart.items()}


def _fold_in(model: UfoModel, base: str) -> None:
    """The adapter into the weights, rounded once to the precision that the base has on disk (CPUs load float32)."""
    if model.adapter is None:
        return
    model.vlm.hf = model.adapter.merge_and_unload()
    model.adapter = None
    if (own := precision(base)) is not None:
        model.vlm.hf.to(own)


def _elsewhere(folder: Path) -> dict[str, Tensor]:
    """The probe's outputs from a fresh process."""
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "outputs.safetensors"
        command = [sys.executable, "-m", "ufo_tune.engine.probe", str(folder), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ModelError(f"{folder}: the merged model does not load in a fresh process:\n{done.stderr[-2000:]}")
        loaded: dict[str, Any] = load_file(file)
        return loaded


def _relative(expected: dict[str, Tensor], got: dict[str, Tensor]) -> dict[str, float]:
    """The largest difference of each output, relative to the largest expected value."""
    return {
        name: float((value - got[name]).abs().max()) / float(value.abs().max().clamp_min(1e-6))
        for name, value in expected.items()
    }


def _compare(expected: dict[str, Tensor], got: dict[str, Tensor], dtype: torch.dtype) -> dict[str, float]:
    differences = _relative(expected, got)
    worst = max(differences.values())
    if not worst <= TOLERANCE[dtype]:  # NaN must fail too
        raise ModelError(
            f"merge: the merged model differs from the run (got {differences}); at most {TOLERANCE[dtype]} is right "
            f"for {dtype}"
        )
    return differences
