"""Checkpoints: written beside, renamed when complete, so that whatever dies, the last complete one stays.

``checkpoint-N/`` is at once a model folder that ``load`` reads (adapter or full weights, tokenizer,
``ufo_config.json``) and a place to resume from (``training_state.pt``: optimizer, loader, random state). ``last``
points to the newest.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ufo_tune.config import Recipe
from ufo_tune.errors import ModelError
from ufo_tune.models.ufo import UfoModel

STATE = "training_state.pt"
TRAINED = "trained.safetensors"
"""Trained parameters in their training dtype, by name: the adapter's and whatever else the recipe trains."""
HEADS = "objectives.safetensors"
LAST, BEST = "last", "best"
"""Links to checkpoints: the newest, and the one with the highest score so far."""


def part(out: Path, step: int) -> Path:
    """Where a checkpoint is written until it is complete."""
    return out / f".checkpoint-{step}.part"


def write(part: Path, model: UfoModel, objectives: nn.Module, recipe: Recipe, state: Mapping[str, Any]) -> None:
    """Write weights, processor, recipe and training state; the main process alone."""
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    if model.adapter is None:
        model.vlm.hf.save_pretrained(part)  # type: ignore[operator]
    else:
        model.adapter.save_pretrained(part)
        save_file(trained_parameters(model), part / TRAINED)
    if heads := {k: v.contiguous() for k, v in objectives.state_dict().items()}:
        save_file(heads, part / HEADS)
    model.processor.save(part)
    recipe.save(part / "recipe.yaml")
    torch.save(dict(state), part / STATE)
    model.save_settings(part)


def complete(part: Path, out: Path, step: int, limit: int) -> Path:
    """Give a written checkpoint its name and move ``last`` to it; older ones beyond ``limit`` are removed."""
    final = out / f"checkpoint-{step}"
    shutil.rmtree(final, ignore_errors=True)
    part.rename(final)
    point(out / LAST, final.name)
    kept = {(out / link).resolve() for link in (LAST, BEST)}
    for old in steps(out)[:-limit]:
        if (folder := out / f"checkpoint-{old}").resolve() not in kept:
            shutil.rmtree(folder)
    return final


def steps(out: Path) -> list[int]:
    """Steps of the complete checkpoints, ascending."""
    return sorted(int(p.name.rpartition("-")[2]) for p in out.glob("checkpoint-*") if p.is_dir())


def point(link: Path, target: str) -> None:
    """Replace a symbolic link in one rename."""
    fresh = link.with_name(f".{link.name}.part")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    os.replace(fresh, link)


def trained_parameters(model: UfoModel) -> dict[str, torch.Tensor]:
    """Parameters that train, by name in the Hugging Face model."""
    named = model.vlm.hf.named_parameters()
    return {n: p.detach().cpu().contiguous() for n, p in named if p.requires_grad}


def resume(folder: Path, model: UfoModel, objectives: nn.Module) -> dict[str, Any]:
    """Load adapter and heads in place and return the training state; full weights come with ``load(folder)``.

    Raises:
        ModelError: a file is missing or damaged, or weights do not fit the recipe.
    """
    try:
        state: dict[str, Any] = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        weights = load_file(folder / TRAINED) if model.adapter is not None else {}
        heads = load_file(folder / HEADS) if (folder / HEADS).exists() else {}
    except Exception as error:  # torch raises a different class for every way a file can be damaged
        raise ModelError(f"{folder}: cannot be resumed ({error}); delete it to resume from the one before") from error
    if model.adapter is not None:
        restore(model, weights, folder)
    objectives.load_state_dict(heads)
    return state


def restore(model: UfoModel, weights: Mapping[str, torch.Tensor], where: Path) -> None:
    """Copy trained parameters in place.

    Raises:
        ModelError: an unknown name, another shape, or a trained parameter that the file lacks.
    """
    parameters = dict(model.vlm.hf.named_parameters(remove_duplicate=False))
    unknown = sorted(set(weights) - set(parameters))
    missing = sorted(n for n, p in parameters.items() if p.requires_grad and n not in weights)
    if unknown or missing:
        raise ModelError(f"{where}: weights do not fit (unknown {unknown[:3]}, missing {missing[:3]}); same recipe?")
    with torch.no_grad():
        for name, value in weights.items():
            if parameters[name].shape != value.shape:
                raise ModelError(
                    f"{where}: {name} has shape {tuple(value.shape)}; the model has {tuple(parameters[name].shape)}"
                )
            parameters[name].copy_(value)
