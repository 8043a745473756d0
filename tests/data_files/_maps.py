"""Files with one number per pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_map(path: Path, values: np.ndarray) -> Path:
    """``values`` [H, W] uint8 or uint16 as they are, in the format that the path ends with."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path
