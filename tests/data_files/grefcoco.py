"""gRefCOCO's ``grefs(unc).json`` (henghuiding/gRefCOCO): one, several and no targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data_files import Call, picture, rectangle, rle, write_json
from tests.data_files.refcoco import instances as one_each
from tests.data_files.refcoco import ref


def instances() -> dict[str, Any]:
    """RefCOCO's, and a crowd."""
    found = one_each()
    found["annotations"].append(
        {"id": 104, "image_id": 9, "category_id": 1, "bbox": [0, 0, 60, 40], "area": 2400, "iscrowd": 1,
         "segmentation": rle(rectangle(0, 0, 60, 40))}
    )  # fmt: skip
    return found


def refs() -> list[dict[str, Any]]:
    """Ids are lists; -1 is nothing."""
    return [
        {**ref(0, [101, 102], 9, "val", "all cups"), "category_id": [1, 1]},
        {**ref(1, [-1], 25, "val", "the dog", "a horse"), "category_id": [-1], "no_target": True},
        {**ref(2, [103], 25, "val", "the cup"), "category_id": [1]},
        {**ref(3, [101, 104], 9, "val", "a cup and the rest"), "category_id": [1, 1]},
        {**ref(4, [-1], 25, "train", "nobody"), "category_id": [-1], "no_target": True},
    ]


def make(folder: Path) -> Call:
    """``grefcoco/`` and ``train2014/``."""
    write_json(folder / "grefcoco" / "grefs(unc).json", refs())
    write_json(folder / "grefcoco" / "instances.json", instances())
    for number, image in enumerate(instances()["images"]):
        picture(folder / "train2014" / str(image["file_name"]), number)
    return str(folder), "val", {}
