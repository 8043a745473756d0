"""nuImages v1.0's tables (github.com/nutonomy/nuscenes-devkit, docs/schema_nuimages.md)."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np

from tests.data_files import SIZE, Call, picture, rectangle, rle, write_json


def mask(bitmap: np.ndarray) -> dict[str, Any]:
    """Run lengths whose counts are coded once more in base64."""
    found = rle(bitmap)
    return {"size": found["size"], "counts": base64.b64encode(found["counts"].encode()).decode()}


def tables() -> dict[str, list[dict[str, Any]]]:
    """Two key frames with a sweep between them and a lidar key frame; names that map, one that does not, no mask."""
    kinds = {"c1": "vehicle.car", "c2": "human.pedestrian.child", "c3": "animal", "c4": "human.pedestrian.adult"}
    frames = {"d1": "samples/CAM_FRONT/a.jpg", "d2": "sweeps/CAM_FRONT/b.jpg", "d3": "samples/CAM_BACK/c.jpg"}
    objects = [
        ("o1", "d3", "c1", (5, 6, 15, 18), rectangle(5, 6, 15, 18)),
        ("o2", "d1", "c2", (30, 10, 50, 30), rectangle(30, 10, 50, 30)),
        ("o3", "d1", "c3", (30, 10, 50, 30), rectangle(30, 10, 50, 30)),
        ("o4", "d3", "c4", (0, 0, 60, 40), rectangle(0, 0, 60, 40)),
        ("o5", "d3", "c4", (0, 0, 60, 40), None),
    ]
    return {
        "category": [{"token": token, "name": name, "description": ""} for token, name in kinds.items()],
        "sample": [
            {"token": "s1", "timestamp": 1, "log_token": "l", "key_camera_token": "d3", "key_lidar_token": "d4"},
            {"token": "s2", "timestamp": 2, "log_token": "l", "key_camera_token": "d1", "key_lidar_token": ""},
        ],
        "sample_data": [
            *({"token": token, "sample_token": "s1", "filename": file, "fileformat": "jpg", "width": SIZE[1],
               "height": SIZE[0], "is_key_frame": token != "d2"} for token, file in frames.items()),
            {"token": "d4", "sample_token": "s1", "filename": "samples/LIDAR_TOP/d.pcd.bin", "fileformat": "pcd",
             "width": 0, "height": 0, "is_key_frame": True},
        ],
        "object_ann": [
            {"token": token, "sample_data_token": frame, "category_token": kind, "attribute_tokens": [],
             "bbox": list(box), "mask": None if bitmap is None else mask(bitmap)}
            for token, frame, kind, box, bitmap in objects
        ],
    }  # fmt: skip


def make(folder: Path) -> Call:
    """``v1.0-mini/*.json`` and ``samples/``."""
    found = tables()
    for name, rows in found.items():
        write_json(folder / "v1.0-mini" / f"{name}.json", rows)
    for number, row in enumerate(found["sample_data"][:3]):
        picture(folder / row["filename"], number)
    return str(folder), "mini", {}
