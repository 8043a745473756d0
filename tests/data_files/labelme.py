"""LabelMe's JSON files, as version 5 of its editor saves them."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as pil

from tests.data_files import SIZE, Call, picture, write_json


def shape(label: str, points: list[Any], kind: str = "polygon", group: int | None = None) -> dict[str, Any]:
    """One shape."""
    return {"label": label, "points": points, "group_id": group, "shape_type": kind, "flags": {}, "description": ""}


def painted(label: str, pixels: np.ndarray, corner: tuple[int, int], group: int | None = None) -> dict[str, Any]:
    """What its AI tools save: the pixels [h, w] as a PNG of 0 and 1, and the first's and the last's (x, y)."""
    png = io.BytesIO()
    pil.fromarray(pixels.astype(np.uint8)).save(png, "PNG")
    last = [corner[0] + pixels.shape[1] - 1, corner[1] + pixels.shape[0] - 1]
    return {**shape(label, [list(corner), last], "mask", group), "mask": base64.b64encode(png.getvalue()).decode()}


def annotation(image: str, *shapes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """One file."""
    base = {"version": "5.5.0", "flags": {}, "imageData": None, "imageHeight": SIZE[0], "imageWidth": SIZE[1]}
    return {**base, "shapes": list(shapes), "imagePath": image, **changes}


def make(folder: Path) -> Call:
    """``train/``: every kind of shape with an area, a group, an image elsewhere, an image without objects."""
    picture(folder / "train" / "a.png", 0)
    picture(folder / "images" / "b.png", 1)
    picture(folder / "train" / "more" / "c.png", 2)
    polygon = shape("plate", [[30, 10], [50, 10], [50, 30], [30, 30]])
    box = shape("cup", [[15, 18], [5, 6]], "rectangle")  # drawn from its lower right corner
    circle = shape("ball", [[30, 20], [40, 20]], "circle")
    left, right = (shape("cup", [[x, 2], [x + 8, 2], [x + 8, 9], [x, 9]], group=3) for x in (2, 40))
    write_json(folder / "train" / "a.json", annotation("a.png", polygon, box))
    write_json(folder / "train" / "b.json", annotation("..\\images\\b.png", left, circle, right))
    write_json(folder / "train" / "more" / "c.json", annotation("c.png"))
    return str(folder), "train", {}
