"""Synthetic files for ``data.py``: photographs of noise, COCO's JSON with polygons, REFER's pickle over it."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (480, 640)
"""(H, W) of every image: COCO's usual one."""
CLASSES = tuple(f"thing{k}" for k in range(80))
PHRASE = "the red thing on the left of the other one"


def write(folder: Path, images: int, objects: int = 8, corners: int = 40) -> Path:
    """So many images with so many objects each, in the layout of ``coco`` (split train) and of ``refcoco``."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(images):
        for name in (f"train/{number}.jpg", f"images/train2014/{number}.jpg"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        path = folder / f"train/{number}.jpg"
        photograph(rng).save(path, quality=90)
        (folder / f"images/train2014/{number}.jpg").hardlink_to(path)
        rows += [_annotation(len(rows) + k + 1, number, _polygon(rng, corners), rng) for k in range(objects)]
    document = _document(images, rows)
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(document))
    (folder / "refcoco").mkdir()
    (folder / "refcoco" / "instances.json").write_text(json.dumps(document))
    refs = [
        {"ref_id": n, "ann_id": row["id"], "category_id": row["category_id"], "image_id": row["image_id"],
         "split": "train", "sent_ids": [n], "file_name": f"{row['image_id']}.jpg",
         "sentences": [{"sent_id": n, "sent": PHRASE, "raw": PHRASE, "tokens": PHRASE.split()}]}
        for n, row in enumerate(rows)
    ]  # fmt: skip
    (folder / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    return folder


def write_table(folder: Path, images: int, annotations: int, corners: int = 20) -> Path:
    """One large JSON of COCO's layout and no pictures, written piece by piece."""
    (folder / "train").mkdir(parents=True)
    (folder / "annotations").mkdir()
    rng = np.random.default_rng(1)
    polygons = [_polygon(rng, corners) for _ in range(200)]
    places = np.sort(rng.integers(images, size=annotations)).tolist()
    frame = json.dumps(_document(images, []))
    head, tail = frame.split('"annotations": []')
    with (folder / "annotations" / "instances_train.json").open("w") as file:
        file.write(head + '"annotations": [')
        for number, image in enumerate(places):
            row = _annotation(number + 1, image, polygons[number % len(polygons)], rng)
            file.write(("," if number else "") + json.dumps(row))
        file.write("]" + tail)
    return folder


def photograph(rng: np.random.Generator) -> Image.Image:
    """Smooth colours and some grain: about 130 kB, as a photograph of this size has."""
    height, width = SIZE
    coarse = Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    return Image.fromarray((smooth + rng.integers(-8, 9, (height, width, 1))).clip(0, 255).astype(np.uint8))


def _polygon(rng: np.random.Generator, corners: int) -> np.ndarray:
    """[corners, 2] x, y of a ragged blob."""
    centre = rng.uniform([80, 80], [SIZE[1] - 80, SIZE[0] - 80])
    ragged = (rng.uniform(20, 75) * (1 + 0.03 * rng.standard_normal(corners).cumsum())).clip(8, 79)
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    around = np.stack([np.cos(angle), np.sin(angle)], 1)  # [corners, 2]
    return (centre + ragged[:, None] * around).round(2)


def _annotation(number: int, image: int, polygon: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    (x0, y0), (x1, y1) = polygon.min(0).tolist(), polygon.max(0).tolist()
    return {
        "id": number,
        "image_id": image,
        "category_id": int(rng.integers(len(CLASSES))) + 1,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": 0.7 * (x1 - x0) * (y1 - y0),
        "iscrowd": 0,
        "segmentation": [polygon.reshape(-1).tolist()],
    }


def _document(images: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
    def shown() -> Iterator[dict[str, Any]]:
        for number in range(images):
            yield {"id": number, "file_name": f"{number}.jpg", "height": SIZE[0], "width": SIZE[1]}

    categories = [{"id": k + 1, "name": name} for k, name in enumerate(CLASSES)]
    return {"images": list(shown()), "categories": categories, "annotations": rows}
