"""Optimizer groups and the learning-rate schedule."""

from __future__ import annotations

import importlib.util
import math
import re
from typing import Any

import torch
from torch import nn

from ufo_tune.config import TrainSection
from ufo_tune.engine.master_weights import MasterAdamW
from ufo_tune.engine.muon import Muon
from ufo_tune.errors import ConfigError
from ufo_tune.models.ufo import UfoModel

_BITSANDBYTES = {"adamw_8bit": "AdamW8bit", "paged_adamw": "PagedAdamW", "paged_adamw_8bit": "PagedAdamW8bit"}


def optimizer(model: UfoModel, objectives: nn.Module, section: TrainSection) -> torch.optim.Optimizer:
    """AdamW with one group for each (part, decayed or not); vectors (norms, biases) are not decayed.

    With ``optim: muon`` the hidden matrices of tower, projector and decoder take Muon's step instead. Each group keeps
    its own peak in ``peak_lr``; ``set_lr`` scales it.
    """
    groups: dict[tuple[str, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.vlm.hf.named_parameters():
        if parameter.requires_grad:
            part = model.vlm.part_of(_plain(name))
            hidden = parameter.ndim == 2 and part != "tokens" and not re.search("position_embedding|lora_", name)
            key = (part, parameter.ndim > 1, section.optim == "muon" and hidden)
            groups.setdefault(key, []).append(parameter)
    for parameter in objectives.parameters():
        groups.setdefault(("objectives", parameter.ndim > 1, False), []).append(parameter)
    multipliers: dict[str, float] = {str(k): v for k, v in section.lr_multipliers.items()}
    listed = []
    for (part, decayed, muon), parameters in groups.items():
        peak = (section.muon_learning_rate if muon else section.learning_rate) * multipliers.get(part, 1.0)
        decay = section.weight_decay if decayed else 0.0
        listed.append({"params": parameters, "lr": peak, "peak_lr": peak, "weight_decay": decay, "name": part})
        if section.optim == "muon":
            listed[-1]["muon"] = muon
    options: dict[str, Any] = {"betas": (0.9, section.adam_beta2), "eps": section.adam_epsilon}
    if section.optim in _BITSANDBYTES:
        return _bitsandbytes(section.optim)(listed, **options)
    kind = Muon if section.optim == "muon" else MasterAdamW
    return kind(listed, **options, fused=True)  # a fifth of the loop's time, on CPUs too


def _bitsandbytes(name: str) -> Any:
    """The class of an optimizer of bitsandbytes.

    Raises:
        ConfigError: it is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(f"train.optim: bitsandbytes is not installed (got {name!r}); pip install 'ufo-tune[quant]'")
    from bitsandbytes import optim

    return getattr(optim, _BITSANDBYTES[name])


def _plain(name: str) -> str:
    """A parameter's name without PEFT's wrapping."""
    return name.replace(".base_layer", "")


def factor(section: TrainSection, step: int, seconds: float = 0.0) -> float:
    """The share of the peak learning rate at a step: linear warm-up, then the schedule.

    With ``max_seconds`` the schedule runs on wall time where that is further along than the steps.
    """
    if step < section.warmup_steps:
        return (step + 1) / section.warmup_steps
    done = (step - section.warmup_steps) / max(1, section.max_steps - section.warmup_steps)
    if section.max_seconds:
        done = max(done, seconds / section.max_seconds)
    done = min(1.0, done)
    if section.lr_scheduler_type == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1.0 if section.lr_scheduler_type == "constant" else 1.0 - done


def set_lr(groups: list[dict[str, float]], share: float) -> None:
    """Set every group's learning rate to a share of its peak."""
    for group in groups:
        group["lr"] = group["peak_lr"] * share
