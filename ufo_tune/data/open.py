"""A dataset's samples by the dataset's name; every name and option is checked before a file is opened.

open_dataset("coco", "/data/coco", "val2017", "detection", {"min_area": 16})
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from ufo_tune import plugins
from ufo_tune.core.types import Samples
from ufo_tune.errors import ConfigError


def open_dataset(name: str, root: str, split: str, task: str, options: Mapping[str, Any]) -> Samples:
    """Load one dataset for one task.

    Raises:
        ConfigError: unknown dataset or option, or a task that the dataset does not serve.
    """
    samples: Samples = find_dataset(name, task, options).load(root, split, task=task, **options)
    return samples


def find_dataset(name: str, task: str, options: Mapping[str, Any]) -> ModuleType:
    """The dataset's module, its task and options checked; no file is opened.

    Raises:
        ConfigError: see ``open_dataset``.
    """
    module = plugins.find("datasets", name)
    if task not in module.TASKS:
        raise ConfigError(f"datasets/{name}: has no task {task!r}; it has {', '.join(module.TASKS)}")
    plugins.check_options(f"datasets/{name}", module.load, {"task": task, **options})
    return module
