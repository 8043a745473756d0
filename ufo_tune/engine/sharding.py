"""Plain data parallelism, DeepSpeed's ZeRO and FSDP behind a few functions; the loop knows none of them.

    accelerator = start(recipe.train, out)
    module, optimizer = prepare(accelerator, recipe.train, module, optimizer)
    with whole(accelerator, module): ...  # weights are plain tensors on every process: evaluate, save

Which one runs is the profile's choice (``accelerate launch --config_file``), the numbers in it are the recipe's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs, parse_flag_from_env
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor
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
    if bare:  # accelerate imports DeepSpeed where it is installed, which would wonder on stdout where the GPU is
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # A family may own parameters that nothing reads: LLaVA takes the tower's states before its last layers.
    handlers: list[Any] = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    if bare and deepspeed:  # told that it is on a CPU, accelerate forgets DeepSpeed
        handlers.append(InitProcessGroupKwargs(backend="gloo"))
        _leave_compiling()
    accelerator = Accelerator(
        cpu=bare and not deepspeed,  # else processes without accelerators do not find each other
        gradient_accumulation_steps=section.gradient_accumulation_steps,
        mixed_precision="bf16" if section.bf16 else "no",
        log_with=list(section.report_to) or None,
        project_dir=str(out),
        kwargs_handlers=handlers,
    )
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        # transformers would part weights while it makes them, and neither new tokens nor adapters find their matrices.
        unset_hf_deepspeed_config()
    if accelerator.distributed_type == DistributedType.FSDP:
        if not hasattr(FSDPModule, "reset_iter_state"):
            raise ConfigError(
                f"accelerate: FSDP2 of this torch cannot evaluate between steps (got {torch.__version__}); install a "
                "newer torch (2.13 has what it takes), or take the profile zero3"
            )
        _keep_targets(accelerator)
    for variable, kind in _ASKED.items():
        if parse_flag_from_env(variable) and accelerator.distributed_type != kind:
            raise ConfigError(
                f"accelerate: the profile asks for {kind.value} (got {accelerator.distributed_type.value} on "
                f"{accelerator.device.type}); leave out use_cpu, or take the profile ddp"
            )
    return accelerator


def _keep_targets(accelerator: Accelerator) -> None:
    """Let FSDP round weights alone in mixed precision, and sum gradients in float32.

    By accelerate's policy it would round every tensor of a batch and of the losses too: points, metres, totals.
    """
    if trains_in_float32(accelerator):
        accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
        )


def trains_in_float32(accelerator: Accelerator) -> bool:
    """Whether trained weights are kept in float32 whatever the recipe loads them in: accelerate's way with FSDP2."""
    return accelerator.distributed_type == DistributedType.FSDP and accelerator.mixed_precision == "bf16"


def _leave_compiling() -> None:
    """Let processes on CPUs talk by gloo alone.

    DeepSpeed would compile an operator of its own for that, for a minute, and a start that is killed meanwhile leaves a
    lock behind on which every later one waits without a word.
    """
    from deepspeed.ops import __compatible_ops__ as operators

    operators["deepspeed_shm_comm"] = False


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


def complete_gradients(accelerator: Accelerator, optimizer: torch.optim.Optimizer) -> None:
    """Gradients of zero for what no sample of the batch reached, as DeepSpeed's partitions have them by themselves.

    A batch without images would else leave the tower's momentum alone in one process and follow it under ZeRO.
    """
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return  # its step is over, and gradients here would be copies of whole partitions
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)


def in_step(accelerator: Accelerator) -> Callable[[int], int] | None:
    """The most of a number over all processes, where all must run the same modules in every pass; None elsewhere.

    Under DeepSpeed and FSDP each waits for the others' part of a module or its gradient.
    """
    if accelerator.distributed_type not in (DistributedType.DEEPSPEED, DistributedType.FSDP):
        return None

    def most(number: int) -> int:
        found = torch.tensor(number, device=accelerator.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    return most


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether no process holds all weights between steps."""
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
        # The order of these passes, another on every process, would decide what the next step's backward fetches ahead.
        module.reset_iter_state()
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


@contextmanager
def state_dict(accelerator: Accelerator, module: Any) -> Iterator[dict[str, Tensor]]:
    """Every weight by its name in the module that was prepared, whole on the main process. All processes enter."""
    if accelerator.distributed_type == DistributedType.FSDP:
        yield _gathered(module.state_dict())
    else:
        with whole(accelerator, module):
            yield accelerator.unwrap_model(module).state_dict()


def optimizer_state(accelerator: Accelerator, optimizer: Any) -> dict[str, Any]:
    """The optimizer's state, whole on the main process; empty where ``save_shards`` writes it. All processes call."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return {}
    state: dict[str, Any] = _gathered(optimizer.state_dict())
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
    else:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        parted = {
            number: {name: _parted(value, parameters[number]) for name, value in values.items()}
            for number, values in state["state"].items()
        }
        optimizer.load_state_dict({**state, "state": parted})


def _gathered(value: Any) -> Any:
    """A tree of tensors with those that FSDP parted made whole, on the CPU; all processes call."""
    if isinstance(value, DTensor):
        return value.full_tensor().to("cpu", copy=True)  # a copy waits for the others; the result need not have
    if isinstance(value, dict):
        return {name: _gathered(part) for name, part in value.items()}
    return [_gathered(part) for part in value] if isinstance(value, list) else value


def _parted(value: Any, parameter: Tensor) -> Any:
    """What this process keeps of an optimizer's whole tensor: as much as of the parameter."""
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
