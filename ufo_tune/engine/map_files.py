"""Predicted maps as picture files: what has a value for every pixel has no place in JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from ufo_tune.core.types import Prediction
from ufo_tune.show.maps import normal_colours

MILLIMETRES, KITTI = 0.001, 1 / 256
"""Metres per unit of a depth file: the first for depth up to 65 metres, the second for the rest."""
NO_CLASS = 255
"""In a file of labels, where nothing was said; 65535 where there are more classes than fit beside it."""


def write_maps(prediction: Prediction, out: Path, name: str) -> dict[str, Any]:
    """Write the maps of a prediction beside each other.

    Args:
        prediction: with or without maps.
        out: folder.
        name: what the files' names start with.
    Returns:
        Keys for JSON: ``depth`` (path of a 16-bit PNG, 0 unknown) with ``depth_scale`` (metres per unit), as rows of
        our JSONL have them; ``label_map`` (path of a PNG of class numbers); ``normals`` (path of an RGB PNG, 0 to 255
        for components from -1 to 1).
    """
    found: dict[str, Any] = {}
    if prediction.depth is not None:
        scale = MILLIMETRES if prediction.depth.max() < 65535 * MILLIMETRES else KITTI
        stored = np.clip(np.rint(prediction.depth / scale), 0, 65535).astype(np.uint16)
        found |= {"depth": _save(stored, out / f"{name}.depth.png"), "depth_scale": scale}
    if prediction.label_map is not None:
        wide = prediction.label_map.max() >= NO_CLASS
        numbers = prediction.label_map.astype(np.uint16 if wide else np.uint8)  # -1 becomes the greatest number
        found["label_map"] = _save(numbers, out / f"{name}.labels.png")
    if prediction.normals is not None:
        found["normals"] = _save(normal_colours(prediction.normals), out / f"{name}.normals.png")
    return found


def _save(values: np.ndarray, path: Path) -> str:
    Pillow.fromarray(values).save(path)
    return str(path)
