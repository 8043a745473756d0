"""``ufo-tune`` under FSDP2 on CPUs, for tests: accelerate offers that profile on accelerators only.

torchrun --nproc-per-node 2 fsdp_on_cpu.py train RECIPE --out RUN
"""

from __future__ import annotations

import sys
from pathlib import Path

from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from ufo_tune.cli import main
from ufo_tune.config import TrainSection
from ufo_tune.engine import sharding

start = sharding.start


def start_fsdp(section: TrainSection, out: Path) -> Accelerator:
    accelerator = start(section, out)
    for state in (accelerator.state, PartialState()):
        state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", state_dict_type="FULL_STATE_DICT"
    )
    sharding._keep_targets(accelerator)
    return accelerator


sharding.start = start_fsdp
sys.exit(main())
