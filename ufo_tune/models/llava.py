"""Family ``llava``: HF ``LlavaForConditionalGeneration``, unmodified (CLIP or SigLIP tower, MLP projector, any LM).

LLaVA-1.5 sees one square of 336 pixels; ``tiles`` gives it more (672: ``2x2``, 1008: ``3x3``, or any other rows and
columns), encoded one by one and joined without separators, as UFO does with higher resolutions (ufo.md 9).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import (
    AutoProcessor,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)
from transformers import LlavaProcessor as HFLlavaProcessor

from ufo_tune.core.codec import Codec
from ufo_tune.core.contrast import local_contrast
from ufo_tune.core.types import View
from ufo_tune.models.base import VLM
from ufo_tune.models.tiles import Aspect, TiledProcessor
from ufo_tune.models.tiny import CHAT, Sizes, Text, decoder, write
from ufo_tune.models.ufo import UfoModel

CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}USER: {{ m['content'][0]['text'] }} "
    "{% elif m['role'] == 'assistant' %}ASSISTANT: {{ m['content'][0]['text'] }}{{ eos_token }}"
    "{% else %}{{ m['content'][0]['text'] }} {% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""LLaVA-1.5's dialogue, for bases that bring none."""


class LlavaProcessor(TiledProcessor):
    """Tokens and pixels of square tiles."""

    image_token = "<image>"

    def __init__(
        self,
        hf: Any,
        codec: Codec,
        *,
        aspect: Aspect = "keep",
        tiles: int | str = 1,
        wrap: bool = False,
        contrast: int = 0,
    ) -> None:
        self.wrap = wrap
        self.contrast = contrast
        image = hf.image_processor
        crop = image.crop_size if getattr(image, "do_center_crop", False) else image.size
        side = int(crop.get("height") or crop["shortest_edge"])
        cells = side // int(hf.patch_size)
        template = hf.chat_template or CHAT_TEMPLATE
        super().__init__(hf, codec, grid=(cells, cells), side=side, aspect=aspect, tiles=tiles, chat_template=template)

    def image_text(self, views: Sequence[View]) -> str:
        """All tiles without separators."""
        text = super().image_text(views)
        return f"<im_start>{text}<im_end>" if self.wrap else text

    def normalise(self, tiles: Tensor, out: Tensor) -> None:
        """By the base's mean and deviation, or by those of each pixel's neighbourhood."""
        if self.contrast:
            out.copy_(local_contrast(tiles.permute(0, 3, 1, 2) / 255, self.contrast))  # [n, 3, side, side]
        else:
            super().normalise(tiles, out)


class Llava(VLM):
    """Weights of the family."""

    tower_reads = ("hidden_states",)


def build(
    path: str,
    codec: Codec | None,
    *,
    aspect: Aspect = "keep",
    tiles: int | str = 1,
    wrap: bool = False,
    contrast: int = 0,
    **weights: Any,
) -> UfoModel:
    """The model in a Hugging Face folder or Hub id.

    Args:
        path: folder or Hub id.
        codec: None for a base without our tokens: they are added in memory.
        aspect: ``keep`` pads to the canvas, ``warp`` stretches.
        tiles: at most so many, or ``"rows x columns"``; see ``models.tiles``.
        wrap: put the image between ``<im_start>`` and ``<im_end>``, as the released UFO weights have it.
        contrast: normalise by local contrast over so many of the tower's pixels to each side (``core.contrast``), for
            towers trained so; 0: by the base's mean and deviation.
        weights: passed to ``from_pretrained`` (dtype, quantization_config, ...).
    """
    hf = LlavaForConditionalGeneration.from_pretrained(path, attn_implementation="sdpa", **weights)
    processor = AutoProcessor.from_pretrained(path)
    options = {"aspect": aspect, "tiles": tiles, "wrap": wrap, "contrast": contrast}
    return UfoModel.assemble(Llava(hf), processor, LlavaProcessor, codec, options)


def tiny(text: Text, sizes: Sizes, out: Path) -> None:
    """A small random LLaVA: CLIP tower, Llama decoder."""
    words = text()
    side = sizes.image_size // sizes.patch
    vision = CLIPVisionConfig(
        hidden_size=sizes.width,
        intermediate_size=sizes.mlp,
        num_hidden_layers=sizes.vision_layers,
        num_attention_heads=sizes.heads,
        image_size=sizes.image_size,
        patch_size=sizes.patch,
        projection_dim=sizes.width,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(**decoder(words, sizes), tie_word_embeddings=False),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        image_seq_length=side**2,
    )
    model = LlavaForConditionalGeneration(config)
    processor = HFLlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": sizes.image_size},
            crop_size={"height": sizes.image_size, "width": sizes.image_size},
        ),
        tokenizer=words,
        patch_size=sizes.patch,
        vision_feature_select_strategy="default",
        chat_template=CHAT,
        num_additional_image_tokens=1,
    )
    write(model, processor, model.model.vision_tower.embeddings.position_embedding.weight[1:], out)
