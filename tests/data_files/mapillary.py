"""Mapillary Vistas v2.0: names in a file, classes as a palette PNG, objects as class x 256 + number in 16 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.data_files import Call, picture, rectangle, write_json
from tests.data_files._maps import write_map

LABELS = [
    {"name": "animal--bird", "readable": "Bird", "instances": True, "evaluate": True, "color": [165, 42, 42]},
    {"name": "nature--sky", "readable": "Sky", "instances": False, "evaluate": True, "color": [70, 130, 180]},
    {"name": "object--vehicle--car", "readable": "Car", "instances": True, "evaluate": True, "color": [0, 0, 142]},
    {"name": "void--unlabeled", "readable": "Unlabeled", "instances": False, "evaluate": False, "color": [0, 0, 0]},
]


def make(folder: Path) -> Call:
    """One image with sky, two cars and something void."""
    write_json(folder / "config_v2.0.json", {"labels": LABELS, "version": "2.0"})
    picture(folder / "training" / "images" / "abc.jpg")
    classes = np.full((40, 60), 1)
    classes[rectangle(5, 10, 20, 30) | rectangle(30, 10, 50, 30)] = 2
    classes[rectangle(0, 36, 60, 40)] = 3
    objects = classes * 256 + rectangle(30, 10, 50, 30)
    write_map(folder / "training" / "v2.0" / "instances" / "abc.png", objects.astype(np.uint16))
    painted = Image.fromarray(classes.astype(np.uint8), mode="P")
    painted.putpalette([v for label in LABELS for v in label["color"]])
    (folder / "training" / "v2.0" / "labels").mkdir()
    painted.save(folder / "training" / "v2.0" / "labels" / "abc.png")
    return str(folder), "training", {}
