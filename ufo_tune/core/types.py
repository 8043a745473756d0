"""The value types that cross the borders between tasks, data, models and metrics.

Letters: B batch rows (one image each), T tokens, N answers, M slots in the batch, S tokens per slot (16 = 4x4),
D width, K image tokens, (h, w) token grid, (H, W) pixels, A position axes (1, or 3 for M-RoPE).
Boxes are xyxy float pixels of the original image everywhere; only the codec knows bins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ufo_tune.errors import DataError

PROMPT = -1
"""Segment id of tokens that every answer sees (answers count from 0)."""
PAD = -2
"""Segment id of padding."""
IGNORE = -100
"""Label of a token that is not supervised."""

Rle = Mapping[str, Any]
"""COCO run-length mask: ``{"size": [H, W], "counts": bytes}``."""
Image = Path | np.ndarray
"""A file, or RGB pixels [H, W, 3] uint8 that were made in memory."""
NO_SIZE = (0, 0)
"""(H, W) of a sample that has no image."""


@dataclass(frozen=True, slots=True)
class Targets:
    """The truth of one sample, in pixels of the original image. Per-object fields share their length N.

    Raises:
        DataError: per-object fields differ in length.
    """

    boxes: Tensor = field(default_factory=lambda: torch.zeros(0, 4))  # [N, 4] f32 xyxy
    masks: tuple[Rle, ...] | None = None  # N COCO RLEs, or None where the dataset has none
    labels: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))  # [N] index into classes
    crowd: Tensor | None = None  # [N] bool, not counted by COCO AP
    ignore: Rle | None = None  # pixels that are not scored
    label_map: np.ndarray | None = None  # [H, W] i16, -1 ignored
    depth: np.ndarray | None = None  # [H, W] f32 metres, 0 unknown
    normals: np.ndarray | None = None  # [H, W, 3] f32 unit vectors (x right, y down, z away), all 0 unknown
    text: str = ""
    references: tuple[str, ...] = ()  # all true texts where there are several; ``text`` is the first of them

    def __post_init__(self) -> None:
        counts = {"boxes": len(self.boxes), "labels": len(self.labels)}
        if self.masks is not None:
            counts["masks"] = len(self.masks)
        if self.crowd is not None:
            counts["crowd"] = len(self.crowd)
        if len(set(counts.values())) > 1:
            raise DataError(f"targets: per-object fields differ in length (got {counts}); give one of each per object")


@dataclass(frozen=True, slots=True)
class Sample:
    """One question about one image, with or without its truth.

    ``text`` is the phrase (rec, res) or the question (vqa); ``classes`` the names asked for (grid tasks). Without an
    image (text only) ``image`` is None and ``size`` is ``NO_SIZE``.
    Samples with the same ``image_id`` show the same picture and may be packed into one batch row.
    ``absent`` are classes that somebody looked for in vain, where a dataset is not exhaustive (LVIS, Open Images);
    None: every class without an object is absent. ``partial`` are classes of which not every object is marked.
    ``groups`` sorts class names where a dataset does so, name -> group (LVIS: r, c, f, rare to frequent).
    ``history`` are the (question, answer) turns before this question (vqa).
    """

    image: Image | None
    size: tuple[int, int]  # (H, W) of the original image
    task: str
    text: str = ""
    classes: tuple[str, ...] = ()
    targets: Targets | None = None
    source: str = "?"  # "refcoco/val#1274": named in every message
    image_id: str = ""
    absent: tuple[str, ...] | None = None
    partial: tuple[str, ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)
    history: tuple[tuple[str, str], ...] = ()

    def with_(self, **changes: Any) -> Sample:
        """A copy with some fields changed."""
        return replace(self, **changes)


SlotKind = Literal["mask", "depth", "normal"]
"""What a slot's map means. Surface normals take three slots in a row: x, y, z. Depth and normals spell ``<DEPTH>``."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A dense map's place in an answer; its tokens are spelled out in the answer's text."""

    kind: SlotKind
    target: np.ndarray | None = None  # [H, W] original pixels: bool mask, f32 metres, or f32 part of a vector


@dataclass(frozen=True, slots=True)
class Answer:
    """One generated sequence. ``text is None`` at inference.

    ``point`` puts a ``<LOCAL>`` token in front (x, y in [0, 1] of the original image). ``question`` is this answer's
    own question, seen by it alone: several questions about one image then share the image (packing). ``phrase`` is the
    part of its question that names the object, for objectives that mask words.
    """

    text: str | None
    slots: tuple[Slot, ...] = ()
    point: tuple[float, float] | None = None
    question: str | None = None
    phrase: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and its 1..N mutually invisible answers."""

    question: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Dialogue:
    """What is said about one image. Only the last turn may hold more than one answer.

    ``crops`` (xyxy, original pixels) are seen besides, in their order after the whole: nested ones around a region show
    it at several resolutions. The map is the whole image's.
    """

    turns: tuple[Turn, ...]
    image_attention: Literal["full", "causal"] = "full"
    image_position: Literal["after", "before"] = "after"  # the image stands after (UFO) or before the question
    crops: tuple[tuple[float, float, float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """One crop as the vision tower sees it.

    ``box`` (xyxy, original pixels) may reach beyond the image where the crop is padded. ``grid`` tokens are in raster
    order; with ``newline`` one more token, which shows nothing, ends every row of them. A ``thumbnail`` shows the image
    or a part of it once more: the model sees its tokens, and they are no part of the map.
    """

    box: tuple[float, float, float, float]
    grid: tuple[int, int]
    newline: bool = False
    thumbnail: bool = False

    @property
    def tokens(self) -> int:
        """Image tokens that it takes."""
        return self.grid[0] * (self.grid[1] + self.newline)


@dataclass(slots=True)
class Batch:
    """Token rows and everything that says what the tokens are. Padded on the right.

    ``slot_index`` holds the positions that *predict* the slot's tokens: a slot token's embedding is the state before
    it (UFO sec. 3.2), in training and in generation alike.
    """

    ids: Tensor  # [B, T] i64
    labels: Tensor  # [B, T] i64: the token itself where it is supervised, else IGNORE (not shifted)
    segment: Tensor  # [B, T] i64: PROMPT, answer number, or PAD
    positions: Tensor  # [A, B, T] i64
    image_index: Tensor  # [B, K] i64 positions of image tokens, -1 padding
    local_index: Tensor  # [B, N] i64 positions of <LOCAL> tokens, -1 padding
    points: Tensor  # [B, N, 2] f32 x, y in [0, 1] of the views' canvas
    slot_index: Tensor  # [M, S] i64 positions in row slot_owner
    slot_owner: Tensor  # [M] i64 row
    slot_targets: tuple[Tensor, ...]  # M x [Hc, Wc] f32 on the views' canvas
    slot_kinds: tuple[str, ...]  # M
    phrase: Tensor  # [B, T] bool, True where the question names the object; ``segment`` says whose question
    causal_image: Tensor  # [B] bool
    views: tuple[tuple[View, ...], ...]  # B x views
    pixels: dict[str, Tensor]  # the family's own inputs
    samples: tuple[tuple[Sample, ...], ...]  # B x samples packed in the row
    answer_counts: tuple[tuple[int, ...], ...]  # B x answers of each sample, in order
    packs: tuple[tuple[int, ...], ...] = ()  # tokens of the batch rows in each row of the decoder; () one each
    image_keys: tuple[tuple[bytes, int], ...] = ()  # of each image: a name of its pixels, rows of them; or ()
    seeds: tuple[int, ...] = ()  # B x what an objective draws from: the same in ``counts``, ``before`` and ``forward``

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device; samples stay where they are."""

        def move(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.to(device, non_blocking=True)
            if isinstance(value, dict):
                return {k: move(v) for k, v in value.items()}
            if isinstance(value, tuple) and value and isinstance(value[0], Tensor):
                return tuple(move(v) for v in value)
            return value

        return Batch(**{name: move(getattr(self, name)) for name in self.__slots__})


@dataclass  # without slots: ZeRO-3 looks for tensors in a module's output by ``vars``
class ModelOutput:
    """What a forward pass gives to objectives. Logits are computed only where ``logits`` is called."""

    hidden: Tensor  # [B, T, D] after the final norm
    image_features: tuple[Tensor, ...]  # B x [h, w, D] after the language model, stitched
    image_inputs: tuple[Tensor, ...]  # B x [h, w, D] before it
    logits: Callable[[Tensor], Tensor]  # [..., D] -> [..., V]
    depth_range: tuple[float, float]  # metres, near and far, of the model's codec


EmbedTransform = Callable[[Tensor, Batch], Tensor]
"""Edits input embeddings [B, T, D] between ``embed`` and ``decode``."""


@dataclass(slots=True)
class LossTerm:
    """A sum and how many it sums over; never a mean, so that ranks and accumulation add up exactly."""

    total: Tensor
    count: Tensor


@dataclass(slots=True)
class Generation:
    """The answers to one sample. Tokens after the end token are PAD_ID = -1; ``hidden`` *predicted* each token."""

    texts: tuple[str, ...]  # N, without the end token
    ids: Tensor  # [N, L] i64, -1 padding
    scores: Tensor  # [N, L] f32 probability of each token
    hidden: Tensor  # [N, L, D]
    image_features: Tensor  # [h, w, D]
    views: tuple[View, ...]
    points: tuple[tuple[float, float] | None, ...]  # N, in [0, 1] of the original image
    slot_id: int  # id of the slot token of masks (<MASK>)
    depth_id: int  # id of the slot token of depth and normals (<DEPTH>)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model said about one sample, in pixels of the original image."""

    boxes: Tensor = field(default_factory=lambda: torch.zeros(0, 4))  # [N, 4] f32 xyxy
    masks: tuple[Rle, ...] | None = None  # N
    scores: Tensor = field(default_factory=lambda: torch.zeros(0))  # [N]
    labels: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))  # [N] index into sample.classes
    label_map: np.ndarray | None = None  # [H, W] i16, -1 nothing was said
    depth: np.ndarray | None = None  # [H, W] f32 metres
    normals: np.ndarray | None = None  # [H, W, 3] f32 unit vectors
    text: str = ""
    invalid: int = 0  # answers that could not be read; each scores as a miss


Samples = Sequence[Sample]
