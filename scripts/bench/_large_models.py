"""Models of a published shape with random weights, made from config: no download, no file of weights."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers  # its parts are fetched at use, when ufo_tune has looked after torchvision
from torch import Tensor

from ufo_tune.core import answers
from ufo_tune.core.answers import Alternatives, Box, Grammar, Literal, OneOf, Slots
from ufo_tune.core.codec import Codec
from ufo_tune.core.grid import grid_points
from ufo_tune.core.types import Answer, Batch, Dialogue, Sample, Turn
from ufo_tune.models import tiny
from ufo_tune.models.base import VLM
from ufo_tune.models.internvl import InternVL, InternVLProcessor
from ufo_tune.models.llava import Llava, LlavaProcessor
from ufo_tune.models.processor import VLMProcessor
from ufo_tune.models.ufo import UfoModel

CODEC = Codec()
CLASSES = tuple(f"thing{n}" for n in range(80))
"""As many as COCO has; the question names them all."""
BOX: Grammar = (OneOf(CLASSES), Literal(","), Box())
NOTHING: Grammar = (OneOf(("background", "nothing")),)
"""Of two words, so that the model has to choose as it does where it may name a class too."""
MASK: Grammar = (Alternatives(((Literal("it is "), Slots(CODEC.slot_tokens)), (Slots(CODEC.slot_tokens),))),)


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model; ``base`` names the tiny model whose kind of config and processor it has."""

    name: str
    base: str
    vlm: type[VLM]
    processor: Callable[..., VLMProcessor]
    side: int  # of a tile in pixels
    tokens: int  # of a tile
    vocabulary: int
    width: int = 4096
    mlp: int = 11008
    layers: int = 32
    heads: int = 32
    kv_heads: int = 32
    patch: int = 14
    tower_width: int = 1024
    tower_mlp: int = 4096
    tower_layers: int = 24
    tower_heads: int = 16
    options: Mapping[str, Any] = field(default_factory=dict)


LLAVA = Shape("LLaVA-1.5-7B", "llava", Llava, LlavaProcessor, side=336, tokens=576, vocabulary=32_064)
INTERNVL = Shape(
    "InternVL2.5-8B", "internvl/internvl2_5", InternVL, InternVLProcessor, side=448, tokens=256, vocabulary=92_553,
    mlp=14_336, kv_heads=8, options={"thumbnail": False},
)  # fmt: skip
SMALL = Shape(
    "InternVL, scaled down", "internvl/internvl2_5", InternVL, InternVLProcessor, side=448, tokens=256,
    vocabulary=1_280, width=256, mlp=896, layers=2, heads=8, kv_heads=2, tower_width=64, tower_mlp=128, tower_layers=1,
    tower_heads=2, options={"thumbnail": False},
)  # fmt: skip
"""A layer's matrices have the proportions of the 8B model, and four queries share a key."""


class Weights:
    """Random weights of a shape; ``seeing`` gives the model for pictures of so many tiles."""

    def __init__(self, shape: Shape, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.shape = shape
        with tempfile.TemporaryDirectory() as folder:
            path = tiny.build(
                shape.base, Path(folder), image_size=shape.side, patch=shape.patch, integers=CODEC.num_bins,
                words=("detect", "where", "is", "it", "background", "nothing", "the", *CLASSES),
            )  # fmt: skip
            config: Any = transformers.AutoConfig.from_pretrained(path)
            self.processor: Any = transformers.AutoProcessor.from_pretrained(path)
        for part, sizes in ((config.text_config, self._decoder()), (config.vision_config, self._tower())):
            for name, value in sizes.items():
                setattr(part, name, value)
        torch.manual_seed(0)
        with torch.device(device):
            hf = transformers.AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa")
        self.vlm = shape.vlm(hf).eval()

    def _decoder(self) -> dict[str, Any]:
        s = self.shape
        return {
            "hidden_size": s.width, "intermediate_size": s.mlp, "num_hidden_layers": s.layers,
            "num_attention_heads": s.heads, "num_key_value_heads": s.kv_heads, "head_dim": s.width // s.heads,
            "vocab_size": s.vocabulary, "initializer_range": s.width**-0.5,
        }  # fmt: skip

    def _tower(self) -> dict[str, Any]:
        s = self.shape
        return {
            "hidden_size": s.tower_width, "intermediate_size": s.tower_mlp, "num_hidden_layers": s.tower_layers,
            "num_attention_heads": s.tower_heads,
        }  # fmt: skip

    def seeing(self, tiles: int) -> UfoModel:
        """The model for pictures of ``tiles`` x ``tiles`` tiles."""
        options = {**self.shape.options, "aspect": "warp", "tiles": f"{tiles}x{tiles}"}
        return UfoModel.assemble(self.vlm, self.processor, self.shape.processor, CODEC, options)


def asked(built: UfoModel, replies: Sequence[str | None], tiles: int, *, rows: int = 1, points: bool = True) -> Batch:
    """Rows with so many answers each, on the model's device.

    Args:
        built: the model.
        replies: the answers of a row; None where the model is to write it.
        tiles: of the picture, to a side.
        rows: of the batch, all alike.
        points: answers stand at grid points, and the question names the classes; else it names one.
    """
    side = tiles * built.processor.side  # type: ignore[attr-defined]
    picture = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    across = max(1, round(len(replies) ** 0.5))
    places = grid_points(-(-len(replies) // across), across)[: len(replies)].tolist()
    question = f"detect {', '.join(CLASSES)}" if points else f"where is the {CLASSES[0]}"
    said = tuple(Answer(r, point=(p[0], p[1]) if points else None) for r, p in zip(replies, places, strict=True))
    samples = (Sample(picture, (side, side), "detection"),) * len(replies)
    batch = built.processor.batch(
        [Dialogue((Turn(question, said),))] * rows, [picture] * rows, [samples] * rows, replies[0] is not None,
        [(1,) * len(replies)] * rows,
    )  # fmt: skip
    dtype = next(built.vlm.hf.parameters()).dtype
    batch.pixels = {k: v.to(dtype) if v.is_floating_point() else v for k, v in batch.pixels.items()}
    return batch.to(built.device)


def taught(count: int, positive: int) -> list[str]:
    """Answers to train on: so many boxes, spread over the others, which say "background"."""
    numbers = np.random.default_rng(1).integers(0, CODEC.num_bins + 1, (count, 4)).tolist()
    boxes = {round(n * count / positive) for n in range(positive)}
    return [
        f"{CLASSES[n % len(CLASSES)]},{answers.box(row, CODEC)}" if n in boxes else "background"
        for n, row in enumerate(numbers)
    ]


def spread(count: int, positive: int) -> list[Grammar]:
    """Grammars of ``count`` answers, so many of them boxes."""
    boxes = {round(n * count / positive) for n in range(positive)}
    return [BOX if n in boxes else NOTHING for n in range(count)]


def states_apart(one: Tensor, other: Tensor) -> float:
    """Distance of two tensors over the size of the first."""
    return float((one.float() - other.float()).norm() / one.float().norm())
