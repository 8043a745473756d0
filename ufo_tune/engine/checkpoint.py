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
from torch import Tensor, nn

from ufo_tune.config import Recipe
from ufo_tune.errors import ModelError
from ufo_tune.models.ufo import UfoModel

STATE = "training_state.pt"
TRAINED = "trained.safetensors"
"""Trained parameters in their training dtype, by name: the adapter's and whatever else the recipe trains."""
HEADS = "objectives.safetensors"
_RESUMED = ("step", "optimizer", "loader", "random")  # what a training state must have to go on from
_MODEL, _OBJECTIVES = "model.vlm.hf.", "objectives."  # names in a Trainable
LAST, BEST = "last", "best"
"""Links to checkpoints: the newest, and the one with the highest score so far."""


def part(out: Path, step: int) -> Path:
    """Where a checkpoint is written until it is complete."""
    return out / f".checkpoint-{step}.part"


def write(part: Path, model: UfoModel, weights: Mapping[str, Tensor], recipe: Recipe, state: Mapping[str, Any]) -> None:
    """Write weights, processor, recipe and training state; the main process alone.

    Args:
        part: folder to write.
        model: whose settings, and how its weights are saved.
        weights: of the ``Trainable``, by name there.
        recipe: of the run.
        state: what resuming needs besides.
    """
    shutil.rmtree(part, ignore_errors=True)
    own, heads = (_below(weights, prefix) for prefix in (_MODEL, _OBJECTIVES))
    part.mkdir(parents=True)
    if model.adapter is None:
        model.vlm.hf.save_pretrained(part, state_dict=own)  # type: ignore[operator]
    else:
        model.adapter.save_pretrained(part, state_dict=_below(own, "", "base_model.model."))
        trained = {n for n, p in model.vlm.hf.named_parameters() if p.requires_grad}
        save_file({n: v.detach().cpu().contiguous() for n, v in own.items() if n in trained}, part / TRAINED)
    if heads:
        save_file({n: v.detach().cpu().contiguous() for n, v in heads.items()}, part / HEADS)
    model.processor.save(part)
    recipe.save(part / "recipe.yaml")
    torch.save(dict(state), part / STATE)
    model.save_settings(part)


def complete(part: Path, out: Path, step: int, limit: int, best: bool = False) -> Path:
    """Give a written checkpoint its name and move ``last`` to it; older ones beyond ``limit`` are removed.

    ``best`` moves first: the state that ``last`` resumes from knows the best score, and must find its checkpoint.
    """
    final = out / f"checkpoint-{step}"
    shutil.rmtree(final, ignore_errors=True)  # of a run that died before ``last`` moved
    part.rename(final)
    if best:
        point(out / BEST, final.name)
    point(out / LAST, final.name)
    kept = {(out / link).resolve() for link in (LAST, BEST)}
    for old in steps(out)[:-limit]:
        if (folder := out / f"checkpoint-{old}").resolve() not in kept:
            shutil.rmtree(folder)
    for torn in out.glob(".checkpoint-*.part"):  # left by a save that was killed
        shutil.rmtree(torn)
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


def _below(weights: Mapping[str, Tensor], prefix: str, instead: str = "") -> dict[str, Tensor]:
    """Those whose names start with ``prefix``, by the rest of the name."""
    return {instead + n.removeprefix(prefix): v for n, v in weights.items() if n.startswith(prefix)}


def resume(folder: Path, model: UfoModel, objectives: nn.Module) -> dict[str, Any]:
    """Load adapter and heads in place and return the training state; full weights come with ``load(folder)``.

    Raises:
        ModelError: a file is missing, damaged or of another version, or weights do not fit the recipe.
    """
    try:
        state: dict[str, Any] = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        weights = load_file(folder / TRAINED) if model.adapter is not None else {}
        heads = load_file(folder / HEADS) if (folder / HEADS).exists() else {}
    except Exception as error:  # torch raises a different class for every way a file can be damaged
        raise ModelError(f"{folder}: cannot be resumed ({error}); delete it to resume from the one before") from error
    if missing := [name for name in _RESUMED if name not in state]:
        raise ModelError(
            f"{folder / STATE}: has no {', '.join(missing)} (got {', '.join(state)}), so another version of ufo-tune "
            "wrote it; resume with that version, or start a new run"
        )
    if model.adapter is not None:
        restore(model, weights, folder)
    try:
        objectives.load_state_dict(heads)
    except RuntimeError as error:
        why = " ".join(str(error).split())  # torch writes it on several lines
        raise ModelError(f"{folder / HEADS}: weights of objectives do not fit ({why}); same recipe?") from error
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
