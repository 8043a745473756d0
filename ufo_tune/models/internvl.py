"""Family ``internvl``: HF ``InternVLForConditionalGeneration``, unmodified (InternVL2.5, 3, 3.5; InternViT, any LM).

Tiles of 448 pixels, each 32x32 patches shuffled to 16x16 tokens; by default up to 12 and a thumbnail, as the bases were
trained. UFO trains on 448, 896 (``tiles: 2x2``) and 1344 (``3x3``), without thumbnail and with ``aspect: warp``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import (
    AutoProcessor,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVideoProcessor,
    InternVLVisionConfig,
    LlamaConfig,
    Qwen2Config,
)
from transformers import InternVLProcessor as HFInternVLProcessor

from ufo_tune.core.codec import Codec
from ufo_tune.core.types import View
from ufo_tune.models.base import VLM
from ufo_tune.models.tiles import Aspect, TiledProcessor
from ufo_tune.models.tiny import CHAT, Sizes, Text, decoder, write
from ufo_tune.models.ufo import UfoModel


class InternVLProcessor(TiledProcessor):
    """Tokens and pixels of square tiles, between ``<img>`` and ``</img>``."""

    def __init__(
        self, hf: Any, codec: Codec, *, aspect: Aspect = "keep", tiles: int | str = 12, thumbnail: bool = True
    ) -> None:
        self.image_token = hf.image_token
        if "<|im_end|>" in hf.tokenizer.get_vocab():  # InternLM2's own end token ends a text, not a turn
            self.end_token = "<|im_end|>"
        cells = round(hf.image_seq_length**0.5)
        side = int(hf.image_processor.size["height"])
        super().__init__(hf, codec, grid=(cells, cells), side=side, aspect=aspect, tiles=tiles, thumbnail=thumbnail)

    def image_text(self, views: Sequence[View]) -> str:
        """All tiles between one pair of tokens, without separators."""
        return f"{self.hf.start_image_token}{super().image_text(views)}{self.hf.end_image_token}"


class InternVL(VLM):
    """Weights of the family."""


def build(
    path: str,
    codec: Codec | None,
    *,
    aspect: Aspect = "keep",
    tiles: int | str = 12,
    thumbnail: bool = True,
    **weights: Any,
) -> UfoModel:
    """The model in a Hugging Face folder or Hub id.

    Args:
        path: folder or Hub id.
        codec: None for a base without our tokens: they are added in memory.
        aspect: ``keep`` pads to the canvas, ``warp`` stretches (InternVL's own way, and UFO's).
        tiles: at most so many, or ``"rows x columns"``; see ``models.tiles``.
        thumbnail: show the whole image once more where it has more than one tile.
        weights: passed to ``from_pretrained`` (dtype, quantization_config, ...).
    """
    hf = InternVLForConditionalGeneration.from_pretrained(path, attn_implementation="sdpa", **weights)
    processor = AutoProcessor.from_pretrained(path)
    options = {"aspect": aspect, "tiles": tiles, "thumbnail": thumbnail}
    return UfoModel.assemble(InternVL(hf), processor, InternVLProcessor, codec, options)


TINY_KINDS = ("internvl3", "internvl2_5")


def tiny(text: Text, sizes: Sizes, out: Path, *, kind: str = "internvl3") -> None:
    """A small random InternVL: InternViT tower; Qwen2 decoder with tied embeddings, or InternLM2's as Llama."""
    words = text(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    vision = InternVLVisionConfig(
        hidden_size=sizes.width,
        intermediate_size=sizes.mlp,
        num_hidden_layers=sizes.vision_layers,
        num_attention_heads=sizes.heads,
        image_size=sizes.image_size,
        patch_size=sizes.patch,
        attention_bias=True,
    )
    shape = decoder(words, sizes)
    language = {
        "internvl3": Qwen2Config(**shape, tie_word_embeddings=True),
        "internvl2_5": LlamaConfig(**shape, tie_word_embeddings=False),
    }[kind]
    tokens = (sizes.image_size // sizes.patch // 2) ** 2
    config = InternVLConfig(
        vision_config=vision,
        text_config=language,
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=tokens,
        tie_word_embeddings=language.tie_word_embeddings,
    )
    side = {"height": sizes.image_size, "width": sizes.image_size}
    processor = HFInternVLProcessor(
        GotOcr2ImageProcessor(size=side),
        words,
        InternVLVideoProcessor(size=side),
        image_seq_length=tokens,
        chat_template=CHAT.replace("<image>", "<IMG_CONTEXT>"),
    )
    model = InternVLForConditionalGeneration(config)
    write(model, processor, model.model.vision_tower.embeddings.position_embeddings[0, 1:], out)
