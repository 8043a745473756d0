"""Family ``llava``: HF ``LlavaForConditionalGeneration``, unmodified (CLIP or SigLIP tower, MLP projector, any LM).

One square view at the tower's resolution. The aspect ratio is kept by padding with the tower's mean colour
(``aspect: keep``); ``aspect: warp`` stretches to the square, as the released UFO weights were trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, LlavaForConditionalGeneration

from ufo_tune.core.codec import Codec
from ufo_tune.core.types import View
from ufo_tune.core.views import letterbox
from ufo_tune.models.base import VLM, VLMProcessor
from ufo_tune.models.ufo import UfoModel

CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}USER: {{ m['content'] }} "
    "{% elif m['role'] == 'assistant' %}ASSISTANT: {{ m['content'] }}{{ eos_token }}"
    "{% else %}{{ m['content'] }} {% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""LLaVA-1.5's dialogue, for plain text content (the placeholder is put where the wording says, not always first)."""


class LlavaProcessor(VLMProcessor):
    """Tokens and pixels of one square view."""

    image_token = "<image>"

    def __init__(self, hf: Any, codec: Codec, *, aspect: Literal["keep", "warp"] = "keep") -> None:
        super().__init__(hf.tokenizer, CHAT_TEMPLATE, codec)
        self.hf = hf
        self.aspect = aspect
        image = hf.image_processor
        crop = image.crop_size if getattr(image, "do_center_crop", False) else image.size
        self.side = int(crop.get("height", crop.get("shortest_edge", 0)))
        self.patch = int(hf.patch_size)
        self.mean = np.asarray(image.image_mean, dtype=np.float32)
        self.std = np.asarray(image.image_std, dtype=np.float32)

    def plan(self, size: tuple[int, int]) -> tuple[View, ...]:
        """One view over the image, letterboxed to a square unless ``aspect`` is ``warp``."""
        cells = self.side // self.patch
        box = letterbox(size) if self.aspect == "keep" else (0.0, 0.0, float(size[1]), float(size[0]))
        return (View(box=box, grid=(cells, cells)),)

    def target_size(self, views: Sequence[View]) -> tuple[int, int]:
        """The tower's own resolution."""
        return self.side, self.side

    def pixels(self, image: np.ndarray, views: Sequence[View]) -> dict[str, Tensor]:
        """``pixel_values`` [1, 3, side, side]."""
        x0, y0, x1, y1 = views[0].box
        side, (height, width) = self.side, image.shape[:2]
        scale_x, scale_y = side / (x1 - x0), side / (y1 - y0)
        inner = (max(1, round(width * scale_x)), max(1, round(height * scale_y)))
        resized = Image.fromarray(image).resize(inner, Image.Resampling.BICUBIC)
        canvas = np.empty((side, side, 3), dtype=np.float32)
        canvas[:] = self.mean * 255
        left, top = round(-x0 * scale_x), round(-y0 * scale_y)
        canvas[top : top + inner[1], left : left + inner[0]] = np.asarray(resized)[: side - top, : side - left]
        values = (canvas / 255 - self.mean) / self.std
        return {"pixel_values": torch.from_numpy(values.transpose(2, 0, 1).copy())[None]}  # [1, 3, side, side]

    def save(self, path: Path) -> None:
        """The HF processor's own files."""
        self.hf.save_pretrained(path)


class Llava(VLM):
    """Weights of the family."""

    def image_features(self, pixels: dict[str, Tensor]) -> Tensor:
        """[B * K, D], by HF's own feature selection (layer and strategy of the config)."""
        out = self.hf.model.get_image_features(pixel_values=pixels["pixel_values"])  # type: ignore[union-attr, operator]
        features = getattr(out, "pooler_output", out)
        return torch.cat(list(features)) if not isinstance(features, Tensor) else features.flatten(0, -2)


def build(path: str, codec: Codec | None, *, aspect: Literal["keep", "warp"] = "keep", **weights: Any) -> UfoModel:
    """The model in a Hugging Face folder or Hub id.

    Args:
        path: folder or Hub id.
        codec: None for a base without our tokens: they are added in memory.
        aspect: ``keep`` pads to a square, ``warp`` stretches.
        weights: passed to ``from_pretrained`` (dtype, quantization_config, ...).
    """
    hf = LlavaForConditionalGeneration.from_pretrained(path, attn_implementation="sdpa", **weights)
    processor = AutoProcessor.from_pretrained(path)
    return UfoModel.assemble(Llava(hf), processor, LlavaProcessor, codec, {"aspect": aspect})
