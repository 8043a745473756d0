"""Look at data before training on it: every problem with its line, and pictures of the truth.

for problem in validate("my_data/train.jsonl"): ...
show("my_data/train.jsonl", "seen", limit=16)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ufo_tune.core.types import Sample, Samples
from ufo_tune.data.images import open_image, sample_image
from ufo_tune.datasets import jsonl
from ufo_tune.errors import DataError
from ufo_tune.show import draw, sheet

COLUMNS = 4
"""Pictures in a row of a contact sheet."""
_SIDE = 384  # pixels, long side of a picture on a sheet


def validate(file: Path | str, *, classes: Sequence[str] = (), image_root: str = "") -> list[str]:
    """Every problem of a JSONL file, one line each, in the order of its lines; images are decoded.

    Args:
        file: the JSONL.
        classes: class names for rows that have none of their own.
        image_root: folder of the images, where it is not the file's own.

    Raises:
        DataError: there is no such file.
    """
    path = Path(file)
    opened = _each_task(path, classes, image_root)
    problems = list(opened[0].problems)
    checked: dict[Path, str | None] = {}
    for samples in opened:
        problems += sample_problems(samples, checked)
    if not problems and not any(len(s) for s in opened):
        problems = [f"{path}: holds no rows (got an empty file); write one JSON object per line"]
    line = re.compile(re.escape(str(path)) + r":(\d+)")
    return sorted(dict.fromkeys(problems), key=lambda p: int(m[1]) if (m := line.match(p)) else 0)


def sample_problems(samples: Samples, checked: dict[Path, str | None] | None = None) -> Iterator[str]:
    """Every problem of the samples of any dataset: what it raises, and what an image or truth is not.

    Args:
        samples: all are made and their images decoded, each file once.
        checked: images decoded so far and what was wrong with them; extended.
    """
    checked = {} if checked is None else checked
    for number in range(len(samples)):
        try:
            sample = samples[number]
        except DataError as error:
            yield str(error)
            continue
        yield from (f"{sample.source}: {fault}" for fault in _faults(sample, checked))


def show(
    file: Path | str,
    out: Path | str,
    *,
    limit: int = 16,
    classes: Sequence[str] = (),
    image_root: str = "",
) -> list[Path]:
    """Contact sheets of a JSONL's samples with their truth drawn in, one per task: ``<out>/<task>.png``.

    Returns:
        The files written.

    Raises:
        DataError: no such file, a bad row or image, or no rows at all.
    """
    path, folder = Path(file), Path(out)
    opened = _each_task(path, classes, image_root)
    if opened[0].problems:
        raise DataError(opened[0].problems[0])
    written = []
    for samples in opened:
        if len(samples):
            folder.mkdir(parents=True, exist_ok=True)
            written.append(folder / f"{samples.task}.png")
            contact_sheet(samples[: max(1, limit)]).save(written[-1])
    if not written:
        raise DataError(f"{path}: holds no rows (got an empty file); write one JSON object per line")
    return written


def contact_sheet(samples: Samples, columns: int = COLUMNS) -> Any:
    """A ``PIL.Image`` of samples with their truth drawn in and their words below.

    Raises:
        DataError: a bad sample, or none.
    """
    pictures, captions = [], []
    for sample in samples:
        targets = sample.targets
        boxes = targets.boxes if targets is not None else torch.zeros(0, 4)
        names = [sample.classes[k] for k in targets.labels.tolist()] if targets is not None and sample.classes else None
        masks = targets.masks if targets is not None else None
        pictures.append(draw(_shown(sample), boxes, masks, names, scale_to=_SIDE))
        words = sample.text or ", ".join(sample.classes)
        said = f" -> {targets.text}" if targets is not None and targets.text else ""
        captions.append(f"{Path(sample.source).name} {words}{said}")
    return sheet(pictures, captions, columns)


def _shown(sample: Sample) -> np.ndarray:
    """The picture of a sample; white where it is text only."""
    image = sample_image(sample)
    return np.full((_SIDE // 4, _SIDE, 3), 255, dtype=np.uint8) if image is None else image


def _each_task(path: Path, classes: Sequence[str], image_root: str) -> list[jsonl.Jsonl]:
    return [
        jsonl.open_file(path, task=task, classes=classes, image_root=image_root, on_bad_sample="skip")
        for task in jsonl.TASKS
    ]


def _faults(sample: Sample, checked: dict[Path, str | None]) -> Iterator[str]:
    """What is wrong with a sample that could be made."""
    if isinstance(sample.image, np.ndarray):
        shape: tuple[int, ...] = sample.image.shape[:2]
        if shape != tuple(sample.size):
            yield f"the image is {shape} but the annotation says {tuple(sample.size)}; mend one of them"
    elif sample.image is not None:
        if sample.image not in checked:
            checked[sample.image] = _unreadable(sample.image, sample.size)
        if (fault := checked[sample.image]) is not None:
            yield fault
    targets = sample.targets
    if targets is None:
        return
    height, width = sample.size
    corner = torch.tensor([width, height])
    inside = ((targets.boxes[:, :2] >= 0) & (targets.boxes[:, 2:] <= corner)).all(1)  # [N]
    for box in targets.boxes[~inside].tolist():
        yield f"box is outside the image (got {box}, image {width}x{height}); give xyxy pixels of the original image"
    for rle in targets.masks or ():
        if tuple(rle["size"]) != tuple(sample.size):
            yield f"mask is {tuple(rle['size'])} but the image is {tuple(sample.size)}; check the annotation"
    count = len(sample.classes)
    if count and ((targets.labels < 0) | (targets.labels >= count)).any():
        yield f"label is out of range (got {targets.labels.tolist()} of {count} classes); check the class list"


def _unreadable(image: Path, size: tuple[int, int]) -> str | None:
    try:
        shape = open_image(image).shape[:2]
    except DataError as error:
        return str(error)
    return None if shape == tuple(size) else f"the image is {shape} but the annotation says {size}; mend one of them"
