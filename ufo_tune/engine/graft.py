"""``prepare LM --vision TOWER``: a LLaVA out of a vision tower and a causal language model that never saw a picture.

The decoder, its tokenizer and its chat template are the language model's own; the projector is new, and so is the tower
where it is ``random``. Training then has to teach it to see, so train projector and tower too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    SiglipVisionModel,
)

from ufo_tune.engine import remote
from ufo_tune.errors import ConfigError, ModelError

IMAGE = "<image>"
_TOWERS: dict[str, type[PreTrainedModel]] = {
    "clip": CLIPVisionModel,
    "clip_vision_model": CLIPVisionModel,
    "siglip": SiglipVisionModel,
    "siglip_vision_model": SiglipVisionModel,
}
_FLATTEN = (
    "{%- set ns = namespace(flat=[]) -%}{%- for m in messages -%}{%- set ns.text = '' -%}"
    "{%- if m['content'] is string -%}{%- set ns.text = m['content'] -%}{%- else -%}{%- for c in m['content'] -%}"
    "{%- set ns.text = ns.text + ('<image>\\n' if c['type'] == 'image' else c['text']) -%}{%- endfor -%}{%- endif -%}"
    "{%- set ns.flat = ns.flat + [{'role': m['role'], 'content': ns.text}] -%}{%- endfor -%}"
    "{%- set messages = ns.flat -%}"
)
"""Before a template of a language model, which knows no parts: image and text parts become one text."""


def graft(
    language: str, vision: str, out: Path, *, image_size: int = 224, patch: int = 16, width: int = 256, layers: int = 4
) -> Path:
    """Write a Hugging Face LLaVA; our tokens are not in it yet.

    Args:
        language: Hub id or folder of a causal language model, or a GGUF file (needs ``pip install gguf``).
        vision: Hub id or folder of a CLIP or SigLIP model, or ``random``: a small CLIP tower of the sizes below.
        out: folder to write.
        image_size: side in pixels of a random tower.
        patch: side of its patches.
        width: of its layers.
        layers: of it.
    Raises:
        ConfigError: the sizes do not fit each other.
        ModelError: no such tower or language model, or it has no chat template.
    """
    if image_size % patch or width % 64:
        raise ConfigError(
            f"prepare --vision random: image_size must be a multiple of patch, width of 64 (got {image_size}, {patch}, "
            f"{width})"
        )
    decoder, tokenizer = _language(language)
    torch.manual_seed(0)  # of what is new
    tower, image = _random(image_size, patch, width, layers) if vision == "random" else _tower(vision)
    tokenizer.add_tokens([IMAGE], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    clip = isinstance(tower, CLIPVisionModel)  # has a class token, and a last layer that LLaVA leaves out
    side = tower.config.image_size // tower.config.patch_size
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=decoder.config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=-2 if clip and vision != "random" else -1,
        vision_feature_select_strategy="default" if clip else "full",
        image_seq_length=side**2,
        tie_word_embeddings=decoder.config.tie_word_embeddings,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.language_model.load_state_dict(decoder.base_model.state_dict())
    model.lm_head.load_state_dict(decoder.get_output_embeddings().state_dict())
    model.model.vision_tower.load_state_dict(tower.state_dict())
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    processor = LlavaProcessor(
        image_processor=image,
        tokenizer=tokenizer,
        patch_size=tower.config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        chat_template=_FLATTEN + tokenizer.chat_template,
        num_additional_image_tokens=1 if clip else 0,
    )
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return out


def _language(name: str) -> tuple[Any, Any]:
    """The language model and its tokenizer."""
    path = Path(name)
    given: dict[str, Any] = {}
    if path.suffix != ".gguf":
        remote.refuse(name, right="give a causal language model: its folder, Hub id, or a GGUF file", single=True)
    elif not path.is_file():
        raise ModelError(f"{path}: no such GGUF file (got nothing there); check the path")
    else:
        name, given = str(path.parent), {"gguf_file": path.name}
    try:
        with _told(str(path), "causal language model"):
            decoder = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, **given)
            tokenizer = AutoTokenizer.from_pretrained(name, **given)
    except ImportError as error:
        raise ModelError(f"{path}: cannot be read without the package gguf ({error}); pip install gguf") from error
    if not tokenizer.chat_template:
        raise ModelError(f"{path}: the language model has no chat template; take one that was trained to talk")
    if hasattr(decoder.config, "quantization_config"):
        del decoder.config.quantization_config  # of the GGUF file; the weights in memory are whole
    return decoder, tokenizer


def _tower(name: str) -> tuple[Any, Any]:
    """A pretrained tower and its image processor."""
    remote.refuse(name, right="give a CLIP or SigLIP: its folder, Hub id, or `random`", single=True)
    with _told(name, "vision tower"):
        kind = AutoConfig.from_pretrained(name).model_type
        if kind not in _TOWERS:
            raise ModelError(f"{name}: no tower that a LLaVA can have (got {kind}); take one of {', '.join(_TOWERS)}")
        return _TOWERS[kind].from_pretrained(name, dtype=torch.float32), AutoImageProcessor.from_pretrained(name)


@contextmanager
def _told(name: str, what: str) -> Iterator[None]:
    """What transformers raises of files that are missing, damaged or of something else, as one clear line."""
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        if not Path(name).exists():
            raise remote.unreadable(name, error) from error
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(f"{name}: cannot be read as a {what} ({line:.200}); give the folder of one") from error


def _random(image_size: int, patch: int, width: int, layers: int) -> tuple[Any, Any]:
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        image_size=image_size,
        patch_size=patch,
    )
    side = {"height": image_size, "width": image_size}
    return CLIPVisionModel(config), CLIPImageProcessorPil(size={"shortest_edge": image_size}, crop_size=side)
