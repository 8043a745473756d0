"""What makes a step cheaper and computes the same: attention that leaves pairs out, liger's kernels, compiled layers.

``refuse`` comes before weights are loaded, ``apply`` after ``models.lora.apply``, which puts layers in.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from ufo_tune.config import Recipe
from ufo_tune.engine import sharding
from ufo_tune.errors import ConfigError, ModelError
from ufo_tune.models import flex, stretches
from ufo_tune.models.base import VLM
from ufo_tune.models.ufo import UfoModel


def refuse(recipe: Recipe, accelerator: Accelerator) -> None:
    """Stop where the recipe asks for what this machine or profile cannot do.

    Raises:
        ConfigError: no GPU for FlexAttention or liger; no liger; no working compiler; layers that are gathered piece by
            piece; quantised layers, or such that attend by stretches, that are to be compiled; an optimizer that does
            not know how weights are sharded.
    """
    section, device = recipe.train, accelerator.device
    _refuse_optimizer(section.optim, accelerator)
    if recipe.model.attention == "flex" and device.type != "cuda":
        raise ConfigError(
            f"model.attention: flex needs a GPU, it has no backward pass elsewhere (got {device.type}); set "
            "model.attention: sdpa"
        )
    if section.liger:
        _refuse_liger(device)
    if not section.compile:
        return
    if section.liger or recipe.model.quantization:
        asked = "train.liger" if section.liger else f"model.quantization: {recipe.model.quantization}"
        raise ConfigError(f"train.compile: has not been tried together (got {asked}); set train.compile: false")
    if recipe.model.attention == "stretches":
        raise ConfigError(
            "train.compile: every batch has other stretches and would be compiled anew (got model.attention: "
            "stretches); set model.attention: sdpa, or train.compile: false"
        )
    if sharding.is_sharded(accelerator):
        raise ConfigError(
            f"train.compile: has not been tried where weights are gathered layer by layer (got "
            f"{accelerator.distributed_type.value}); take the profile ddp, zero1 or zero2"
        )
    _refuse_compiler(device)


def _refuse_optimizer(name: str, accelerator: Accelerator) -> None:
    """Muon works on whole matrices, which ZeRO flattens; bitsandbytes' kernels know no sharded tensors."""
    kind = accelerator.distributed_type
    lost = {DistributedType.DEEPSPEED: name == "muon", DistributedType.FSDP: "8bit" in name or "paged" in name}
    if lost.get(kind, False):
        raise ConfigError(
            f"train.optim: {name} does not work on weights sharded by {kind.value} (got {name}); set train.optim: "
            "adamw, or take the profile ddp"
        )


def _refuse_liger(device: torch.device) -> None:
    if importlib.util.find_spec("liger_kernel") is None:
        raise ConfigError(
            "train.liger: liger-kernel is not installed (got train.liger: true); pip install 'ufo-tune[liger]'"
        )
    if device.type != "cuda":
        raise ConfigError(f"train.liger: its kernels need a GPU (got {device.type}); set train.liger: false")


def _refuse_compiler(device: torch.device) -> None:
    """Compile next to nothing: what is missing shows now and not in the first step."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=device))
    except RuntimeError as error:  # torch's kinds of it: no C++ compiler, no Triton, a GPU that is too old
        said = " ".join(str(error).partition("\n\n")[0].split())  # the rest is advice on debugging torch
        raise ConfigError(
            f"train.compile: torch.compile does not work here ({said}); install a C++ compiler (for GPUs Triton), or "
            "set train.compile: false"
        ) from error


def apply(model: UfoModel, recipe: Recipe) -> None:
    """Do what the recipe asks for; names of parameters and what is saved stay the same.

    Raises:
        ConfigError: liger does not know the decoder.
        ModelError: the decoder cannot take FlexAttention.
    """
    if recipe.model.attention == "flex":
        flex.use(model.vlm)
    if recipe.model.attention == "stretches":
        stretches.use(model.vlm)
    if recipe.train.liger:
        use_liger(model.vlm)
    if recipe.train.compile:
        compile_layers(model.vlm)


def use_liger(vlm: VLM) -> None:
    """Liger's norms, feed-forward parts and rotations in the decoder, by Triton.

    Not its cross-entropy: logits are computed at supervised positions only (``objectives.next_token``). The rotation is
    replaced for all models of the kind in this process; that is liger's way.

    Raises:
        ModelError: it does not know this kind of decoder, or not as the installed transformers has it.
    """
    monkey_patch: Any = importlib.import_module("liger_kernel.transformers.monkey_patch")
    model: Any = vlm.text_model
    known = monkey_patch.MODEL_TYPE_TO_APPLY_LIGER_FN
    if model.config.model_type not in known:  # it would do nothing and say so in a log
        raise ModelError(
            f"train.liger: liger-kernel does not know this decoder (got {model.config.model_type!r}); set "
            "train.liger: false"
        )
    try:
        monkey_patch._apply_liger_kernel_to_instance(model, cross_entropy=False, fused_linear_cross_entropy=False)
    except ImportError as error:  # 0.8.5 looks for classes of Qwen-VL that transformers 5.23 no longer has
        raise ModelError(
            f"train.liger: liger-kernel does not fit the installed transformers (got {model.config.model_type!r}: "
            f"{error}); set train.liger: false"
        ) from error


def compile_layers(vlm: VLM, backend: str = "inductor") -> None:
    """Compile each decoder layer, for any length; layers are alike, so one of them is compiled for all.

    Only ``forward`` is: hooks stay outside. The one that adds features to ``<LOCAL>`` states is another for every
    batch, and torch does not look for new hooks in compiled code. Decoding is not compiled
    (``models.shared_prefix.attending``): every step would be a new shape of a cache that torch cannot see into.

    Args:
        vlm: whose layers.
        backend: of ``torch.compile``.
    """
    for layer in vlm.layers:
        layer.forward = torch.compile(layer.forward, dynamic=True, backend=backend)  # type: ignore[method-assign]
