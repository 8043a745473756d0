"""The reference's two ways to let many answers see one prompt, at their best.

``copied``: keys and values of prompt and image are copied for each answer, and answers are a batch (the method's text).
``dense``: one row holds them all, and a dense float mask hides the others' keys (the reference's code: ufo.md 5.5).
Both are kinder than the original: keys have room from the start instead of being concatenated at every step, the mask
is made once instead of for every layer of every step, and attention is torch's fused one, which takes a float mask too.
As there, every step takes the softmax of the whole vocabulary for all answers, and an answer that has ended goes on.
``padded_terms`` is the dense way's training step (ufo.md 5.2): answers padded to the longest, the mask made of floats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from ufo_tune.core.sequence import visible
from ufo_tune.core.types import IGNORE, PAD, PROMPT, Batch, LossTerm
from ufo_tune.models.ufo import Inputs, UfoModel


class Reserved(DynamicLayer):
    """Keys and values with room for all that will come: growing copies nothing."""

    def __init__(self, keys: Tensor, values: Tensor, length: int) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values, self.length = keys, values, length

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write in place; give what is there so far."""
        start, self.length = self.length, self.length + key_states.shape[2]
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_seq_length(self) -> int:
        """Columns in use."""
        return self.length


@dataclass(slots=True)
class Begun:
    """A prefill of rows that are all alike."""

    layers: list[tuple[Tensor, Tensor]]  # [B, kv, P + N * h, d]
    hidden: Tensor  # [R, D] that predicts the first token of each answer
    prompt: int  # P
    heads: int  # h: <LOCAL> tokens of each answer, 0 or 1
    rows: int  # B
    answers: int  # N of each row; R = B * N


def begin(built: UfoModel, batch: Batch) -> Begun:
    """One pass of the whole rows, as both ways and this project do it."""
    cache = DynamicCache()
    states = built.decode(built.embed(batch), batch, cache)
    rows, width = batch.ids.shape
    prompt = int((batch.segment[0] == PROMPT).sum())
    answers = sum(batch.answer_counts[0])
    heads = (width - prompt) // answers
    at = prompt + torch.arange(answers, device=states.device) if heads else torch.tensor([prompt - 1])  # [N] or [1]
    hidden = states[:, at].expand(rows, answers, -1)  # [B, N, D]
    layers = [(layer.keys, layer.values) for layer in cache.layers]
    return Begun(layers, hidden.flatten(0, 1), prompt, heads, rows, answers)  # type: ignore[arg-type]


Way = Callable[[UfoModel, Begun, Tensor, int], Tensor]


def copied(built: UfoModel, begun: Begun, script: Tensor, end: int) -> Tensor:
    """States [R, X, D] that predict the tokens of ``script`` [R, X] (-1 padding)."""
    total, longest = script.shape
    used = begun.prompt + begun.heads
    layers: list[Any] = []
    while begun.layers:  # one after the other: the original goes where its copies are
        pair = []
        for states in begun.layers.pop(0):
            copies = states.new_empty(total, states.shape[1], used + longest, states.shape[3])
            by_row = copies.unflatten(0, (begun.rows, begun.answers))  # [B, N, kv, P + h + X, d]
            by_row[..., : begun.prompt, :] = states[:, None, :, : begun.prompt]
            if begun.heads:
                by_row[..., begun.prompt, :] = states[:, :, begun.prompt :].transpose(1, 2)  # [B, N, kv, d]
            pair.append(copies)
        layers.append(Reserved(*pair, used))
    cache = Cache(layers=layers)

    def feed(tokens: Tensor, position: int) -> Tensor:
        place = torch.full_like(tokens[:, None], position)[None]  # [1, R, 1]
        out = built.vlm.decode(built.vlm.embed_text(tokens[:, None]), None, place, cache)  # type: ignore[arg-type]
        return out[:, 0]  # [R, 1, D] -> [R, D]

    return _written(built, begun, script, end, feed)


def dense(built: UfoModel, begun: Begun, script: Tensor, end: int) -> Tensor:
    """States [R, X, D] that predict the tokens of ``script`` [R, X] (-1 padding), of one row."""
    total, longest = script.shape
    blocks = begun.heads + longest
    layers: list[Any] = []
    while begun.layers:
        pair = []
        for states in begun.layers.pop(0):
            room = states.new_empty(1, states.shape[1], begun.prompt + total * blocks, states.shape[3])
            room[:, :, : states.shape[2]] = states
            pair.append(room)
        layers.append(Reserved(*pair, begun.prompt + total * begun.heads))
    cache = Cache(layers=layers)
    kind = begun.hidden.dtype
    others = torch.full((total, total), torch.finfo(kind).min, dtype=kind, device=script.device).fill_diagonal_(0)
    mask = torch.cat([others.new_zeros(total, begun.prompt), others.repeat(1, blocks)], 1)  # [N, P + N * blocks]

    def feed(tokens: Tensor, position: int) -> Tensor:
        step = position - begun.prompt  # blocks of keys before this one's
        seen = mask[:, : begun.prompt + total * (step + 1)]
        place = torch.full_like(tokens[None], position)[None]  # [1, 1, N]
        return built.vlm.decode(built.vlm.embed_text(tokens[None]), seen[None, None], place, cache)[0]

    return _written(built, begun, script, end, feed)


WAYS: dict[str, Way] = {"copied": copied, "dense": dense}


def _written(built: UfoModel, begun: Begun, script: Tensor, end: int, feed: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Step by step, until all have ended."""
    hidden, states = begun.hidden, []
    for step in range(script.shape[1]):
        states.append(hidden)
        built.vlm.logits(hidden).float().softmax(-1).max(-1)  # the choice, which the script then overrules
        if step + 1 < script.shape[1]:
            tokens = torch.where(script[:, step] >= 0, script[:, step], end)
            hidden = feed(tokens, begun.prompt + begun.heads + step)
    return torch.stack(states, 1)


def padded_terms(built: UfoModel, batch: Batch) -> dict[str, LossTerm]:
    """The token loss of one row as the dense layout has it."""
    segment = batch.segment[0]
    prompt, count = int((segment == PROMPT).sum()), int(segment.max()) + 1
    lengths = torch.bincount(segment[prompt:], minlength=count)  # [N]
    longest = int(lengths.max())
    offset = torch.arange(longest, device=segment.device)
    real = offset < lengths[:, None]  # [N, L]
    source = (prompt + (lengths.cumsum(0) - lengths)[:, None] + offset).where(real, 0).flatten()  # [N * L]
    source = torch.cat([torch.arange(prompt, device=segment.device), source])  # [P + N * L]
    inputs, kept = built.embed(batch), torch.cat([real.new_ones(prompt), real.flatten()])
    lanes = torch.arange(count, device=segment.device).repeat_interleave(longest)
    layout = torch.cat([segment[:prompt], lanes]).where(kept, PAD)[None]  # [1, P + N * L]
    is_image = torch.zeros_like(layout, dtype=torch.bool).index_fill_(1, batch.image_index[0], True)
    seen = visible(layout, is_image, batch.causal_image)
    kind = inputs.embeds.dtype
    mask = torch.zeros(seen.shape, dtype=kind, device=seen.device).masked_fill_(~seen, torch.finfo(kind).min)
    starts = prompt + longest * torch.arange(count, device=segment.device)
    local = None if inputs.local is None else replace(inputs.local, position=starts)
    positions = batch.positions[..., source].where(kept, prompt)
    moved = Inputs(inputs.embeds[:, source], mask, local, inputs.further)
    hidden = built.decode(moved, replace(batch, positions=positions))  # [1, P + N * L, D]
    logits = built.vlm.logits(hidden[:, prompt:]).float()  # of all answers: the prompt's are spared, as there
    wanted = batch.labels[0, source].where(kept, IGNORE)[prompt:].roll(-1)
    wanted[longest - 1 :: longest] = IGNORE  # what follows is another answer
    loss = F.cross_entropy(logits[0], wanted, ignore_index=IGNORE, reduction="sum")
    return {"token": LossTerm(loss, (batch.labels != IGNORE).sum().float())}
