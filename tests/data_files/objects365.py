"""Objects365 v2's annotation file and folders of patches (objects365.org, "Download")."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data_files import SIZE, Call, picture, write_json

FILES = {11: "v1/patch8/objects365_v1_00420917.jpg", 12: "v2/patch16/objects365_v2_00908727.jpg"}
LACKING = "v2/patch16/objects365_v2_00908726.jpg"


def box(number: int, image: int, kind: int, *bbox: float, **flags: int) -> dict[str, Any]:
    """One row of ``annotations``."""
    found = {"iscrowd": 0, "isfake": 0, "isreflected": 0} | flags
    return {
        "id": number,
        "image_id": image,
        "category_id": kind,
        "bbox": list(bbox),
        "area": bbox[2] * bbox[3],
        **found,
    }


def rows() -> dict[str, Any]:
    """A name with a blank at its end, boxes over the edge, of nothing and outside, a crowd, a fake, a missing image."""
    return {
        "images": [
            {"id": n, "file_name": f"images/{file}", "height": SIZE[0], "width": SIZE[1], "license": 5, "url": ""}
            for n, file in (*FILES.items(), (10, LACKING))
        ],
        "annotations": [
            box(1, 12, 2, 50.5, -3, 30, 23.5),
            box(2, 11, 1, 5, 6, 10, 12),
            box(3, 11, 2, 5, 6, 10, 12, isfake=1),
            box(4, 11, 2, 0, 0, 60, 40, iscrowd=1),
            box(5, 11, 1, 5, 6, 0, 12),
            box(6, 11, 1, 70, 6, 5, 12),
            box(7, 10, 1, 5, 6, 10, 12),
        ],
        "categories": [{"id": 1, "name": "Person"}, {"id": 2, "name": "Formula 1 "}],
    }


def make(folder: Path) -> Call:
    """``annotations/zhiyuan_objv2_val.json`` and ``val/patch*/``."""
    write_json(folder / "annotations" / "zhiyuan_objv2_val.json", rows())
    for number, file in FILES.items():
        picture(folder / "val" / file.split("/", 1)[1], number)
    return str(folder), "val", {}
