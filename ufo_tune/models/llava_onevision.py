"""Family ``llava_onevision``: HF ``LlavaOnevisionForConditionalGeneration``, unmodified (SigLIP tower, Qwen2).

Any resolution: the whole image as one square, then its tiles joined to one map from which the padding is cut, made
coarser where it has more than nine tiles' tokens, every row of it ended by a newline token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from transformers import (
    AutoProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionVideoProcessor,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers import LlavaOnevisionProcessor as HFLlavaOnevisionProcessor
from transformers.image_processing_utils import select_best_resolution

from ufo_tune.core.codec import Codec
from ufo_tune.core.types import View
from ufo_tune.core.views import letterbox
from ufo_tune.errors import ConfigError
from ufo_tune.models.base import VLM
from ufo_tune.models.processor import VLMProcessor, join_padded
from ufo_tune.models.tiny import CHAT, Sizes, Text, decoder, write
from ufo_tune.models.ufo import UfoModel


class LlavaOnevisionProcessor(VLMProcessor):
    """Tokens and pixels of one image at any resolution; the pixels are HF's own work."""

    def __init__(self, hf: Any, codec: Codec, *, tiles: int = 36) -> None:
        self.image_token = hf.image_token
        super().__init__(hf, codec)
        self.side = int(hf.image_processor.size["height"])
        self.cells = math.isqrt(hf.num_image_tokens)
        self.resolutions = resolutions(hf.image_processor.image_grid_pinpoints, self.side, tiles)
        hf.image_processor.image_grid_pinpoints = self.resolutions
        self.most = int(hf.vision_aspect_ratio.removeprefix("anyres_max_"))  # tiles' worth of tokens

    def plan(self, size: tuple[int, int]) -> tuple[View, ...]:
        """The whole image, which is no part of the map, and the map.

        Source:
            HF's ``pack_image_features`` and ``unpad_image``, whose rounding this repeats.
        """
        height, width = size
        best = select_best_resolution(list(size), self.resolutions)
        rows, cols = best[0] // self.side, best[1] // self.side
        x0, y0, x1, y1 = letterbox(size, rows, cols)
        h, w = rows * self.cells, cols * self.cells
        cell = (x1 - x0) / w  # original pixels
        if width / height > w / h:
            cut = (h - int(round(height * (w / width), 7))) // 2
            y0, y1, h = y0 + cut * cell, y1 - cut * cell, h - 2 * cut
        else:
            cut = (w - int(round(width * (h / height), 7))) // 2
            x0, x1, w = x0 + cut * cell, x1 - cut * cell, w - 2 * cut
        ratio = math.sqrt(h * w / (self.most * self.cells**2))
        if ratio > 1.1:
            h, w = int(h // ratio), int(w // ratio)
        whole = View((0.0, 0.0, float(width), float(height)), (self.cells, self.cells), thumbnail=True)
        return (whole, View((x0, y0, x1, y1), (h, w), newline=True))

    def target_size(self, views: Sequence[View]) -> tuple[int, int]:
        """The map in the tower's resolution."""
        h, w = self.grid(views)
        patch = self.side // self.cells
        return h * patch, w * patch

    def pixels(self, image: np.ndarray, views: Sequence[View]) -> dict[str, Tensor]:
        """``pixel_values`` [1, n, 3, side, side] and ``image_sizes`` [1, 2]."""
        found = self.hf.image_processor(images=[image], return_tensors="pt", input_data_format="channels_last")
        return {name: found[name] for name in ("pixel_values", "image_sizes")}

    def tower_rows(self, pixels: dict[str, Tensor]) -> int:
        """Tiles, the whole image among them."""
        return pixels["pixel_values"].shape[1]

    def join_pixels(self, pixels: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """[B, most, 3, side, side]; HF knows from ``image_sizes`` how many are real."""
        return join_padded(pixels)


def resolutions(known: Sequence[Sequence[int]], side: int, tiles: int) -> list[list[int]]:
    """The resolutions of a base, (H, W) pixels, that have at most ``tiles`` tiles.

    Raises:
        ConfigError: none has.
    """
    found = [list(r) for r in known if r[0] * r[1] <= tiles * side * side]
    if not found:
        raise ConfigError(f"model.options.tiles: no resolution of the base has so few (got {tiles}); 1 is least")
    return found


class LlavaOnevision(VLM):
    """Weights of the family."""

    tower_reads = ("hidden_states",)
    parts = VLM.parts | {"projector": r"^model\.(multi_modal_projector\.|image_newline$)"}


def build(path: str, codec: Codec | None, *, tiles: int = 36, **weights: Any) -> UfoModel:
    """The model in a Hugging Face folder or Hub id.

    Args:
        path: folder or Hub id.
        codec: None for a base without our tokens: they are added in memory.
        tiles: of the base's resolutions only those with at most so many tiles are used.
        weights: passed to ``from_pretrained`` (dtype, quantization_config, ...).
    """
    hf = LlavaOnevisionForConditionalGeneration.from_pretrained(path, attn_implementation="sdpa", **weights)
    processor = AutoProcessor.from_pretrained(path)
    model = UfoModel.assemble(LlavaOnevision(hf), processor, LlavaOnevisionProcessor, codec, {"tiles": tiles})
    hf.config.image_grid_pinpoints = processor.image_processor.image_grid_pinpoints
    return model


def tiny(text: Text, sizes: Sizes, out: Path) -> None:
    """A small random LLaVA-OneVision: SigLIP tower, Qwen2 decoder, up to 3x3 tiles."""
    words = text(image_token="<image>", video_token="<video>")
    side = sizes.image_size
    vision = SiglipVisionConfig(
        hidden_size=sizes.width,
        intermediate_size=sizes.mlp,
        num_hidden_layers=sizes.vision_layers,
        num_attention_heads=sizes.heads,
        image_size=side,
        patch_size=sizes.patch,
        vision_use_head=False,
    )
    known = [[r * side, c * side] for r in range(1, 4) for c in range(1, 4)]
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=Qwen2Config(**decoder(words, sizes), tie_word_embeddings=False),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=known,
        vision_aspect_ratio="anyres_max_4",
    )
    size = {"height": side, "width": side}
    processor = HFLlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=known),
        words,
        LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=(side // sizes.patch) ** 2,
        vision_feature_select_strategy="full",
        chat_template=CHAT,
        vision_aspect_ratio="anyres_max_4",
    )
    model = LlavaOnevisionForConditionalGeneration(config)
    write(model, processor, model.model.vision_tower.embeddings.position_embedding.weight, out)
