"""Family ``gemma3``: HF ``Gemma3ForConditionalGeneration``, unmodified (SigLIP tower, 256 tokens a view, Gemma 3).

One square of 896 pixels, or tiles of it. Most layers of Gemma 3 look back a window of positions only; rows that reach
beyond it are refused, so every layer can follow the one rule of what sees what.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoProcessor,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3TextConfig,
    SiglipVisionConfig,
)
from transformers import Gemma3Processor as HFGemma3Processor

from ufo_tune.core.codec import Codec
from ufo_tune.core.types import View
from ufo_tune.errors import ModelError
from ufo_tune.models.base import VLM
from ufo_tune.models.tiles import Aspect, TiledProcessor
from ufo_tune.models.tiny import CHAT, Sizes, Text, decoder, write
from ufo_tune.models.ufo import UfoModel


class Gemma3Processor(TiledProcessor):
    """Tokens and pixels of square tiles, each between its own pair of tokens."""

    end_token = "<end_of_turn>"

    def __init__(self, hf: Any, codec: Codec, *, aspect: Aspect = "keep", tiles: int | str = 1) -> None:
        self.image_token = hf.tokenizer.image_token
        cells = round(hf.image_seq_length**0.5)
        side = int(hf.image_processor.size["height"])
        super().__init__(hf, codec, grid=(cells, cells), side=side, aspect=aspect, tiles=tiles)

    def image_text(self, views: Sequence[View]) -> str:
        """Gemma's own sequence, once for each tile."""
        return str(self.hf.full_image_sequence) * len(views)


class Gemma3(VLM):
    """Weights of the family."""

    def decode(self, embeds: Tensor, mask: Tensor, positions: Tensor, cache: Any = None, **kwargs: Any) -> Tensor:
        """States [B, T, D] after the final norm; see ``VLM.decode``.

        Raises:
            ModelError: a row is longer than the window of the local layers.
        """
        window = int(self.text_model.config.sliding_window)  # type: ignore[union-attr, arg-type]
        longest = int(positions.max()) + 1
        if longest > window:
            raise ModelError(
                f"gemma3: prompt and answer are longer than the window of its local layers (got {longest} positions, "
                f"window {window}); use fewer tiles or a shorter prompt"
            )
        both: Any = {"full_attention": mask, "sliding_attention": mask}
        return super().decode(embeds, both, positions, cache, **kwargs)


def build(path: str, codec: Codec | None, *, aspect: Aspect = "keep", tiles: int | str = 1, **weights: Any) -> UfoModel:
    """The model in a Hugging Face folder or Hub id.

    Args:
        path: folder or Hub id.
        codec: None for a base without our tokens: they are added in memory.
        aspect: ``keep`` pads to the canvas, ``warp`` stretches (Gemma's own way).
        tiles: at most so many, or ``"rows x columns"``; see ``models.tiles``. A tile takes 256 of 1024 positions.
        weights: passed to ``from_pretrained`` (dtype, quantization_config, ...).
    """
    hf = Gemma3ForConditionalGeneration.from_pretrained(path, attn_implementation="sdpa", **weights)
    processor = AutoProcessor.from_pretrained(path)
    return UfoModel.assemble(Gemma3(hf), processor, Gemma3Processor, codec, {"aspect": aspect, "tiles": tiles})


def tiny(text: Text, sizes: Sizes, out: Path) -> None:
    """A small random Gemma 3: SigLIP tower pooled 2x2, local and global layers in turn, tied embeddings."""
    words = text(
        image_token="<image_soft_token>",
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
        end_of_turn_token="<end_of_turn>",
    )
    vision = SiglipVisionConfig(
        hidden_size=sizes.width,
        intermediate_size=sizes.mlp,
        num_hidden_layers=sizes.vision_layers,
        num_attention_heads=sizes.heads,
        image_size=sizes.image_size,
        patch_size=sizes.patch,
        vision_use_head=False,
    )
    size = sizes.width // sizes.heads
    text_config = Gemma3TextConfig(
        **decoder(words, sizes) | {"initializer_range": 0.02},  # embeddings are multiplied by sqrt(D)
        head_dim=size,
        query_pre_attn_scalar=size,
        sliding_window=4096,
        layer_types=[("sliding_attention", "full_attention")[i % 2] for i in range(sizes.layers)],
    )
    tokens = (sizes.image_size // sizes.patch // 2) ** 2
    config = Gemma3Config(
        text_config=text_config,
        vision_config=vision,
        mm_tokens_per_image=tokens,
        boi_token_index=words.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=words.convert_tokens_to_ids("<end_of_image>"),
        image_token_index=words.convert_tokens_to_ids("<image_soft_token>"),
    )
    processor = HFGemma3Processor(
        Gemma3ImageProcessor(size={"height": sizes.image_size, "width": sizes.image_size}),
        words,
        chat_template=CHAT.replace("<image>", "<start_of_image>"),
        image_seq_length=tokens,
    )
    model = Gemma3ForConditionalGeneration(config)
    with torch.no_grad():  # HF starts it at zero: images would all look alike
        model.model.multi_modal_projector.mm_input_projection_weight.normal_(std=sizes.width**-0.5)
    write(model, processor, model.model.vision_tower.embeddings.position_embedding.weight, out)
