"""``hf``: any dataset of Hugging Face, saved on disk, as parquet files, or on the Hub: objects, questions, captions.

    samples = load("my_data", "train", task="detection", bbox_format="xywh")
    samples = load("user/name", "train", task="vqa", columns={"question": "query", "answer": "label"})

``root`` is one of::

    a folder with <split>/state.json                    what ``DatasetDict.save_to_disk`` writes
    a folder with <split>.parquet or <split>-00000-of-00002.parquet, ..., also below data
    user/name                                           a dataset of the Hub, of plain files: no code of it is run

``columns`` says where things are; a dot goes into a column:

========= ================= ====================================================================================
key       default           holds
========= ================= ====================================================================================
image     image             an image; empty: questions without one
image_id  image_id          samples of one image share it; may be missing
boxes     objects.bbox      four numbers per object, as ``bbox_format`` says
labels    objects.category  a class per object: a number that the dataset names (or ``classes`` does), or a name
question  question          text
answer    answer            text, or a list of texts that are all right; of captions too
========= ================= ====================================================================================

Options: see ``load``. Licence: that of your data. Source: huggingface.co/docs/datasets, "Load", "Object detection".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image as pil
from PIL import ImageOps

from ufo_tune.core.lazy import Lazy
from ufo_tune.core.types import NO_SIZE, Sample, Targets
from ufo_tune.datasets import _readers as readers
from ufo_tune.datasets import _table
from ufo_tune.errors import ConfigError, DataError
from ufo_tune.plugins import did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset

TASKS = ("detection", "vqa", "caption")
COLUMNS = {
    "image": "image",
    "image_id": "image_id",
    "boxes": "objects.bbox",
    "labels": "objects.category",
    "question": "question",
    "answer": "answer",
}
"""Where things are, unless ``columns`` says otherwise."""
_NEEDED = {
    "detection": ("image", "boxes", "labels"),
    "vqa": ("image", "question", "answer"),
    "caption": ("image", "answer"),
}
_FORMATS = ("xyxy", "xywh", "normalised")
_PART = re.compile(r"([-_.]\d+([-_.]of[-_.]\d+)?)?([-_.][0-9a-f]{8,})?")
"""What follows a split in a file's name: which part of how many, and a hash."""
_HUB = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True)
class Rows(Lazy[Sample]):
    """Samples made on access; rows stay on disk."""

    name: str
    task: str
    rows: Dataset
    columns: Mapping[str, str]
    classes: tuple[str, ...]
    bbox_format: str

    @property
    def image_ids(self) -> tuple[str, ...]:
        """One per sample."""
        column = self.columns["image_id"]
        if column in self.rows.column_names:
            return tuple(str(value) for value in self.rows.select_columns([column])[:][column])
        return tuple(f"{self.name}#{number}" for number in range(len(self)))

    def __len__(self) -> int:
        return len(self.rows)

    def _make(self, number: int) -> Sample:
        """One sample.

        Raises:
            DataError: no image, a box outside it, an unknown class, no text.
        """
        source = f"{self.name}#{number}"
        try:
            row = self.rows[number]
        except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises on a damaged image
            raise DataError(f"{source}: cannot be decoded (got {error}); drop or mend the row") from error
        image = _pixels(self._value(row, "image", source), source) if self.columns["image"] else None
        size = NO_SIZE if image is None else (image.shape[0], image.shape[1])
        identity = row.get(self.columns["image_id"], source)
        common: dict[str, Any] = {"source": source, "image_id": str(identity)}
        if self.task == "detection":
            targets = self._objects(row, size, source)
            return Sample(image, size, self.task, classes=self.classes, targets=targets, **common)
        said = self._value(row, "answer", source)
        answers = tuple(_text(a, "answer", source) for a in (said if isinstance(said, list) and said else [said]))
        asks = "question" in _NEEDED[self.task]
        question = _text(self._value(row, "question", source), "question", source) if asks else ""
        return Sample(image, size, self.task, question, targets=Targets(text=answers[0], references=answers), **common)

    def _objects(self, row: dict[str, Any], size: tuple[int, int], source: str) -> Targets:
        boxes, labels = self._value(row, "boxes", source) or [], self._value(row, "labels", source) or []
        if not isinstance(boxes, list) or not isinstance(labels, list):
            raise DataError(f"{source}: boxes and classes are no lists (got {boxes!r:.40}, {labels!r:.40}); mend them")
        if len(boxes) != len(labels):
            raise DataError(f"{source}: needs a class per box (got {len(labels)} for {len(boxes)}); mend the row")
        numbers = [self._class(label, f"{source}: object {k}") for k, label in enumerate(labels)]
        found = [_box(box, self.bbox_format, size, f"{source}: object {k}") for k, box in enumerate(boxes)]
        return Targets(readers.boxes_tensor(found), labels=torch.tensor(numbers, dtype=torch.long))

    def _class(self, label: Any, where: str) -> int:
        if isinstance(label, str):
            return readers.class_number(label, self.classes, where)
        if not isinstance(label, int) or not 0 <= label < len(self.classes):
            raise DataError(f"{where}: no such class (got {label!r} of {len(self.classes)}); mend it, or classes")
        return label

    def _value(self, row: dict[str, Any], key: str, source: str) -> Any:
        """What stands at a column's place; a list of objects gives the list of their values."""
        value: Any = row
        for part in self.columns[key].split("."):
            if isinstance(value, list) and all(isinstance(v, dict) for v in value):
                value = [v.get(part) for v in value]
            elif isinstance(value, dict):
                value = value.get(part)
            else:
                raise DataError(f"{source}: has no {self.columns[key]} (got {value!r:.40}); mend the row, or columns")
        return value


def load(
    root: str,
    split: str,
    *,
    task: str,
    columns: Mapping[str, str] | None = None,
    bbox_format: Literal["xyxy", "xywh", "normalised"] = "xyxy",
    classes: Sequence[str] = (),
    config: str = "",
    revision: str = "",
) -> Rows:
    """One sample per row.

    Args:
        root: folder, or the name of a dataset of the Hub.
        split: such as ``train``.
        task: one of ``TASKS``.
        columns: where things are; see the module.
        bbox_format: ``xyxy`` or ``xywh`` in pixels, or ``normalised``: xyxy in 0 to 1.
        classes: names by number, where the dataset itself has none.
        config: which configuration of a dataset of the Hub.
        revision: which version of it; name one to get the same data every time.

    Raises:
        ConfigError: an unknown task, key of ``columns``, column or format; no class names.
        DataError: no such dataset or split.
    """
    if task not in TASKS:
        raise ConfigError(f"datasets/hf: no such task (got {task!r}); {did_you_mean(task, TASKS)}")
    if bbox_format not in _FORMATS:
        raise ConfigError(
            f"datasets/hf.bbox_format: unknown (got {bbox_format!r}); {did_you_mean(bbox_format, _FORMATS)}"
        )
    for key in columns or {}:
        if key not in COLUMNS:
            raise ConfigError(f"datasets/hf.columns: no such key (got {key!r}); {did_you_mean(key, COLUMNS)}")
    places = {**COLUMNS, **(columns or {})}
    rows = _open(root, split, config, revision)
    for key in _NEEDED[task]:
        name = places[key].partition(".")[0]
        if name not in rows.column_names and not (key == "image" and task == "vqa" and not name):
            hint = did_you_mean(name, rows.column_names)
            raise ConfigError(f"datasets/hf.columns.{key}: {root} has no such column (got {name!r}); {hint}")
    names = _classes(rows, places["labels"], classes, root) if task == "detection" else ()
    return Rows(f"{Path(root).name}/{split}", task, rows, places, names, bbox_format)


def _open(root: str, split: str, config: str, revision: str) -> Dataset:
    from datasets import exceptions, load_dataset, load_from_disk

    folder = Path(root)
    try:
        if (folder / split / "state.json").is_file():
            return load_from_disk(str(folder / split))
        if folder.is_dir():
            files = _parquet(folder, split)
            cache = str(_table.cache_folder() / "hf")
            return load_dataset("parquet", data_files=[str(f) for f in files], split="train", cache_dir=cache)
        if not _HUB.fullmatch(root):
            raise DataError(f"{root}: is no folder (got nothing there for {split}); give one, or user/name of the Hub")
        return load_dataset(root, config or None, split=split, revision=revision or None)
    except (OSError, ValueError, exceptions.DatasetsError) as error:
        raise DataError(f"{root}: {split}: cannot be loaded (got {str(error)[:200]}); check root and split") from error


def _parquet(folder: Path, split: str) -> list[Path]:
    """The files of one split; ``testA.parquet`` is none of ``test``'s.

    Raises:
        DataError: there are none.
    """
    there = sorted({*folder.glob("*.parquet"), *(folder / "data").glob("*.parquet")})
    files = [p for p in there if p.stem.startswith(split) and _PART.fullmatch(p.stem[len(split) :])]
    if not files:
        got = ", ".join(p.name for p in there[:8]) or "neither state.json nor parquet files"
        raise DataError(f"{folder / split}: no such split (got {got}); check it")
    return files


def _classes(rows: Dataset, place: str, given: Sequence[str], root: str) -> tuple[str, ...]:
    """The dataset's own names, or those given."""
    feature: Any = rows.features
    for part in place.split("."):
        feature = getattr(feature, "feature", feature)  # of a list: that of its elements
        feature = feature.get(part) if isinstance(feature, Mapping) else None
    feature = getattr(feature, "feature", feature)
    own = getattr(feature, "names", None)
    if own and given and tuple(own) != tuple(given):
        raise ConfigError(f"datasets/hf.classes: {root} has names of its own (got {list(given)}); leave classes out")
    if not own and not given:
        raise ConfigError(f"datasets/hf.classes: {root} does not name its classes (got {feature}); list their names")
    return tuple(own or given)


def _box(values: Any, form: str, size: tuple[int, int], where: str) -> list[float]:
    a, b, c, d = readers.numbers(values, 4, f"{where}: box")
    if form == "xywh":
        c, d = a + c, b + d
    elif form == "normalised":
        if not all(0 <= v <= 1 for v in (a, b, c, d)):
            raise DataError(f"{where}: box is not in 0 to 1 (got {values}); mend it, or bbox_format")
        height, width = size
        a, b, c, d = a * width, b * height, c * width, d * height
    return readers.box([a, b, c, d], size, where)


def _pixels(image: Any, source: str) -> np.ndarray:
    """RGB [H, W, 3] uint8 of what the library decoded; alpha lies over white, as elsewhere."""
    if not isinstance(image, pil.Image):
        raise DataError(f"{source}: has no image (got {type(image).__name__}); cast the column to datasets.Image()")
    if image.mode not in ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr"):
        raise DataError(f"{source}: image has no 8-bit colours (got mode {image.mode}); convert it to RGB")
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("RGBA", "LA") or "transparency" in upright.info:
        upright = pil.alpha_composite(pil.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
    return np.array(upright.convert("RGB"))  # [H, W, 3]


def _text(value: Any, what: str, source: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{source}: the {what} is no text (got {value!r:.40}); drop or mend the row")
    return value.strip()
