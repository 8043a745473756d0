"""QLoRA: the matrices of the decoder's layers in 4 or 8 bits by bitsandbytes, everything else as it is.

    hf = LlavaForConditionalGeneration.from_pretrained(path, **quantized.weights("nf4", torch.bfloat16))

Tower, projector, embeddings and head keep their precision: they are small beside the layers, the new tokens' rows
train, and what points is read from the head's side of the last layer.

Source: Dettmers et al. 2023, QLoRA (arXiv 2305.14314).
"""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

import torch
from torch import nn

from ufo_tune.errors import ConfigError

KINDS = ("", "nf4", "int8")
LAYERS = r"model\.(language_model|text_model)\.layers\."
"""How the names of what is quantised start, in every family; a contract test holds them to it."""


def check(kind: str) -> None:
    """Refuse what is no kind of quantisation.

    Raises:
        ConfigError: it is not.
    """
    if kind not in KINDS:
        raise ConfigError(f"quantization: no such kind (got {kind!r}); give 'nf4', 'int8', or '' for none")


def weights(kind: str, dtype: torch.dtype | str) -> dict[str, Any]:
    """Keyword arguments of ``from_pretrained``; none for no quantisation.

    Args:
        kind: ``nf4`` (double-quantised), ``int8``, or nothing.
        dtype: of the computation in 4 bits; ``auto`` is bfloat16.
    Raises:
        ConfigError: another kind, or bitsandbytes is not installed.
    """
    check(kind)
    if not kind:
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"model.quantization: bitsandbytes is not installed (got {kind!r}); pip install 'ufo-tune[quant]'"
        )
    from transformers import BitsAndBytesConfig

    kept = [rf"(?!{LAYERS}).*"]  # matched from the start of a module's name: a plain name would keep nothing inside it
    if kind == "int8":
        # It warns, at every product of every step, of what it always does: activations in float16 on the way to 8 bits.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)}
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if dtype == "auto" else dtype,
        llm_int8_skip_modules=kept,
    )
    return {"quantization_config": config}


def matrices(module: nn.Module) -> list[str]:
    """Names of the layers whose weights are packed in 4 or 8 bits, by bitsandbytes or whatever else packs into bytes.

    PEFT's wrapping does not show in them.
    """
    return [
        name.removesuffix(".weight").replace(".base_layer", "")
        for name, parameter in module.named_parameters()
        if parameter.dtype in (torch.uint8, torch.int8)
    ]
