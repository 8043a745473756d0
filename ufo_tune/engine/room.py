"""Whether a device has room for a run: told at its start, and refused where it would certainly run out of memory."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from ufo_tune.config import Recipe
from ufo_tune.engine.estimate import Estimate, amount, estimate, short, step_lines
from ufo_tune.engine.sources import Sources
from ufo_tune.errors import ConfigError


def before_training(recipe: Recipe, accelerator: Accelerator, sources: Sources) -> str:
    """The run's memory in one line, for the main process.

    Raises:
        ConfigError: the device has less than the run needs.
    """
    profile = running(accelerator)
    found = estimate(recipe, gpus=accelerator.num_processes, profiles=(profile,), sources=sources, quick=True)
    refuse(found, profile, room_of(accelerator.device), accelerator.device.type)
    return short(found, profile)


def before_anything(recipe: Recipe) -> list[str]:
    """The recipe's memory on this machine, by the profile that needs least of each accelerator; lines for ``check``.

    Without accelerators it is told for one process and nothing is refused: a recipe is often checked elsewhere than
    it runs.

    Raises:
        ConfigError: no profile fits.
    """
    bare = not torch.cuda.is_available()
    found = estimate(recipe, gpus=1 if bare else torch.cuda.device_count())
    if not bare:
        least = min(found.profiles, key=lambda name: found.profiles[name]["needed"])
        refuse(found, least, room_of(torch.device("cuda", 0)), "cuda")
    return [short(found, "ddp"), *step_lines(found)]


def running(accelerator: Accelerator) -> str:
    """The profile, by its name in ``engine.estimate.PROFILES``, that a run was started with."""
    if accelerator.distributed_type == DistributedType.FSDP:
        return "fsdp2"
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        return "ddp"
    plugin = accelerator.state.deepspeed_plugin
    offloads = plugin.deepspeed_config["zero_optimization"].get("offload_param", {}).get("device") == "cpu"
    return f"zero{plugin.zero_stage}" + ("_offload" if offloads and plugin.zero_stage == 3 else "")


def room_of(device: torch.device) -> int | None:
    """Bytes of a device that are free or this process's own; None where nobody knows."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    if device.type == "cpu":
        return _host()
    return None


def _host() -> int | None:
    """Bytes of the host's memory that are free or this process's own, as Linux tells; None elsewhere."""
    told, own = Path("/proc/meminfo"), Path("/proc/self/statm")
    if not told.exists():
        return None
    lines = dict(line.split(":") for line in told.read_text().splitlines())
    resident = int(own.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return int(lines["MemAvailable"].split()[0]) * 1024 + resident


def refuse(found: Estimate, profile: str, room: int | None, device: str) -> None:
    """Stop before what would certainly run out of memory.

    Raises:
        ConfigError: the profile needs as much as there is, or more.
    """
    parts = found.profiles[profile]
    needed = parts["needed"] - (parts["optimizer"] if found.pageable else 0)
    if room is not None and needed >= room:
        raise ConfigError(
            f"train: would run out of memory (got {amount(room)} on {device}); {short(found, profile)}; take fewer "
            "rows, smaller images, train.gradient_checkpointing, model.quantization, or a profile that spreads more: "
            "see `ufo-tune estimate`"
        )
