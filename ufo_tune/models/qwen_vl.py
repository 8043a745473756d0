"""Family ``qwen_vl``: HF ``Qwen2_5_VLForConditionalGeneration`` and ``Qwen3VLForConditionalGeneration``, unmodified.

Native resolution: the image is resized to whole cells within a budget of pixels, one token for 2x2 patches (28 pixels a
cell, 32 in Qwen3-VL). Positions have three axes (M-RoPE): image tokens count time, rows and columns; answers go on from
the prompt's end on all three. Qwen3-VL adds features of earlier tower layers in the first decoder layers (deepstack).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from ufo_tune.core.codec import Codec
from ufo_tune.core.packing import Packing
from ufo_tune.core.sequence import Row
from ufo_tune.core.types import View
from ufo_tune.errors import DataError
from ufo_tune.models.base import VLM
from ufo_tune.models.processor import VLMProcessor
from ufo_tune.models.tiny import CHAT, Sizes, Text, decoder, write
from ufo_tune.models.ufo import UfoModel

TINY_KINDS = ("qwen2_5_vl", "qwen3_vl")


class QwenVLProcessor(VLMProcessor):
    """Tokens and pixels of one view at native resolution; the pixels are HF's own work."""

    def __init__(self, hf: Any, codec: Codec, *, min_pixels: int = 0, max_pixels: int = 0) -> None:
        self.image_token = hf.image_token
        super().__init__(hf, codec)
        image = hf.image_processor
        least, most = image.size["shortest_edge"], image.size["longest_edge"]
        self.budget = {"min_pixels": min_pixels or least, "max_pixels": max_pixels or most}
        image.size = {"shortest_edge": self.budget["min_pixels"], "longest_edge": self.budget["max_pixels"]}
        self.cell = int(image.patch_size * image.merge_size)

    def plan(self, size: tuple[int, int]) -> tuple[View, ...]:
        """One view of the whole image.

        Raises:
            DataError: a side is more than 200 times the other.
        """
        try:
            height, width = smart_resize(*size, factor=self.cell, **self.budget)
        except ValueError as error:
            raise DataError(f"qwen_vl: the image is too narrow (got {size[1]}x{size[0]} pixels); {error}") from error
        return (View((0.0, 0.0, float(size[1]), float(size[0])), (height // self.cell, width // self.cell)),)

    def target_size(self, views: Sequence[View]) -> tuple[int, int]:
        """The resized image."""
        h, w = self.grid(views)
        return h * self.cell, w * self.cell

    def pixels(self, image: np.ndarray, views: Sequence[View]) -> dict[str, Tensor]:
        """``pixel_values`` [patches, values of a patch] and ``image_grid_thw`` [1, 3]."""
        found = self.hf.image_processor(images=[image], return_tensors="pt", input_data_format="channels_last")
        return {name: found[name] for name in ("pixel_values", "image_grid_thw")}

    def image_text(self, views: Sequence[View]) -> str:
        """All tokens between the two that mark an image."""
        return f"<|vision_start|>{super().image_text(views)}<|vision_end|>"

    def positions(self, row: Row, views: Sequence[View]) -> Tensor:
        """[3, T] time, row and column; an image takes as many positions as its longer side has cells."""
        at = torch.tensor(row.positions).repeat(3, 1)  # [3, T]
        places = (torch.tensor(row.ids) == self.image_id).nonzero()[:, 0]  # of all images, one view each
        for view, image in zip(views, places.split([v.tokens for v in views]), strict=True):
            h, w = view.grid
            first = int(at[0, image[0]])
            at = torch.where(at >= first + h * w, at + max(h, w) - h * w, at)
            y, x = torch.arange(h * w) // w, torch.arange(h * w) % w
            at[:, image] = first + torch.stack([torch.zeros_like(y), y, x])
        return at


class QwenVL(VLM):
    """Weights of the family."""

    parts: ClassVar[dict[str, str]] = {
        "vision": r"^model\.visual\.(?!merger|deepstack_merger)",
        "projector": r"^model\.visual\.(merger|deepstack_merger)",
        "language": r"^model\.language_model\.",
    }
    tower_reads = ("pooler_output", "deepstack_features")  # the projector is a part of the tower

    def image_features(self, pixels: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        """Features [sum K, D], and those of earlier layers where the model has deepstack."""
        out = self.hf.model.get_image_features(**pixels)  # type: ignore[union-attr, operator]
        deep = getattr(out, "deepstack_features", None)
        further = {"deepstack_visual_embeds": [torch.cat(list(f)) for f in deep]} if deep else {}
        return torch.cat(list(out.pooler_output)), further

    def embed(self, ids: Tensor, pixels: dict[str, Tensor], is_image: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """See ``VLM.embed``; the decoder is also told which tokens the earlier layers' features belong to."""
        embeds, further = super().embed(ids, pixels, is_image)
        return embeds, further | {"visual_pos_masks": is_image} if further else further

    def packed(self, further: dict[str, Any], packing: Packing) -> dict[str, Any]:
        """See ``VLM.packed``; packing keeps the order of images, so only the mask of their tokens moves."""
        return further | {"visual_pos_masks": packing.put(further["visual_pos_masks"], False)} if further else further


def build(path: str, codec: Codec | None, *, min_pixels: int = 0, max_pixels: int = 0, **weights: Any) -> UfoModel:
    """The model in a Hugging Face folder or Hub id.

    Args:
        path: folder or Hub id.
        codec: None for a base without our tokens: they are added in memory.
        min_pixels: of an image after resizing; 0: the base's own.
        max_pixels: likewise. A cell of 28x28 (Qwen3-VL: 32x32) is one token.
        weights: passed to ``from_pretrained`` (dtype, quantization_config, ...).
    """
    hf = AutoModelForImageTextToText.from_pretrained(path, attn_implementation="sdpa", **weights)
    processor = AutoProcessor.from_pretrained(path)
    options = {"min_pixels": min_pixels, "max_pixels": max_pixels}
    return UfoModel.assemble(QwenVL(hf), processor, QwenVLProcessor, codec, options)


def tiny(text: Text, sizes: Sizes, out: Path, *, kind: Literal["qwen2_5_vl", "qwen3_vl"] = "qwen2_5_vl") -> None:
    """A small random Qwen2.5-VL (window attention in the tower) or Qwen3-VL (deepstack, tied embeddings)."""
    words = text(
        image_token="<|image_pad|>",
        video_token="<|video_pad|>",
        vision_start_token="<|vision_start|>",
        vision_end_token="<|vision_end|>",
    )
    common: dict[str, Any] = {
        "image_token_id": words.convert_tokens_to_ids("<|image_pad|>"),
        "video_token_id": words.convert_tokens_to_ids("<|video_pad|>"),
        "vision_start_token_id": words.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": words.convert_tokens_to_ids("<|vision_end|>"),
    }
    half = sizes.width // sizes.heads // 2
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [half - half // 4 * 2, half // 4, half // 4]}
    text_config = decoder(words, sizes) | {"rope_parameters": rope}
    vision: dict[str, Any] = {
        "depth": sizes.vision_layers,
        "hidden_size": sizes.width,
        "intermediate_size": sizes.mlp,
        "num_heads": sizes.heads,
        "patch_size": sizes.patch,
        "out_hidden_size": sizes.width,
        "initializer_range": sizes.width**-0.5,
    }
    model: PreTrainedModel
    if kind == "qwen2_5_vl":
        vision |= {"window_size": 4 * sizes.patch, "fullatt_block_indexes": [sizes.vision_layers - 1]}
        config = Qwen2_5_VLConfig(text_config=text_config, vision_config=vision, **common)
        model, positions = Qwen2_5_VLForConditionalGeneration(config), None
    else:
        vision |= {
            "num_position_embeddings": (sizes.image_size // sizes.patch) ** 2,
            "deepstack_visual_indexes": [0],
        }
        text_config |= {"head_dim": 2 * half}
        deep = Qwen3VLConfig(text_config=text_config, vision_config=vision, **common, tie_word_embeddings=True)
        model = Qwen3VLForConditionalGeneration(deep)
        positions = model.model.visual.pos_embed.weight
    cell = 2 * sizes.patch
    budget = {"shortest_edge": 4 * cell**2, "longest_edge": 4 * sizes.image_size**2}
    image = Qwen2VLImageProcessor(patch_size=sizes.patch, size=budget)
    made, video = {
        "qwen2_5_vl": (Qwen2_5_VLProcessor, Qwen2VLVideoProcessor),
        "qwen3_vl": (Qwen3VLProcessor, Qwen3VLVideoProcessor),
    }[kind]
    chat = CHAT.replace("<image>", "<|vision_start|><|image_pad|><|vision_end|>")
    processor = made(image, words, video(patch_size=sizes.patch, size=budget), chat_template=chat)
    write(model, processor, positions, out)
