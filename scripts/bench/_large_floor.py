"""Operations and bytes that a result cannot be had without, counted from shapes, and the seconds they take at best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from _large_models import Shape

from ufo_tune.core.sequence import visible
from ufo_tune.core.types import IGNORE, Batch


@dataclass(frozen=True, slots=True)
class Machine:
    """What it does in a second at most."""

    operations: float
    bytes: float
    size: int  # of a number in bytes

    def seconds(self, operations: float, read: float) -> float:
        """The larger of computing and reading."""
        return max(operations / self.operations, read / self.bytes)


CORE = Machine(85e9, 17e9, 4)
"""As ``scripts/bench/machine.py`` measures one core of the machine of docs/performance.md, float32."""
H200 = Machine(989e12, 4.8e12, 2)
"""By its data sheet, bfloat16 without sparsity."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass of decoding."""

    tokens: int
    keys: int  # seen by all tokens together
    read: int  # keys that exist for them, those of the prompt included
    chosen: int  # answers whose next token is chosen after it
    columns: int  # of the head that are looked at
    masked: int = 0  # numbers of a float mask


def layer_weights(s: Shape) -> int:
    """Numbers in the matrices of a decoder layer."""
    keys = s.width // s.heads * s.kv_heads
    return 2 * s.width * (s.width + keys) + 3 * s.width * s.mlp


def tower_operations(s: Shape, tiles: int) -> int:
    """Of the vision tower and the projector, forward."""
    patches = (s.side // s.patch) ** 2
    matrices = 3 * s.patch**2 * s.tower_width
    matrices += s.tower_layers * (4 * s.tower_width**2 + 2 * s.tower_width * s.tower_mlp)
    attention = 4 * s.tower_layers * s.tower_width * patches
    joined = s.tower_width * patches // s.tokens  # width of what the projector is given
    return tiles * (patches * (2 * matrices + attention) + 2 * s.tokens * (joined + s.width) * s.width)


def step_operations(s: Shape, batch: Batch) -> int:
    """Of a LoRA step: forward, and backward without gradients of frozen weights. Adapters are left out, they are small.

    Attention counts pairs that the rule lets see each other; the head, supervised tokens.
    """
    tiles = sum(len(views) for views in batch.views)
    is_image = batch.ids.new_zeros(batch.ids.shape).scatter_(1, batch.image_index.clamp_min(0), 1).bool()
    pairs = int(visible(batch.segment, is_image, batch.causal_image).sum())
    linear = 2 * 2 * s.layers * layer_weights(s) * batch.ids.numel()
    attention = 3 * 4 * s.layers * s.width * pairs
    head = 2 * 2 * s.width * s.vocabulary * int((batch.labels != IGNORE).sum())
    return linear + attention + head + tower_operations(s, tiles)


def prefill_seconds(s: Shape, m: Machine, rows: int, tokens: int, tiles: int) -> float:
    """One pass of whole rows; attention counts a causal half."""
    layers = s.layers * (2 * layer_weights(s) * tokens + 2 * s.width * tokens**2)
    return m.seconds(rows * (layers + tower_operations(s, tiles)), s.layers * layer_weights(s) * m.size)


def decode_seconds(s: Shape, m: Machine, passes: Sequence[Pass], copied: int = 0) -> float:
    """All passes one after the other; ``copied`` tokens' keys and values are written first."""
    key = 2 * s.width // s.heads * s.kv_heads * m.size  # bytes of one token's keys and values in a layer
    weights = layer_weights(s)
    total = s.layers * copied * key / m.bytes
    for p in passes:
        layer = m.seconds(2 * weights * p.tokens, weights * m.size)
        layer += m.seconds(4 * s.width * p.keys, p.read * key + p.masked * m.size)
        total += s.layers * layer
        total += m.seconds(2 * s.width * p.columns * p.chosen, s.width * p.columns * m.size)
    return total


def copied_passes(s: Shape, answers: int, prompt: int, heads: int, longest: int) -> list[Pass]:
    """Of answers as a batch, each with the prompt's keys."""
    keys = [answers * (prompt + heads + step + 1) for step in range(longest - 1)]
    return [Pass(answers, k, k, answers, s.vocabulary) for k in keys]


def dense_passes(s: Shape, answers: int, prompt: int, heads: int, longest: int) -> list[Pass]:
    """Of answers as one row, hidden from each other by a mask."""
    keys = [prompt + answers * (heads + step + 1) for step in range(longest - 1)]
    return [Pass(answers, answers * k, k, answers, s.vocabulary, answers * k) for k in keys]
