"""Attention of many lanes to one prefix: keys and values of prompt and image exist once, each lane has only its own.

A *lane* is an answer that is being generated. A decoding step is one packed sequence of all lanes' new tokens
(sorted by row, then lane), so lanes may differ in how many they add. Attention is one softmax over prefix and own keys,
computed in two parts that are merged exactly. Registered with transformers as ``ufo_shared_prefix``; without the
keyword ``shared_prefix`` it is HF's own ``sdpa``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ufo_tune.errors import ModelError

NAME = "ufo_shared_prefix"
_SLACK = 16  # own keys grow by one part in so many: little slack, and long answers are not copied at every step
_SCORES_CPU, _SCORES = 1 << 20, 1 << 25  # scores of one matmul: bounds what a step needs on top of the cache


@dataclass(frozen=True, slots=True)
class Heads:
    """Where the lanes' first tokens (``<LOCAL>``, own question) stand in the rows of the prefill."""

    prompt: Tensor  # [B] tokens of each row's prompt
    row: Tensor  # [R] row of each lane, ascending
    index: Tensor  # [R, h] positions in the row; beyond ``count`` anything valid
    count: Tensor  # [R] own tokens of each lane


@dataclass(frozen=True, slots=True)
class Step:
    """One packed forward pass: n tokens of a stretch of L lanes over a stretch of B rows."""

    lanes: slice
    rows: slice
    lane: Tensor  # [n] lane of each token, counted within the stretch
    column: Tensor  # [n] its place among the lane's own keys
    by_row: Tensor | None  # [n] place in [B * most]; None: rows have equally many, in order
    by_lane: Tensor | None  # [n] place in [L * longest]; None: likewise
    most: int  # tokens of the row with most
    longest: int  # tokens of the lane with most
    width: int  # own keys in use, after the step
    seen: Tensor  # [L, 1, longest, 1, width] bool


class SharedPrefixCache(Cache):
    """Keys and values of a prefill, split: the prompts once per row, the rest once per lane.

    ``update`` splits on the first pass and returns what it got; later it appends and returns the lanes' own keys and
    values [L, kv, t, d] only.
    """

    def __init__(self, heads: Heads) -> None:
        super().__init__(layers=[])
        self.heads = heads
        self.row = heads.row  # [L]
        self.lengths = heads.count.clone()  # [L] own tokens
        self.prefix: list[tuple[Tensor, Tensor]] = []  # layers x [B, kv, P, d]
        self.own: list[tuple[Tensor, Tensor]] = []  # layers x [L, kv, capacity, d]
        longest = int(heads.prompt.max())
        columns = torch.arange(longest, device=heads.prompt.device)
        valid = columns < heads.prompt[:, None]  # [B, P]
        self.valid: Tensor | None = None if bool(valid.all()) else valid
        self.step: Step | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store new keys and values; see the class."""
        if self.step is None:
            parts = [self._split(states) for states in (key_states, value_states)]
            self.prefix.append((parts[0][0], parts[1][0]))
            self.own.append((parts[0][1], parts[1][1]))
            return key_states, value_states
        keys, values = self.own[layer_idx]
        if keys.shape[2] < self.step.width:
            keys = _grown(keys, self.step.width)
            self.own[layer_idx] = (keys, values)
            values = _grown(values, self.step.width)
            self.own[layer_idx] = (keys, values)
        keys, values = keys[self.step.lanes], values[self.step.lanes]
        for buffer, new in ((keys, key_states), (values, value_states)):
            buffer[self.step.lane, :, self.step.column] = new[0].transpose(0, 1)  # [kv, n, d] -> [n, kv, d]
        return keys[:, :, : self.step.width], values[:, :, : self.step.width]

    def begin(self, counts: Tensor, start: int, stop: int) -> Step:
        """Prepare a pass in which lane l of ``start``..``stop`` adds ``counts[l - start]`` >= 1 tokens."""
        device = counts.device
        row, lengths = self.row[start:stop], self.lengths[start:stop]
        first_row, last_row = row[[0, -1]].tolist()
        row = row - first_row
        rows = torch.zeros(last_row + 1 - first_row, dtype=torch.long, device=device).index_add(0, row, counts)
        longest, most, width, shortest, least = torch.stack(
            [counts.max(), rows.max(), (lengths + counts).max(), counts.min(), rows.min()]
        ).tolist()
        offsets = torch.arange(longest, device=device)
        lane, offset = (offsets < counts[:, None]).nonzero(as_tuple=True)  # [n], [n]
        first = (rows.cumsum(0) - rows)[row[lane]]  # [n] number of the row's first token
        by_row = row[lane] * most + torch.arange(len(lane), device=device) - first
        last = lengths[:, None] + offsets  # [L, longest] own columns up to here are visible
        seen = torch.arange(width, device=device) <= last[..., None]  # [L, longest, width]
        self.step = Step(
            lanes=slice(start, stop),
            rows=slice(first_row, last_row + 1),
            lane=lane,
            column=lengths[lane] + offset,
            by_row=None if least == most else by_row,
            by_lane=None if shortest == longest else lane * longest + offset,
            most=most,
            longest=longest,
            width=width,
            seen=seen[:, None, :, None],
        )
        self.lengths[start:stop] += counts
        return self.step

    def keep(self, lanes: Tensor) -> None:
        """Drop all lanes but these (ascending [L']), and rows that have none left."""
        self.lengths = self.lengths[lanes]
        width = int(self.lengths.max()) if len(lanes) else 0
        for layer, (keys, values) in enumerate(self.own):
            self.own[layer] = (keys[lanes, :, :width], values[lanes, :, :width])
        left, self.row = torch.unique(self.row[lanes], return_inverse=True)
        if len(left) < len(self.prefix[0][0]):
            self.valid = None if self.valid is None else self.valid[left]
            for layer, (keys, values) in enumerate(self.prefix):
                self.prefix[layer] = (keys[left], values[left])

    def release(self) -> None:
        """Free all keys and values."""
        self.prefix, self.own = [], []

    def numel(self) -> tuple[int, int]:
        """Elements held: of the prefix, and of the lanes' own."""
        return tuple(sum(t.numel() for pair in part for t in pair) for part in (self.prefix, self.own))  # type: ignore[return-value]

    def _split(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """[B, kv, T, d] -> [B, kv, P, d] and [R, kv, h, d], copied so that the whole can be freed."""
        heads = self.heads
        longest = int(heads.prompt.max())
        return states[:, :, :longest].clone(), states[heads.row[:, None], :, heads.index].transpose(1, 2).contiguous()


def _grown(states: Tensor, width: int) -> Tensor:
    """[L, kv, t, d] with room for ``width`` columns."""
    lanes, heads, used, size = states.shape
    grown = states.new_zeros(lanes, heads, width + width // _SLACK, size)
    grown[:, :, :used] = states
    return grown


def shared_prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    shared_prefix: SharedPrefixCache | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention of packed tokens to their row's prefix and their lane's own keys.

    Args:
        module: the attention layer; its ``layer_idx`` finds the prefix.
        query: [1, H, n, d].
        key: [L, kv, t, d], the lanes' own, as ``SharedPrefixCache.update`` gives them.
        value: likewise.
        attention_mask: not used: the rule is in the layout.
        dropout: not used: this is generation.
        scaling: of the scores; default 1 / sqrt(d).
        shared_prefix: the cache, in a step; None falls back to HF's sdpa.
        kwargs: of HF's sdpa.
    Returns:
        [1, n, H, d], and no weights.
    Raises:
        ModelError: the model caps its scores.
    """
    if shared_prefix is None or shared_prefix.step is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)  # type: ignore[no-any-return]
    if kwargs.get("softcap") is not None:
        raise ModelError("shared prefix: this model caps attention scores (got softcap); it cannot decode in parallel")
    step = shared_prefix.step
    prefix_key, prefix_value = shared_prefix.prefix[module.layer_idx]  # type: ignore[index]
    groups, size = key.shape[1], query.shape[-1]
    q = query[0].transpose(0, 1) * (size**-0.5 if scaling is None else scaling)  # [H, n, d] -> [n, H, d]
    q = q.unflatten(1, (groups, -1))  # [n, kv, G, d]: queries that share a key head stay together, no key is repeated
    prefix_key, prefix_value = prefix_key[step.rows], prefix_value[step.rows]
    valid = None if shared_prefix.valid is None else shared_prefix.valid[step.rows, None, None, None]  # [B, 1, 1, 1, P]
    far = _part(q, step.by_row, len(prefix_key), step.most, prefix_key, prefix_value, valid)
    near = _part(q, step.by_lane, len(key), step.longest, key, value, step.seen)
    return _merged(far, near).to(query.dtype).flatten(1, 2)[None], None  # [n, kv, G, d] -> [1, n, H, d]


Part = tuple[Tensor, Tensor, Tensor]
"""Unnormalised output [n, kv, G, d], highest score [n, kv, G, 1], sum of exponentials [n, kv, G, 1]; float32."""


def _part(
    q: Tensor, place: Tensor | None, batch: int, length: int, key: Tensor, value: Tensor, seen: Tensor | None
) -> Part:
    """Softmax numerators of packed queries [n, kv, G, d] over keys [batch, kv, t, d].

    ``place`` [n] puts the tokens into [batch, length] (None: they fill it); ``seen`` broadcasts to
    [batch, kv, length, G, t].
    """
    groups, share, size = q.shape[1:]
    if place is not None:
        q = q.new_zeros(batch * length, groups, share, size).index_copy_(0, place, q)
    q = q.view(batch, length, groups, share, size).transpose(1, 2)  # [batch, kv, length, G, d]
    most = _SCORES_CPU if q.device.type == "cpu" else _SCORES
    rows = max(1, most // max(1, batch * groups * share * key.shape[2]))
    parts: list[Part] = []
    for start in range(0, length, rows):
        chunk = q[:, :, start : start + rows]
        scores = chunk.flatten(2, 3) @ key.transpose(-1, -2)  # [batch, kv, rows * G, t]
        scores = scores.float().unflatten(2, chunk.shape[2:4])  # [batch, kv, rows, G, t]
        if seen is not None:
            mask = seen if seen.shape[2] == 1 else seen[:, :, start : start + rows]
            scores = scores.masked_fill_(~mask, -torch.inf)
        highest = scores.amax(-1, keepdim=True)
        weights = scores.sub_(highest).exp_()
        out = (weights.flatten(2, 3).to(value.dtype) @ value).float().unflatten(2, chunk.shape[2:4])
        parts.append((out, highest, weights.sum(-1, keepdim=True)))

    def packed(pieces: tuple[Tensor, ...]) -> Tensor:
        whole = torch.cat(pieces, 2) if len(pieces) > 1 else pieces[0]  # [batch, kv, length, G, x]
        flat = whole.transpose(1, 2).reshape(batch * length, groups, share, -1)  # [batch * length, kv, G, x]
        return flat if place is None else flat[place]

    out, highest, total = (packed(p) for p in zip(*parts, strict=True))
    return out, highest, total


def _merged(a: Part, b: Part) -> Tensor:
    """One softmax over both parts' keys."""
    highest = torch.maximum(a[1], b[1])
    share_a, share_b = (a[1] - highest).exp(), (b[1] - highest).exp()
    return (a[0] * share_a + b[0] * share_b) / (a[2] * share_a + b[2] * share_b)


@contextmanager
def attending(text_model: nn.Module) -> Iterator[None]:
    """Within the context the decoder uses this attention function, uncompiled; what was set comes back after it."""
    config: Any = text_model.config
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        config._attn_implementation = before


AttentionInterface.register(NAME, shared_prefix_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
