"""Layout: one prompt and 1..N mutually invisible answers as a row of tokens.

``[prompt | answer 0 | answer 1 | ...]``, an answer being ``[<LOCAL>] [own question] answer end``. Positions of every
answer restart at the prompt's length. The attention rule, whole: row i sees column j iff (j <= i or both are image
tokens) and (segment[j] is prompt or segment[j] == segment[i]).  (UFO sec. 3.3; test vector ufo.md 18.4.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ufo_tune.core.types import IGNORE, PAD, PROMPT


@dataclass(slots=True)
class AnswerIds:
    """Token ids of one answer.

    ``prefix`` is not supervised (its own question and the turn's header); ``ids`` ends with the end token in training
    and is empty at inference. ``local`` puts a ``<LOCAL>`` token in front.
    """

    ids: list[int]
    prefix: list[int] = field(default_factory=list)
    local: bool = False


@dataclass(slots=True)
class Row:
    """One row before padding; all lists have length T."""

    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    segment: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    local_index: list[int] = field(default_factory=list)
    slot_index: list[list[int]] = field(default_factory=list)

    def extend(self, ids: Sequence[int], segment: int, start: int, *, supervised: bool) -> None:
        """Append tokens of one segment at positions ``start``..."""
        self.ids += ids
        self.labels += ids if supervised else [IGNORE] * len(ids)
        self.segment += [segment] * len(ids)
        self.positions += range(start, start + len(ids))


def build(
    prompt: Sequence[tuple[Sequence[int], bool]],
    answers: Sequence[AnswerIds],
    *,
    local_id: int,
    slot_ids: frozenset[int],
    slot_tokens: int,
) -> Row:
    """Lay out one row.

    Args:
        prompt: runs of (ids, supervised); earlier turns' answers are supervised runs of the prompt.
        answers: the last turn's parallel answers.
        local_id: id of ``<LOCAL>``.
        slot_ids: ids of tokens that belong to slots (``<MASK>``, ``<DEPTH>``).
        slot_tokens: S.
    Returns:
        The row. ``slot_index`` lists, for every complete run of S slot tokens, the positions *predicting* them.
    """
    row = Row()
    for ids, supervised in prompt:
        row.extend(ids, PROMPT, len(row.ids), supervised=supervised)
    start = len(row.ids)
    for number, answer in enumerate(answers):
        head = ([local_id] if answer.local else []) + answer.prefix
        if answer.local:
            row.local_index.append(len(row.ids))
        row.extend(head, number, start, supervised=False)
        row.extend(answer.ids, number, start + len(head), supervised=True)
    row.slot_index = _slot_runs(row, slot_ids, slot_tokens, first_answer=start)
    return row


def _slot_runs(row: Row, slot_ids: frozenset[int], slot_tokens: int, first_answer: int) -> list[list[int]]:
    """Positions that predict each group of S slot tokens.

    The token before an answer's first one is the last of its own head or, where it has none, the last of the prompt.
    """
    runs: list[list[int]] = []
    current: list[int] = []
    for at, label in enumerate(row.labels):
        if label not in slot_ids:
            current = []
            continue
        starts_answer = row.segment[at] != row.segment[at - 1]
        current.append(first_answer - 1 if starts_answer else at - 1)
        if len(current) == slot_tokens:
            runs.append(current)
            current = []
    return runs


def predicting(labels: Tensor, segment: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where supervised tokens are predicted.

    Args:
        labels: [B, T].
        segment: [B, T].
    Returns:
        (row [Q], position [Q] of the state that predicts, label [Q]). The first token of an answer without any head
        is predicted by the last prompt token; otherwise the token before.
    """
    row, at = (labels != IGNORE).nonzero(as_tuple=True)  # [Q], [Q]
    last_prompt = (segment == PROMPT).sum(1) - 1  # [B]
    previous = (at - 1).clamp_min(0)
    starts = segment[row, at] != segment[row, previous]
    return row, torch.where(starts, last_prompt[row], previous), labels[row, at]


def visible(segment: Tensor, is_image: Tensor, causal_image: Tensor, document: Tensor | None = None) -> Tensor:
    """The attention rule as a mask.

    Args:
        segment: [B, T].
        is_image: [B, T] bool.
        causal_image: [B] bool; such rows keep image tokens causal.
        document: [B, T] number of the sample where a row holds several (``core.packing``): each sees itself only.
    Returns:
        [B, 1, T, T] bool, True where row i sees column j. Padding sees earlier padding, so no row is empty.
    """
    length = segment.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segment.device).tril()
    image = is_image & ~causal_image[:, None]  # [B, T]
    order = causal | (image[:, :, None] & image[:, None, :])  # [B, T, T]
    same = (segment[:, None, :] == PROMPT) | (segment[:, None, :] == segment[:, :, None])
    if document is not None:
        same &= document[:, None, :] == document[:, :, None]
    # A padding row sees padding only: otherwise it would be the one thing that depends on the batch.
    real = (segment != PAD)[:, :, None] | (segment == PAD)[:, None, :]
    return (order & same & real)[:, None]  # [B, 1, T, T]


def pad(rows: Sequence[Sequence[int] | np.ndarray], value: int) -> Tensor:
    """Right-pad lists or arrays to a tensor [B, T] i64."""
    width = max((len(r) for r in rows), default=0)
    padded = np.full((len(rows), width), value, dtype=np.int64)
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = row  # torch reads lists three times as slowly
    return torch.from_numpy(padded)
