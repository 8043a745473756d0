"""QLoRA: the language model's matrices in 4 or 8 bits by bitsandbytes, everything else as it is.

    hf = LlavaForConditionalGeneration.from_pretrained(path, **quantized.weights("nf4", torch.bfloat16))

Tower, projector, embeddings and head keep their precision: they are small beside the layers, the new tokens' rows
train, and what points is read from the head's side of the last layer.

Source: Dettmers et al. 2023, QLoRA (arXiv 2305.14314).
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from ufo_tune.errors import ConfigError

KINDS = ("nf4", "int8")
KEPT = (
    "vision_tower", "vision_model", "visual", "multi_modal_projector", "connector", "embed_tokens", "lm_head",
)  # fmt: skip
"""Names, anywhere in a family, of what is not quantised; a contract test holds every family to it."""


def weights(kind: str, dtype: Any) -> dict[str, Any]:
    """Keyword arguments of ``from_pretrained``; none for no quantisation.

    Args:
        kind: ``nf4`` (double-quantised), ``int8``, or nothing.
        dtype: of the computation in 4 bits.
    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    if not kind:
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"model.quantization: bitsandbytes is not installed (got {kind!r}); pip install 'ufo-tune[quant]'"
        )
    from transformers import BitsAndBytesConfig

    if kind == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(KEPT))
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype if isinstance(dtype, torch.dtype) else torch.bfloat16,
            llm_int8_skip_modules=list(KEPT),
        )
    return {"quantization_config": config}
