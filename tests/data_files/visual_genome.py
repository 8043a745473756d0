"""Visual Genome's ``region_descriptions.json`` and ``image_data.json`` ("Data Readme" of the project's site)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data_files import SIZE, Call, picture, write_json


def images() -> list[dict[str, Any]]:
    """Image data; the folder of an image is in its address."""
    host = "https://cs.stanford.edu/people/rak248"
    sizes = {"width": SIZE[1], "height": SIZE[0], "coco_id": None, "flickr_id": None}
    return [
        {"image_id": 1, "url": f"{host}/VG_100K_2/1.jpg", **sizes},
        {"image_id": 7, "url": f"{host}/VG_100K/7.jpg", **sizes},
    ]


def region(number: int, x: int, y: int, width: int, height: int, phrase: str) -> dict[str, Any]:
    """One region."""
    return {"region_id": number, "x": x, "y": y, "width": width, "height": height, "phrase": phrase, "synsets": []}


def regions() -> list[dict[str, Any]]:
    """Regions inside, across and outside the image, and one without words."""
    first = [
        region(1382, 5, 6, 10, 12, "the clock is green"),
        region(1383, -3, 30, 20, 40, "Shade is along the street"),
        region(1384, 60, 0, 10, 10, "a man"),
        region(1385, 5, 5, 5, 5, " "),
    ]
    return [{"id": 1, "regions": first}, {"id": 7, "regions": [region(99, 0, 0, 60, 40, "the sky")]}]


def make(folder: Path) -> Call:
    """Both files, the splits and the images."""
    write_json(folder / "region_descriptions.json", regions())
    write_json(folder / "image_data.json", images())
    write_json(folder / "densecap_splits.json", {"train": [1], "val": [7], "test": []})
    picture(folder / "VG_100K_2" / "1.jpg")
    picture(folder / "VG_100K" / "7.jpg", 1)
    return str(folder), "all", {}
