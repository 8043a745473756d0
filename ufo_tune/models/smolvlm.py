"""Family ``smolvlm``: SmolVLM and Idefics3 (HF ``Idefics3ForConditionalGeneration``) and SmolVLM2, unmodified.

SigLIP tower, patches shuffled 4x4 (or 3x3), a small LM. Square tiles, each named by its row and column, then the whole
image. SmolVLM2's processor needs ``pip install num2words``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    LlamaConfig,
)

from ufo_tune.core.codec import Codec
from ufo_tune.core.types import View
from ufo_tune.models.base import VLM
from ufo_tune.models.tiles import Aspect, TiledProcessor, fresh
from ufo_tune.models.tiny import CHAT, Sizes, Text, decoder, write
from ufo_tune.models.ufo import UfoModel

_WHOLE = "<global-img>"


class SmolVLMProcessor(TiledProcessor):
    """Tokens and pixels of square tiles and the whole image."""

    longest = 6  # <row_6_col_6> is the last name that the tokenizers know
    end_token = "<end_of_utterance>"

    def __init__(
        self, hf: Any, codec: Codec, *, aspect: Aspect = "keep", tiles: int | str = 16, thumbnail: bool = True
    ) -> None:
        self.image_token = hf.image_token
        cells = round(hf.image_seq_len**0.5)
        side = int(hf.image_processor.max_image_size["longest_edge"])
        super().__init__(hf, codec, grid=(cells, cells), side=side, aspect=aspect, tiles=tiles, thumbnail=thumbnail)

    def image_text(self, views: Sequence[View]) -> str:
        """Every tile after its name, a line for each row; the whole image last."""
        fake, one = self.hf.fake_image_token, self.image_token * (self.cells[0] * self.cells[1])
        if len(views) == 1:
            return f"{fake}{_WHOLE}{one}{fake}"
        rows, cols = self.arrangement(views)
        lines = ["".join(f"{fake}<row_{r}_col_{c}>{one}" for c in range(1, cols + 1)) for r in range(1, rows + 1)]
        whole = f"\n{fake}{_WHOLE}{one}" if self.thumbnail else ""
        return "\n".join(lines) + f"\n{whole}{fake}"

    def join_pixels(self, pixels: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """[B, most, 3, side, side]; HF leaves out views that are zero everywhere, which no painted tile is."""
        tiles = [p["tiles"] for p in pixels]
        if not tiles:
            return {}
        values = fresh(len(tiles), max(map(len, tiles)), 3, self.side, self.side)
        for own, row in zip(tiles, values, strict=True):
            self.normalise(own, row[: len(own)])
            row[len(own) :] = 0
        return {"pixel_values": values}


class SmolVLM(VLM):
    """Weights of the family."""

    parts: ClassVar[dict[str, str]] = {
        "vision": r"^model\.vision_model\.",
        "projector": r"^model\.connector\.",
        "language": r"^model\.text_model\.",
    }
    lora_targets = r"model\.text_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"

    @property
    def text_model(self) -> nn.Module:
        """The decoder."""
        model: nn.Module = self.hf.model.text_model  # type: ignore[union-attr, assignment]
        return model


def build(
    path: str,
    codec: Codec | None,
    *,
    aspect: Aspect = "keep",
    tiles: int | str = 16,
    thumbnail: bool = True,
    **weights: Any,
) -> UfoModel:
    """The model in a Hugging Face folder or Hub id.

    Args:
        path: folder or Hub id.
        codec: None for a base without our tokens: they are added in memory.
        aspect: ``keep`` pads to the canvas, ``warp`` stretches.
        tiles: at most so many, or ``"rows x columns"``; see ``models.tiles``.
        thumbnail: show the whole image once more where it has more than one tile.
        weights: passed to ``from_pretrained`` (dtype, quantization_config, ...).
    """
    hf = AutoModelForImageTextToText.from_pretrained(path, attn_implementation="sdpa", **weights)
    processor = AutoProcessor.from_pretrained(path)
    options = {"aspect": aspect, "tiles": tiles, "thumbnail": thumbnail}
    return UfoModel.assemble(SmolVLM(hf), processor, SmolVLMProcessor, codec, options)


def tiny(text: Text, sizes: Sizes, out: Path) -> None:
    """A small random SmolVLM: SigLIP tower, Llama decoder."""
    names = [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
    words = text(
        fake_image_token="<fake_token_around_image>",
        end_of_utterance_token="<end_of_utterance>",
        global_image_token="<global-img>",
        **{name.strip("<>"): name for name in names},
    )
    vision = {
        "hidden_size": sizes.width,
        "intermediate_size": sizes.mlp,
        "num_hidden_layers": sizes.vision_layers,
        "num_attention_heads": sizes.heads,
        "image_size": sizes.image_size,
        "patch_size": sizes.patch,
        "initializer_range": sizes.width**-0.5,
    }
    config = Idefics3Config(
        vision_config=vision,
        text_config=LlamaConfig(**decoder(words, sizes), tie_word_embeddings=False),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        tie_word_embeddings=False,
        pad_token_id=words.pad_token_id,
    )
    side = {"longest_edge": sizes.image_size}
    processor = Idefics3Processor(
        Idefics3ImageProcessor(size={"longest_edge": 4 * sizes.image_size}, max_image_size=side),
        words,
        image_seq_len=(sizes.image_size // sizes.patch // 2) ** 2,
        chat_template=CHAT,
    )
    model = Idefics3ForConditionalGeneration(config)
    write(model, processor, model.model.vision_model.embeddings.position_embedding.weight, out)
