"""A recipe's model on fake weights: every shape and dtype of the real one, and no bytes.

    model = phantom(recipe.model)   # what ``load.base`` and ``lora.apply`` would give

Only the config and the processor's files are read; weights need not even be on this machine.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from ufo_tune.config import ModelSection
from ufo_tune.engine import load
from ufo_tune.errors import ConfigError
from ufo_tune.models import lora, tiny
from ufo_tune.models.ufo import UfoModel


def phantom(section: ModelSection) -> UfoModel:
    """The model as it will train, on fake weights on the CPU. Quantisation is left out: bitsandbytes is not asked for.

    Raises:
        ModelError: config or processor are not on this machine and cannot be fetched.
        ConfigError: nothing would train, or the family is no decoder family.
    """
    name, family, options = section.base, section.family, section.options
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        if name.startswith("tiny:"):
            kind = name.removeprefix("tiny:")
            sizes, options = tiny.split(options)
            name, family = str(tiny.build(kind, Path(folder), **sizes)), kind.partition("/")[0]
        with torch.device("meta"), _from_configs():
            model: Any = load.base(name, family, section.codec, options, dtype=section.dtype)
            if not isinstance(model, UfoModel):
                raise ConfigError(f"model.family: cannot be estimated (got {family!r}); it has no decoder of ours")
            lora.apply(model, section)
    faked(model)
    return model


def faked(module: nn.Module) -> None:
    """Make the module's meta tensors fake ones that say they are on the CPU, tied ones one; others become fake too.

    Fake tensors may meet real ones: the indices in a batch are real, since they decide shapes.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    made: dict[int, Tensor] = {}
    for owner in module.modules():
        for held in (owner._parameters, owner._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    if id(tensor) not in made:
                        made[id(tensor)] = _faked(tensor, mode)
                    held[name] = made[id(tensor)]  # type: ignore[assignment]


def _faked(tensor: Tensor, mode: FakeTensorMode) -> Tensor:
    fake: Tensor = FakeTensor(mode, torch.empty_like(tensor, device="meta"), torch.device("cpu"))
    return nn.Parameter(fake, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake


@contextmanager
def _from_configs() -> Iterator[None]:
    """Let ``from_pretrained`` make models from their config, so that a family's own ``build`` does all the rest."""

    def made(cls: Any, path: str, *, dtype: Any = "auto", **_: Any) -> Any:
        config = AutoConfig.from_pretrained(path)
        kept = config.dtype or torch.float32 if dtype == "auto" else dtype
        return AutoModelForImageTextToText.from_config(config, dtype=kept, attn_implementation="sdpa")

    replaced = classmethod(made)
    with (
        patch.object(PreTrainedModel, "from_pretrained", replaced),
        patch.object(AutoModelForImageTextToText, "from_pretrained", replaced),
    ):
        yield
