"""The only way from pixels to the integers of an answer and back.

A codec is saved beside the weights (``ufo_config.json``), so that whoever loads them reads their answers right.

    codec = Codec(num_bins=1000)
    bins = codec.encode_boxes(torch.tensor([[100.0, 50.0, 200.0, 150.0]]), size=(448, 448))
    boxes = codec.decode_boxes(bins, size=(448, 448))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ufo_tune.core.boxes import clip, cxcywh_to_xyxy, xyxy_to_cxcywh
from ufo_tune.errors import ModelError

BoxFormat = Literal["xyxy", "cxcywh", "cxcywh_local"]
"""Corners (the UFO paper), centre and size, or centre relative to the answer's grid point + 0.5 (the UFO code)."""
Negative = Literal["background", "end"]
"""What a grid point without an object says: the word, or nothing but the end token."""

SCHEMA = 1
"""Version of the dictionary that ``to_dict`` writes."""


@dataclass(frozen=True)
class Codec:
    """How boxes, masks and depth are written in an answer.

    ``num_bins`` is R: a coordinate is an integer in 0..R, so there are R + 1 of them. ``slot_side`` is the side of
    the square of slot tokens (4: sixteen tokens a mask). ``depth_range`` is in metres.

    Raises:
        ModelError: a field is out of range, or two tokens are the same.
    """

    num_bins: int = 1000
    box_format: BoxFormat = "xyxy"
    slot_side: int = 4
    depth_range: tuple[float, float] = (0.001, 10.0)
    negative: Negative = "background"
    mask_token: str = "<MASK>"
    depth_token: str = "<DEPTH>"
    local_token: str = "<LOCAL>"
    box_open: str = "<box>"
    box_close: str = "</box>"
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        for name in ("num_bins", "slot_side"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ModelError(f"codec.{name}: must be a positive integer (got {value!r}); give 1 or more")
        for name, known in (("box_format", get_args(BoxFormat)), ("negative", get_args(Negative))):
            if getattr(self, name) not in known:
                raise ModelError(f"codec.{name}: no such value (got {getattr(self, name)!r}); use {', '.join(known)}")
        if self.schema != SCHEMA:
            raise ModelError(f"codec.schema: is not ours (got {self.schema!r}); this version reads {SCHEMA}")
        self._check_depth_range()
        tokens = self.special_tokens
        if not all(isinstance(t, str) and t.strip() for t in tokens) or len(set(tokens)) < len(tokens):
            raise ModelError(f"codec: tokens must be distinct and not empty (got {tokens}); rename one")

    def _check_depth_range(self) -> None:
        limits = self.depth_range
        numbers = len(limits) == 2 and all(isinstance(v, int | float) for v in limits)
        if not numbers or not 0 <= limits[0] < limits[1]:
            raise ModelError(
                f"codec.depth_range: is not a range (got {limits}); give (near, far) in metres, near < far"
            )

    @property
    def slot_tokens(self) -> int:
        """Tokens of one slot (S): 16 for a side of 4."""
        return self.slot_side**2

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """The tokens that must exist in the vocabulary, in the order in which they are added."""
        return (self.mask_token, self.depth_token, self.local_token, self.box_open, self.box_close)

    def encode_boxes(self, boxes: Tensor, size: tuple[int, int], points: Tensor | None = None) -> Tensor:
        """Integers of boxes: ``clamp(round(v * R), 0, R)``, halves rounded to even.

        Args:
            boxes: [N, 4] xyxy pixels of the original image.
            size: (H, W) of the original image.
            points: [N, 2] x, y in [0, 1] of each box's grid point; for ``cxcywh_local`` only. An answer without a
                point counts from the middle, which makes its centre absolute, as in UFO's REC.

        Returns:
            [N, 4] int64 bins in 0..num_bins.

        Source:
            UFO (arXiv 2503.01342) sec. 3.1 (xyxy); its code at 6976de9 (the other two).
        """
        values = boxes if self.box_format == "xyxy" else xyxy_to_cxcywh(boxes)
        # Doubles, and the product before the quotient: a coordinate half-way between two bins is then exactly so.
        scaled = values.double() * self.num_bins / self._extent(size, boxes.device)  # [N, 4]
        if self.box_format == "cxcywh_local":
            centres = scaled[:, :2] - (_origin(points, scaled) - 0.5) * self.num_bins
            scaled = torch.cat([centres, scaled[:, 2:]], dim=1)  # [N, 2] + [N, 2] -> [N, 4]
        return scaled.round().clamp(0, self.num_bins).long()

    def decode_boxes(self, values: Tensor, size: tuple[int, int], points: Tensor | None = None) -> Tensor:
        """Boxes of integers, clamped to the image.

        Corners in the wrong order give an empty box (a miss), never one with a negative side.

        Args:
            values: [N, 4] bins.
            size: (H, W) of the original image.
            points: as in ``encode_boxes``.

        Returns:
            [N, 4] float32 xyxy pixels of the original image.
        """
        unit = values.double() / self.num_bins  # [N, 4]
        if self.box_format == "cxcywh_local":
            centres = unit[:, :2] + _origin(points, unit) - 0.5
            unit = torch.cat([centres, unit[:, 2:]], dim=1)  # [N, 2] + [N, 2] -> [N, 4]
        corners = unit if self.box_format == "xyxy" else cxcywh_to_xyxy(unit)
        boxes = clip(corners * self._extent(size, values.device), size)
        return torch.cat([boxes[:, :2], torch.maximum(boxes[:, 2:], boxes[:, :2])], dim=1).float()  # [N, 4]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``from_dict`` reads them back."""
        return {**asdict(self), "depth_range": list(self.depth_range)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Codec:
        """The codec that ``to_dict`` wrote.

        Raises:
            ModelError: a key is unknown or missing, or a value is out of range.
        """
        known = [f.name for f in fields(cls)]
        for name in data:
            if name not in known:
                raise ModelError(f"codec.{name}: no such field (got {data[name]!r}); known: {', '.join(known)}")
        missing = [name for name in known if name not in data]
        if missing:
            raise ModelError(f"codec: lacks fields (got {sorted(data)}); add {', '.join(missing)}")
        limits = data["depth_range"]
        if not isinstance(limits, list | tuple):
            raise ModelError(f"codec.depth_range: is not a range (got {limits!r}); give [near, far] in metres")
        return cls(**{**data, "depth_range": tuple(limits)})

    @staticmethod
    def _extent(size: tuple[int, int], device: torch.device) -> Tensor:
        height, width = size
        return torch.tensor([width, height, width, height], dtype=torch.float64, device=device)  # [4]


def _origin(points: Tensor | None, like: Tensor) -> Tensor:
    """[N, 2] or [1, 2] of what centres are relative to; the middle of the image without grid points."""
    return like.new_full((1, 2), 0.5) if points is None else points.to(like)
