"""Look at data before training on it: every problem with its line, a copy without them, and pictures of the truth.

problems = validate("my_data/train.jsonl")
fix("my_data/train.jsonl", "my_data/clean.jsonl", problems)
show("my_data/train.jsonl", "seen", limit=16)
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm.auto import tqdm

from ufo_tune import outputs
from ufo_tune.core.types import Sample, Samples, Targets
from ufo_tune.data import in_words
from ufo_tune.data.images import open_image, sample_image
from ufo_tune.datasets import jsonl
from ufo_tune.errors import ConfigError, DataError
from ufo_tune.show import draw, draw_truth, sheet

COLUMNS = 4
"""Pictures in a row of a contact sheet."""
_SIDE = 384  # pixels, long side of a picture on a sheet
_PLACE = re.compile(r".*[/\\#].*|\S+\.\w+(:\d+)?|object \d+|(annotation|segment) \S+")
"""A part of a message that says where: a path, a source, a file with its line, an object of a sample."""


def open_tasks(
    file: Path | str,
    *,
    tasks: Sequence[str] = jsonl.TASKS,
    classes: Sequence[str] = (),
    image_root: str = "",
    on_bad_sample: Literal["error", "skip"] = "error",
) -> list[jsonl.Jsonl]:
    """A JSONL file's samples of each task, also of those that it has none for.

    Args:
        file: the JSONL.
        tasks: those of interest.
        classes: class names for rows that have none of their own.
        image_root: folder of the images, where it is not the file's own.
        on_bad_sample: whether a row of the wrong shape stops, or is left out and counted (``skipped``).

    Raises:
        ConfigError: an unknown task.
        DataError: there is no such file, it is empty, or a row is bad.
    """
    return [
        jsonl.open_file(Path(file), task=task, classes=classes, image_root=image_root, on_bad_sample=on_bad_sample)
        for task in tasks
    ]


def validate(
    file: Path | str, *, tasks: Sequence[str] = jsonl.TASKS, classes: Sequence[str] = (), image_root: str = ""
) -> list[str]:
    """Every problem of a JSONL file, one line each, in the order of its lines; images are decoded, rows put into words.

    That no row serves the tasks is one, too.

    Args:
        file: the JSONL.
        tasks: those whose samples are made.
        classes: class names for rows that have none of their own.
        image_root: folder of the images, where it is not the file's own.

    Raises:
        ConfigError: an unknown task.
        DataError: there is no such file, or it is empty.
    """
    path = Path(file)
    opened = open_tasks(path, tasks=tasks, classes=classes, image_root=image_root, on_bad_sample="skip")
    problems = [*opened[0].faults(), *_repeated(path)]
    checked: dict[Path, str | None] = {}
    for samples in opened:
        problems += sample_problems(samples, checked)
    if not problems and not any(len(samples) for samples in opened):
        problems = [jsonl.nothing_in(opened[0])]
    return sorted(dict.fromkeys(problems), key=lambda problem: line_of(problem, path))


def sample_problems(samples: Samples, checked: dict[Path, str | None] | None = None) -> Iterator[str]:
    """Every problem of the samples of any dataset: what it raises, what an image or truth is not, what no task can say.

    Args:
        samples: all are made and put into words, and their images decoded, each file once.
        checked: images decoded so far and what was wrong with them; extended.
    """
    checked = {} if checked is None else checked
    for number in tqdm(range(len(samples)), desc="validate", unit="sample", disable=None, leave=False):
        try:
            sample = samples[number]
        except DataError as error:
            yield str(error)
            continue
        found = [f"{sample.source}: {fault}" for fault in _faults(sample, checked)]
        yield from found or in_words.faults(sample)


def line_of(problem: str, file: Path | str) -> int:
    """The line of a file that a problem is in, from 1; 0 where it is in none."""
    found = re.match(re.escape(str(file)) + r":(\d+)", problem)
    return int(found[1]) if found else 0


def kind_of(problem: str) -> str:
    """What is wrong, without where and with which value: problems of one kind can be counted together."""
    said = re.split(r" \((?!\d)|;", problem, maxsplit=1)[0]
    parts = [p for p in said.split(": ") if not _PLACE.fullmatch(p)]
    return re.sub(r"\d+", "N", ": ".join(parts) or said)


@dataclass(frozen=True, slots=True)
class Fixed:
    """What ``fix`` wrote: rows kept, and rows left out by their first problem's kind."""

    kept: int
    left_out: dict[str, int]


def fix(file: Path | str, out: Path | str, problems: Sequence[str]) -> Fixed:
    """A copy of a JSONL file without the rows that have problems; the others stay as they are, byte for byte.

    Args:
        file: the JSONL.
        out: file to write, in the same folder, because paths in the rows start there.
        problems: of ``validate``.

    Raises:
        ConfigError: ``out`` exists or lies in another folder.
        DataError: a problem is in no row (a file of class names, say), or every row has one.
    """
    path, target = Path(file), Path(out)
    if target.exists():
        raise ConfigError(f"{target}: exists already (got it as the clean copy); give another name")
    if target.parent.resolve() != path.parent.resolve():
        raise ConfigError(f"{target}: lies in another folder than {path}; write beside it, where its paths start")
    first: dict[int, str] = {}
    for problem in problems:
        if not (line := line_of(problem, path)):
            raise DataError(problem)
        first.setdefault(line, kind_of(problem))
    with path.open("rb") as lines:
        good = [line for number, line in enumerate(lines, start=1) if line.strip() and number not in first]
    if not good:
        raise DataError(f"{path}: no row is without problems (got {len(first)} bad ones); mend them first")
    part = target.with_name(f".{target.name}.part")
    part.write_bytes(b"".join(line if line.endswith(b"\n") else line + b"\n" for line in good))
    part.replace(target)
    return Fixed(len(good), dict(Counter(first.values()).most_common()))


def show(
    file: Path | str, out: Path | str, *, limit: int = 16, classes: Sequence[str] = (), image_root: str = ""
) -> list[Path]:
    """Contact sheets of a JSONL's samples with their truth drawn in, one per task: ``<out>/<task>.png``.

    Returns:
        The files written.

    Raises:
        DataError: no such file, a bad row or image, or no rows at all.
    """
    opened = open_tasks(file, classes=classes, image_root=image_root)
    return sheets({samples.task: samples for samples in opened}, out, limit=limit)


def sheets(samples: dict[str, Samples], out: Path | str, *, limit: int = 16) -> list[Path]:
    """Contact sheets of samples by task: ``<out>/<task>.png``, for those tasks that have any.

    Raises:
        ConfigError: ``out`` cannot be a folder.
        DataError: a bad sample.
    """
    folder = outputs.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for task, found in samples.items():
        if len(found):
            written.append(folder / f"{task}.png")
            contact_sheet(found[: max(1, limit)]).save(written[-1])
    return written


def contact_sheet(samples: Samples, columns: int = COLUMNS) -> Any:
    """A ``PIL.Image`` of samples with their truth drawn in and their words below.

    Raises:
        DataError: a bad sample, or none.
    """
    captions = []
    for sample in samples:
        targets = sample.targets
        words = sample.text or _present(sample)
        said = f" -> {targets.text}" if targets is not None and targets.text else ""
        captions.append(f"{Path(sample.source).name} {words}{said}")
    return sheet([_drawn(sample) for sample in samples], captions, columns)


def _present(sample: Sample) -> str:
    """The classes that a sample has objects of, the others as a number."""
    if not sample.classes:
        return ""
    labels = _labels(sample.targets) if sample.targets is not None else []
    names = list(dict.fromkeys(sample.classes[k] for k in labels))
    return f"{', '.join(names) or 'nothing'} ({len(names)} of {len(sample.classes)} classes)"


def _labels(targets: Targets) -> list[int]:
    """Class numbers of the objects, or of the areas of a label map."""
    if targets.label_map is None:
        return targets.labels.tolist()
    return np.unique(targets.label_map[targets.label_map >= 0]).tolist()


def _drawn(sample: Sample) -> Any:
    """One picture with its truth, or as it is where that is words."""
    if (truth := draw_truth(sample, scale_to=_SIDE)) is not None:
        return truth
    image = sample_image(sample)
    if image is None:  # text only
        image = np.full((_SIDE // 4, _SIDE, 3), 255, dtype=np.uint8)
    return draw(image, scale_to=_SIDE)


def _repeated(path: Path) -> Iterator[str]:
    """Rows that say the same as an earlier one, whatever the order of their keys."""
    seen: dict[bytes, int] = {}
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                said = json.dumps(json.loads(line), sort_keys=True)
            except (ValueError, RecursionError):  # told already
                continue
            first = seen.setdefault(hashlib.blake2b(said.encode(), digest_size=16).digest(), number)
            if first != number:
                yield f"{path}:{number}: is a row twice (got the same in line {first}); drop one of them"


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
    for found, what in _sizes(targets):
        if found != tuple(sample.size):
            yield f"{what} is {found} but the image is {tuple(sample.size)}; check the annotation"
    count = len(sample.classes)
    labels = targets.labels if targets.label_map is None else torch.from_numpy(np.unique(targets.label_map))
    lowest = 0 if targets.label_map is None else -1
    if count and ((labels < lowest) | (labels >= count)).any():
        yield f"label is out of range (got {labels.tolist()} of {count} classes); check the class list"


def _sizes(targets: Targets) -> Iterator[tuple[tuple[int, ...], str]]:
    """(H, W) of everything that must fit the image, and what it is."""
    yield from ((tuple(rle["size"]), "mask") for rle in targets.masks or ())
    maps = {"label map": targets.label_map, "depth": targets.depth, "map of normals": targets.normals}
    yield from ((values.shape[:2], what) for what, values in maps.items() if values is not None)


def _unreadable(image: Path, size: tuple[int, int]) -> str | None:
    try:
        shape = open_image(image).shape[:2]
    except DataError as error:
        return str(error)
    return None if shape == tuple(size) else f"the image is {shape} but the annotation says {size}; mend one of them"
