"""``ufo-tune`` under DeepSpeed with every weight parted, for tests: it leaves those of under 100,000 numbers whole.

accelerate launch --config_file PROFILE zero_of_small_models.py train RECIPE --out RUN
"""

from __future__ import annotations

import sys
from typing import Any

from accelerate import Accelerator

from ufo_tune.cli import main
from ufo_tune.engine import sharding

prepare = sharding.prepare


def prepare_parted(accelerator: Accelerator, *others: Any) -> tuple[Any, Any]:
    zero = accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"]
    zero["stage3_param_persistence_threshold"] = 0
    return prepare(accelerator, *others)


sharding.prepare = prepare_parted
sys.exit(main())
