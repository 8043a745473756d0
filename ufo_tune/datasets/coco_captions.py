"""``coco_captions``: COCO's captions in Karpathy's split.

    train = load("/data/coco", "train", task="caption")  # a sample per caption
    test = load("/data/coco", "test", task="caption")    # a sample per image, ``targets.references`` its five captions

Layouts below ``root`` (``annotations`` names another file; ``{split}`` is replaced)::

    karpathy   dataset_coco.json                        all splits in one file; its train and restval are ``train``
    blip       annotations/coco_karpathy_{split}.json   train has a row per caption, val and test a row per image
    both       train2014/  val2014/                     images

Official counts: 113,287 images to train on (82,783 train and 30,504 restval; 566,747 captions), 5,000 val, 5,000 test.
There is no question, so samples have none and the template puts it. Options: see ``load``.

Licence: captions CC BY 4.0, each image has its own. Source: Karpathy and Fei-Fei, arXiv 1412.2306 (caption_datasets);
github.com/salesforce/BLIP for the second layout.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ufo_tune.core.images import image_size
from ufo_tune.core.lazy import Lazy
from ufo_tune.core.types import Sample, Targets
from ufo_tune.datasets import _json_rows, _table
from ufo_tune.errors import ConfigError, DataError
from ufo_tune.plugins import did_you_mean

if TYPE_CHECKING:
    from datasets import Features

TASKS = ("caption",)
SPLITS = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}
"""Ours, and the names that Karpathy's file has for them."""
ANNOTATIONS = {"karpathy": "dataset_coco.json", "blip": "annotations/coco_karpathy_{split}.json"}
_PER = ("auto", "caption", "image")


@dataclass(frozen=True, slots=True)
class Captions(Lazy[Sample]):
    """Samples made on access: one per image or, where ``ends`` [images] counts captions, one per caption."""

    split: str
    table: _table.Table
    ends: np.ndarray | None
    images: Path

    @property
    def image_ids(self) -> tuple[str, ...]:
        """One per sample."""
        ids = np.array(self.table.column("id").to_pylist(), dtype=object)
        return tuple(ids if self.ends is None else np.repeat(ids, np.diff(self.ends, prepend=0)))

    def __len__(self) -> int:
        return len(self.table) if self.ends is None else int(self.ends[-1])

    def _make(self, number: int) -> Sample:
        """One sample.

        Raises:
            DataError: its image is missing or no image.
        """
        place = number if self.ends is None else int(np.searchsorted(self.ends, number, side="right"))
        row = self.table[place]
        source, captions = f"coco_captions/{self.split}#{row['id']}", row["captions"]
        if self.ends is not None:
            which = number - int(self.ends[place]) + len(captions)
            source, captions = f"{source}.{which}", [captions[which]]
        image = self.images / row["image"]
        try:
            size = image_size(image)
        except DataError as error:
            raise DataError(f"{source}: {error}") from error
        targets = Targets(text=captions[0], references=tuple(captions))
        return Sample(image, size, "caption", targets=targets, source=source, image_id=row["id"])


def load(
    root: str,
    split: str,
    *,
    task: str,
    layout: Literal["karpathy", "blip"] = "karpathy",
    annotations: str = "",
    image_root: str = "",
    per: Literal["auto", "caption", "image"] = "auto",
) -> Captions:
    """Captions in the order of the file.

    Args:
        root: folder that the annotation file and, unless ``image_root`` says otherwise, the images are below.
        split: ``train``, ``val`` or ``test``.
        task: ``caption``.
        layout: which file; see the module.
        annotations: path of the file below ``root``.
        image_root: folder that ``train2014`` and ``val2014`` are below.
        per: a sample per caption, or per image with all captions as references; ``auto``: per caption in train.

    Raises:
        ConfigError: an unknown task, split or value of an option.
        DataError: no such file, or a row that is not of its layout.
    """
    for what, got, known in (("task", task, TASKS), ("split", split, SPLITS), ("layout", layout, ANNOTATIONS)):
        if got not in known:
            raise ConfigError(f"datasets/coco_captions: no such {what} (got {got!r}); {did_you_mean(got, known)}")
    if per not in _PER:
        raise ConfigError(f"datasets/coco_captions.per: unknown (got {per!r}); {did_you_mean(per, _PER)}")
    path = Path(root) / (annotations or ANNOTATIONS[layout]).format(split=split)
    table = _table.table(
        "coco_captions",
        lambda: ({}, _blip(path) if layout == "blip" else _karpathy(path, split)),
        features=_features,
        sources=[path],
        code=[__file__, _json_rows.__file__],
        options={"layout": layout, "split": split},
    )
    ends = None
    if per == "caption" or (per == "auto" and split == "train"):
        ends = np.cumsum(table.column("captions").combine_chunks().value_lengths().to_numpy())
    return Captions(split, table, ends, Path(image_root or root))


def _karpathy(path: Path, split: str) -> Iterator[dict[str, Any]]:
    for number, (_, _, _, row) in enumerate(_json_rows.rows(path, "images")):
        where = f"{path}: images[{number}]"
        if _json_rows.field(row, "split", where) in SPLITS[split]:
            folder, file = (_json_rows.field(row, key, where) for key in ("filepath", "filename"))
            said = _json_rows.field(row, "sentences", where)
            yield _record(f"{folder}/{file}", [s.get("raw") if isinstance(s, dict) else s for s in said], where)


def _blip(path: Path) -> Iterator[dict[str, Any]]:
    """One row per image: those of train, which has a row per caption, are put together."""
    captions: dict[str, list[Any]] = {}
    for number, (_, _, _, row) in enumerate(_json_rows.rows(path)):
        image, said = (_json_rows.field(row, key, f"{path}: row {number}") for key in ("image", "caption"))
        captions.setdefault(str(image), []).extend(said if isinstance(said, list) else [said])
    for image, raw in captions.items():
        yield _record(image, raw, f"{path}: {image}")


def _record(image: str, raw: Sequence[Any], where: str) -> dict[str, Any]:
    """Captions with single blanks; the id is COCO's number, at the end of the file's name."""
    captions = [" ".join(c.split()) if isinstance(c, str) else "" for c in raw]
    if not captions or "" in captions:
        raise DataError(f"{where}: a caption is no text (got {raw!r:.80}); mend the file")
    number = re.search(r"\d+$", Path(image).stem)
    return {"image": image, "id": str(int(number[0])) if number else Path(image).stem, "captions": captions}


def _features() -> Features:
    from datasets import Features, Value

    return Features({"image": Value("string"), "id": Value("string"), "captions": [Value("string")]})
