"""Plain data parallelism, DeepSpeed's ZeRO and FSDP behind a few functions; the loop knows none of them.

    accelerator = start(recipe.train, out)
    module, optimizer = prepare(accelerator, recipe.train, module, optimizer)
    with whole(accelerator, module): ...  # weights are plain tensors on every process: evaluate, save

Which one runs is the profile's choice (``accelerate launch --config_file``), the numbers in it are the recipe's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs, parse_flag_from_env
from torch import nn
from transformers.integrations import unset_hf_deepspeed_config

from ufo_tune.config import TrainSection
from ufo_tune.errors import ConfigError

SHARDS = "shards"
"""Folder of a checkpoint for what each process of DeepSpeed keeps to itself."""
_TAG = "engine"
_ASKED = {"ACCELERATE_USE_DEEPSPEED": DistributedType.DEEPSPEED, "ACCELERATE_USE_FSDP": DistributedType.FSDP}


def start(section: TrainSection, out: Path) -> Accelerator:
    """The accelerator of a run, on accelerators where there are some.

    Raises:
        ConfigError: the profile asks for what this machine cannot do; accelerate itself would train without a word.
    """
    deepspeed = parse_flag_from_env("ACCELERATE_USE_DEEPSPEED")
    bare = not torch.accelerator.is_available()
    # A family may own parameters that nothing reads: LLaVA takes the tower's states before its last layers.
    handlers: list[Any] = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    if bare and deepspeed:  # told that it is on a CPU, accelerate forgets DeepSpeed
        handlers.append(InitProcessGroupKwargs(backend="gloo"))
    accelerator = Accelerator(
        cpu=bare and not deepspeed,  # else processes without accelerators do not find each other
        gradient_accumulation_steps=section.gradient_accumulation_steps,
        mixed_precision="bf16" if section.bf16 else "no",
        log_with=list(section.report_to) or None,
        project_dir=str(out),
        kwargs_handlers=handlers,
    )
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        # transformers would part weights while it makes them; neither new tokens nor adapters would find their matrices.
        unset_hf_deepspeed_config()
    for variable, kind in _ASKED.items():
        if parse_flag_from_env(variable) and accelerator.distributed_type != kind:
            raise ConfigError(
                f"accelerate: the profile asks for {kind.value} (got {accelerator.distributed_type.value} on "
                f"{accelerator.device.type}); use the profile ddp here"
                + (", or leave out use_cpu" if kind is DistributedType.DEEPSPEED and "ACCELERATE_USE_CPU" in os.environ else "")
            )
    return accelerator


def prepare(
    accelerator: Accelerator, section: TrainSection, module: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Any, Any]:
    """Module and optimizer as the profile wants them. Batch, accumulation and clipping are the recipe's."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        config: dict[str, Any] = accelerator.state.deepspeed_plugin.deepspeed_config
        config["train_micro_batch_size_per_gpu"] = section.per_device_train_batch_size
        config["gradient_accumulation_steps"] = section.gradient_accumulation_steps
        config["gradient_clipping"] = section.max_grad_norm
        config["zero_force_ds_cpu_optimizer"] = False  # the recipe's optimizer, offloaded or not
        config["zero_allow_untested_optimizer"] = True
    prepared: tuple[Any, Any] = accelerator.prepare(module, optimizer)
    return prepared


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether no process holds all weights between steps: then all must run the same modules in the same order."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return accelerator.state.deepspeed_plugin.zero_stage == 3
    return accelerator.distributed_type == DistributedType.FSDP


@contextmanager
def whole(accelerator: Accelerator, module: Any) -> Iterator[None]:
    """All weights on every process, as plain tensors; any part may be called, and processes need not keep step.

    Generation ends at another length on every process: with weights that are gathered layer by layer one would wait
    for ever for the other.
    """
    if not is_sharded(accelerator):
        yield
    elif accelerator.distributed_type == DistributedType.FSDP:
        parts = [m for m in module.modules() if hasattr(m, "unshard")]
        for part in parts:
            part.set_reshard_after_forward(False)
            part.unshard()
        yield
        for part in parts:
            part.set_reshard_after_forward(True)
            part.reshard()
    else:
        import deepspeed

        offload = getattr(module.optimizer, "parameter_offload", module.optimizer)
        with deepspeed.zero.GatheredParameters(list(module.parameters())):
            for parameter in module.parameters():
                parameter.ds_active_sub_modules.clear()
            for hook in (*offload.forward_hooks, *offload.backward_hooks):
                hook.remove()
            offload.forward_hooks, offload.backward_hooks = [], []
            yield
        offload._register_deepspeed_module(offload.module)


def optimizer_state(accelerator: Accelerator, module: Any, optimizer: Any) -> dict[str, Any]:
    """The optimizer's state, whole on the main process; empty where ``save_shards`` writes it. All processes call."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return {}
    if accelerator.distributed_type == DistributedType.FSDP:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return get_optimizer_state_dict(module, optimizer.optimizer, options=options)
    state: dict[str, Any] = optimizer.state_dict()
    return state


def save_shards(accelerator: Accelerator, module: Any, folder: Path) -> None:
    """What each process of DeepSpeed has of weights and optimizer. All processes call; nothing for the others."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        module.save_checkpoint(str(folder / SHARDS), tag=_TAG, exclude_frozen_parameters=True)


def resume(accelerator: Accelerator, module: Any, optimizer: Any, state: dict[str, Any], folder: Path) -> None:
    """Take up the optimizer where ``optimizer_state`` or ``save_shards`` left it. All processes call.

    Raises:
        ConfigError: the checkpoint was written under another kind of sharding.
    """
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        if not (folder / SHARDS).is_dir():
            raise ConfigError(f"{folder}: was not written under DeepSpeed (got no {SHARDS}); resume with its profile")
        module.load_checkpoint(str(folder / SHARDS), tag=_TAG, load_module_strict=False)
    elif not state:
        raise ConfigError(f"{folder}: was written under DeepSpeed (got {SHARDS}); resume with its profile")
    elif accelerator.distributed_type == DistributedType.FSDP:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_optimizer_state_dict(module, optimizer.optimizer, state, options=options)
    else:
        optimizer.load_state_dict(state)
