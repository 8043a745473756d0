"""Semantic segmentation from pairs of files: an image, and a label map with one number per pixel.

    pairs = pair_up("ade20k", images, labels)
    samples = LabelMaps("ade20k/validation", classes, pairs, images, labels, class_numbers(range(1, 151), ignored=[0]))

Folders are listed once; afterwards the times of the folders stand for what is in them. Label maps are read on access.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image as pil

from ufo_tune.core.images import FORMATS, MAX_PIXELS
from ufo_tune.core.lazy import Lazy
from ufo_tune.core.types import Sample, Targets
from ufo_tune.datasets import _readers as readers
from ufo_tune.datasets import _table
from ufo_tune.errors import ConfigError, DataError
from ufo_tune.plugins import did_you_mean

if TYPE_CHECKING:
    from datasets import Features

TASKS = ("semantic_segmentation",)
IMAGES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"})
"""Endings of image files."""
IGNORED = -1
NO_CLASS = -2
_VALUES = 1 << 16  # that a pixel of a label map can have
_PLAIN = ("1", "L", "P", "I;16", "I;16B", "I")  # Pillow's modes with one number per pixel


@dataclass(frozen=True, slots=True)
class LabelMaps(Lazy[Sample]):
    """Samples made on access. ``numbers`` is what ``class_numbers`` gives."""

    name: str
    classes: tuple[str, ...]
    pairs: _table.Table
    images: Path
    labels: Path
    numbers: np.ndarray

    @property
    def image_ids(self) -> tuple[str, ...]:
        """One per sample."""
        return tuple(self.pairs.column("id").to_pylist())

    def __len__(self) -> int:
        return len(self.pairs)

    def _make(self, number: int) -> Sample:
        """One sample.

        Raises:
            DataError: the label map cannot be read, or has a value that is no class.
        """
        row = self.pairs[number]
        source, file = f"{self.name}#{row['id']}", self.labels / row["labels"]
        label_map = to_numbers(read_values(file), self.numbers, f"{source}: {file}")  # [H, W]
        return Sample(
            image=self.images / row["image"],
            size=(label_map.shape[0], label_map.shape[1]),
            task=TASKS[0],
            classes=self.classes,
            targets=Targets(label_map=label_map),
            source=source,
            image_id=row["id"],
        )


def class_numbers(values: Sequence[int], ignored: Iterable[int] = ()) -> np.ndarray:
    """What each pixel value means: [65536] int16 of class numbers, ``IGNORED`` or ``NO_CLASS``.

    Args:
        values: the value of each class, in the order of the classes.
        ignored: values that stand for no class; a class goes before.

    Raises:
        ConfigError: a value that no pixel can have.
    """
    numbers = np.full(_VALUES, NO_CLASS, dtype=np.int16)
    for value in (*ignored, *values):
        if not 0 <= value < _VALUES:
            raise ConfigError(f"label map: no pixel has this value (got {value}); give 0 to {_VALUES - 1}")
    numbers[list(ignored)] = IGNORED
    numbers[list(values)] = np.arange(len(values))
    return numbers


def to_numbers(values: np.ndarray, numbers: np.ndarray, where: str) -> np.ndarray:
    """Class numbers of values of any shape: int16, ``IGNORED`` for none.

    Raises:
        DataError: a value that is no class and not ignored.
    """
    found: np.ndarray = numbers[values]
    if (found == NO_CLASS).any():
        wrong, known = values[found == NO_CLASS], np.flatnonzero(numbers >= 0)
        raise DataError(
            f"{where}: no class has this value (got {wrong[0]}, {wrong.size} times); classes have values "
            f"{known[0]} to {known[-1]}; check the file and the list of classes"
        )
    return found


def read_values(path: Path) -> np.ndarray:
    """The numbers [H, W] of a file with one number per pixel: grey of up to 16 bits, or places in a palette.

    Raises:
        DataError: unreadable, too large, or a colour picture.
    """
    try:
        with pil.open(path, formats=FORMATS) as opened:
            mode, count = opened.mode, opened.width * opened.height
            values = np.asarray(opened) if mode in _PLAIN and count <= MAX_PIXELS else None
    except (OSError, SyntaxError, ValueError, pil.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot read the label map (got {error}); give a PNG") from error
    if values is None:
        raise DataError(
            f"{path}: is no label map (got {count} pixels of mode {mode}); give one number per pixel, as a grey or "
            f"palette PNG of at most {MAX_PIXELS} pixels"
        )
    if values.dtype == bool:
        return values.astype(np.uint8)
    if values.dtype.kind == "i" and (values.min() < 0 or values.max() >= _VALUES):
        raise DataError(f"{path}: has 32-bit numbers (got {values.min()} to {values.max()}); save it as 8 or 16 bit")
    return values


def pair_up(
    name: str,
    images: Path,
    labels: Path,
    *,
    suffix: str = ".png",
    without: str = "",
    nested: bool = False,
    numbered: bool = False,
) -> _table.Table:
    """A table with the columns ``image``, ``labels`` (paths below their folders) and ``id``, in the order of paths.

    Images without labels are not in it.

    Args:
        name: of the dataset.
        images: folder.
        labels: folder; may be the same.
        suffix: what ``labels`` has after the image's name.
        without: files that end so are something else.
        nested: look into folders below, too.
        numbered: names are numbers, and ids are these without zeros in front, as COCO's JSON has them.

    Raises:
        DataError: no label map, one without an image, or two images of one name.
    """

    def make() -> _table.Made:
        shown: dict[str, str] = {}
        for file in files(images, nested):
            stem, ending = os.path.splitext(file)
            if ending.lower() not in IMAGES or (images == labels and file.endswith(suffix)):
                continue
            if stem in shown:
                raise DataError(f"{images}: two images have one name (got {shown[stem]} and {file}); rename one")
            shown[stem] = file
        rows = []
        for file in files(labels, nested):
            if not file.endswith(suffix) or (without and file.endswith(without)):
                continue
            stem = file.removesuffix(suffix)
            if stem not in shown:
                raise DataError(f"{labels / file}: has no image (got none of that name in {images}); copy it there")
            rows.append({"image": shown[stem], "labels": file, "id": (numbered and stem.lstrip("0")) or stem})
        if not rows:
            raise DataError(f"{labels}: no file ends with {suffix} (got none of {len(shown)} images); check the folder")
        return {}, rows

    times = [*folder_times(images, nested), *folder_times(labels, nested)]
    options = {"folders": times, "by": [suffix, without, numbered]}
    return _table.table(name, make, features=_features, sources=[], code=[__file__], options=options)


def read_names(path: Path) -> list[str]:
    """The lines of a list of class names, without empty ones at its end.

    Raises:
        DataError: no such file, or not UTF-8.
    """
    try:
        return readers.existing(path, "list of classes").read_text(encoding="utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text (got {error}); save it as UTF-8") from error


def check_task(task: str, known: Sequence[str], dataset: str) -> None:
    """Refuse a task that the dataset does not serve.

    Raises:
        ConfigError: it does not.
    """
    if task not in known:
        raise ConfigError(f"datasets/{dataset}: no such task (got {task!r}); {did_you_mean(task, known)}")


def files(folder: Path, nested: bool) -> list[str]:
    """Paths below a folder, sorted, without hidden ones (other systems leave some beside every image)."""
    return sorted(
        (place / name).relative_to(folder).as_posix()
        for place, names in _walk(folder, nested)
        for name in names
        if not name.startswith(".")
    )


def folder_times(folder: Path, nested: bool) -> list[tuple[str, int]]:
    """Folders and the times at which a file last came or went there: no need to look at every file."""
    places = [place for place, _ in _walk(folder, nested)] if nested else [folder]
    return [(str(place.resolve()), place.stat().st_mtime_ns) for place in places]


def _walk(folder: Path, nested: bool, above: tuple[str, ...] = ()) -> Iterator[tuple[Path, list[str]]]:
    """Folders and the names of the files in them; links to folders count, unless they lead back to one ``above``."""
    place = os.path.realpath(folder)
    if place in above:
        return
    with os.scandir(folder) as found:
        folders = {entry.name: entry.is_dir() for entry in found}
    yield folder, [name for name, is_folder in folders.items() if not is_folder]
    for name in sorted(name for name, is_folder in folders.items() if is_folder and nested):
        yield from _walk(folder / name, nested, (*above, place))


def _features() -> Features:
    from datasets import Features, Value

    return Features({"image": Value("string"), "labels": Value("string"), "id": Value("string")})
