"""Karpathy's ``dataset_coco.json``, and BLIP's files of the same captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data_files import Call, picture, write_json

CAPTIONS = {
    ("train2014", "COCO_train2014_000000000009.png", "train"): ["A red cup.", "a cup on  a table\n"],
    ("val2014", "COCO_val2014_000000000042.png", "restval"): ["A plate."],
    ("val2014", "COCO_val2014_000000000073.png", "test"): ["Two motorcycles.", "A motorbike", "Wheels."],
}


def karpathy() -> dict[str, Any]:
    """All splits."""
    return {
        "dataset": "coco",
        "images": [
            {"filepath": path, "filename": name, "split": split, "imgid": number, "cocoid": int(name[-16:-4]),
             "sentids": [], "sentences": [{"raw": c, "tokens": c.split(), "imgid": number} for c in said]}
            for number, ((path, name, split), said) in enumerate(CAPTIONS.items())
        ],
    }  # fmt: skip


def blip(split: str) -> list[dict[str, Any]]:
    """A row per caption in train, per image elsewhere."""
    wanted = ("train", "restval") if split == "train" else (split,)
    images = {f"{path}/{name}": said for (path, name, part), said in CAPTIONS.items() if part in wanted}
    if split != "train":
        return [{"image": image, "caption": said} for image, said in images.items()]
    return [{"image": i, "caption": c, "image_id": f"coco_{i[-16:-4]}"} for i, said in images.items() for c in said]


def make(folder: Path) -> Call:
    """Both layouts and their images."""
    for number, (path, name, _) in enumerate(CAPTIONS):
        picture(folder / path / name, number)
    write_json(folder / "dataset_coco.json", karpathy())
    for split in ("train", "test"):
        write_json(folder / "annotations" / f"coco_karpathy_{split}.json", blip(split))
    return str(folder), "train", {}
