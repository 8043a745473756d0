"""What the readers of files share: JSON with a clear error, checked boxes, masks in any form, class names."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as pil
from torch import Tensor

from ufo_tune.core import masks
from ufo_tune.core.types import Rle
from ufo_tune.errors import DataError
from ufo_tune.plugins import did_you_mean

TOLERANCE = 1.0
"""Pixels that a box may reach beyond its image, from rounding; it is clipped."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        DataError: no such file, not JSON, or not an object.
    """
    try:
        data = json.loads(existing(path, "annotation file").read_bytes())
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError, too
        raise DataError(f"{path}: is not valid JSON ({error}); mend or download it again") from error
    if not isinstance(data, dict):
        raise DataError(f"{path}: must hold an object (got {type(data).__name__}); is this the annotation file?")
    return data


def existing(path: Path, what: str) -> Path:
    """The path, if the file exists.

    Raises:
        DataError: it does not; the message says how far the path does exist.
    """
    if os.path.isfile(path):  # which says no of a name that is too long, where Path would raise
        return path
    parent = next((p for p in path.parents if os.path.isdir(p)), Path())
    found = sorted(p.name for p in parent.iterdir())[:8]
    raise DataError(f"{path}: no such {what}; {parent} has {', '.join(found) or 'no files'}; check root and split")


def box(values: Any, size: tuple[int, int], where: str) -> list[float]:
    """One xyxy box in pixels, checked, and clipped to its image.

    Raises:
        DataError: not four finite numbers, without area, or outside the image of ``size`` (H, W).
    """
    x0, y0, x1, y1 = numbers(values, 4, where)
    height, width = size
    if not (x0 < x1 and y0 < y1):
        raise DataError(f"{where}: box has no area (got {values}); give x1 < x2 and y1 < y2")
    if min(x0, y0) < -TOLERANCE or x1 > width + TOLERANCE or y1 > height + TOLERANCE:
        raise DataError(
            f"{where}: box is outside the image (got {values}, image {width}x{height}); "
            "give xyxy pixels of the original image"
        )
    clipped = [max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))]
    if not (clipped[0] < clipped[2] and clipped[1] < clipped[3]):
        raise DataError(f"{where}: box is outside the image (got {values}, image {width}x{height}); drop or mend it")
    return clipped


def numbers(values: Any, count: int, where: str) -> list[float]:
    """So many finite numbers.

    Raises:
        DataError: they are not.
    """
    good = isinstance(values, list | tuple) and len(values) == count
    if not good or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        raise DataError(f"{where}: is not {count} numbers (got {values!r:.80}); give [x1, y1, x2, y2] per object")
    if not all(abs(v) <= sys.float_info.max for v in values):  # NaN is not, nor a whole number beyond any float
        raise DataError(f"{where}: is not finite (got {values!r:.80}); mend it")
    return [float(v) for v in values]


def mask(value: Any, size: tuple[int, int], where: str, folder: Path) -> Rle:
    """A mask given as COCO run lengths, as polygons (one may stand alone), or as the path of a PNG (not 0: inside).

    ``{"png": path}`` is a PNG that may have another resolution than the image, and is scaled to it.

    Raises:
        DataError: it is none of these, of another size than the image (H, W), damaged or empty.
    """
    if isinstance(value, str):
        rle = masks.encode(_mask_file(folder / value, size, where))
    elif isinstance(value, Mapping) and "png" in value:
        rle = masks.encode(_mask_file(folder / value["png"], size, where, scaled=True))
    else:
        if isinstance(value, list) and value and not isinstance(value[0], list):
            value = [value]  # one polygon
        try:
            rle = masks.from_segmentation(value, size)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
    if not int(masks.area([rle])[0]):
        raise DataError(f"{where}: mask is empty (got 0 pixels); drop the object or mend its mask")
    return rle


def _mask_file(path: Path, size: tuple[int, int], where: str, *, scaled: bool = False) -> np.ndarray:
    """[H, W] bool."""
    height, width = size
    pixels: np.ndarray | None = None
    try:
        with pil.open(path, formats=("PNG",)) as opened:
            found = (opened.height, opened.width)
            if found == tuple(size):
                pixels = np.asarray(opened)
            # Sides are rounded by up to a pixel; another shape is the mask of another image.
            elif scaled and abs(found[0] * width - found[1] * height) <= 2 * max(*found, *size):
                pixels = np.asarray(opened.resize((width, height), pil.Resampling.NEAREST))
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{where}: {path}: cannot read the mask (got {error}); give a PNG") from error
    if pixels is None:
        raise DataError(f"{where}: mask is {found} but the image is {tuple(size)}; check {path}")
    if pixels.ndim == 3:  # colour, or grey with alpha: colour counts, alpha does not
        pixels = pixels[..., : 1 if pixels.shape[2] == 2 else 3].max(-1)  # [H, W]
    return np.asarray(pixels != 0)


def class_number(name: str, classes: Sequence[str], where: str) -> int:
    """The index of a class name.

    Raises:
        DataError: it is not among the classes.
    """
    if name not in classes:
        raise DataError(f"{where}: unknown class (got {name!r}); {did_you_mean(name, classes)}")
    return classes.index(name)


def boxes_tensor(boxes: Sequence[Sequence[float]]) -> Tensor:
    """[N, 4] f32, also of no boxes."""
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)  # [N, 4]
