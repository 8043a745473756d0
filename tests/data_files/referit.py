"""ReferIt's ``referit_*.json`` and MATLAB masks (ronghanghu/text_objseg, ``exp-referit``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import savemat

from tests.data_files import SIZE, Call, picture, rectangle, write_json

BOXES = {"8756_1": [5, 6, 14, 17], "8756_2": [0, 0, 59, 19], "12_1": [30, 10, 49, 29]}
"""First and last pixel."""


def queries() -> dict[str, Any]:
    """Phrases as players typed them."""
    return {"8756_2": ["sunray at very top", "SKY ", " "], "12_1": ["the water?"], "8756_1": ["left cup"]}


def make(folder: Path) -> Call:
    """The JSON files, ``images/`` and ``mask/``."""
    write_json(folder / "referit_query_val.json", queries())
    write_json(folder / "referit_bbox.json", BOXES)
    write_json(folder / "referit_imsize.json", {"8756.jpg": [SIZE[1], SIZE[0]], "12.jpg": [SIZE[1], SIZE[0]]})
    for number, image in enumerate(("8756", "12")):
        picture(folder / "images" / f"{image}.jpg", number)
    (folder / "mask").mkdir()
    for name, (x0, y0, x1, y1) in BOXES.items():
        outside = ~rectangle(x0, y0, x1 + 1, y1 + 1)
        savemat(folder / "mask" / f"{name}.mat", {"segimg_t": np.where(outside, 255, 0).astype(np.int16)})
    return str(folder), "val", {}
