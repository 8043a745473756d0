"""``reason_seg``: ReasonSeg's implicit instructions and the masks that answer them.

    samples = load("/data/reason_seg/ReasonSeg", "val", task="res")                       # LISA's protocol
    samples = load("/data/reason_seg/ReasonSeg", "test_long", task="res")                 # its long sentences
    samples = load("/data/reason_seg/ReasonSeg", "train", task="res", sentences="all")    # one sample a rephrasing

Expected below ``root``: ``train/``, ``val/``, ``test/`` with ``<name>.jpg`` and ``<name>.json`` side by side (239, 200
and 779 of them). A JSON file holds ``text`` (instructions; rephrasings in train), ``is_sentence`` and ``shapes``:
polygons labelled ``target`` or ``ignore``; those labelled ``flag`` mean nothing and are left out.

Masks are LISA's, pixel for pixel: corners are cut to whole pixels, outlines belong to the polygon, larger polygons
are drawn first, so that every pixel is what the *smallest* polygon over it says. (COCO's run lengths of the same
polygons lose half a pixel around; on the chair of the published samples that is IoU 0.88.) What is left of ignored
regions is ``Targets.ignore`` in val and test, where it is not scored, and background in train, as in LISA.

LISA scores the first instruction of an image only (default ``first``). Papers report short phrases and long sentences
apart: a split's name may end in ``_short`` or ``_long`` and has those images then. Files are UTF-8 or, as some of the
originals are, Windows-1252.

``explanatory/train.json`` is a list of ``{"image": file name, "outputs": words, ..}``: what the mask of a training
image is, and why. The option ``explanations`` adds the words, for the template ``reason_seg_explained``.

Licence: CC BY-NC 4.0. Source: Lai et al. 2024, LISA (arXiv 2308.00692); github.com/dvlab-research/LISA,
``utils/data_processing.py``, ``utils/reason_seg_dataset.py``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ufo_tune.core import masks
from ufo_tune.core.images import image_size
from ufo_tune.core.types import Rle
from ufo_tune.datasets import _filled_polygon, _json_rows, _phrases
from ufo_tune.datasets import _readers as readers
from ufo_tune.datasets._phrases import Phrase, Phrases, field
from ufo_tune.errors import DataError

__all__ = ["TASKS", "load"]

TASKS = ("res",)
_TARGET, _IGNORE = 1, 2
_IMAGES = {".jpg", ".jpeg", ".png"}
_LENGTHS = ("short", "long")


def load(
    root: str,
    split: str,
    *,
    task: str,
    sentences: Literal["first", "all"] = "first",
    explanations: str = "",
) -> Phrases:
    """One sample per image, or per instruction, in the order of file names.

    Args:
        root: folder of the splits' folders.
        split: ``train``, ``val`` or ``test``; with ``_short`` or ``_long`` only the images whose instructions are
            short phrases, or long sentences (``is_sentence``); ``Phrases.dropped`` counts the others' instructions.
        task: one of ``TASKS``.
        sentences: the first instruction of each image, or all.
        explanations: file below ``root`` that explains the masks in words (``explanatory/train.json``); only images
            that it explains are there then, with ``Targets.text``, the others are counted as dropped.

    Raises:
        ConfigError: an unknown task or choice.
        DataError: no such folder, an image without JSON file, a file that does not hold what it should.
    """
    _phrases.chosen("reason_seg.task", task, TASKS)
    _phrases.chosen("reason_seg.sentences", sentences, ("first", "all"))
    part, _, length = split.rpartition("_")
    part, length = (part, length) if part and length in _LENGTHS else (split, "")
    folder = Path(root) / part
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder (got split {split!r}); check root and split")

    file = Path(root) / explanations

    def make(dropped: Counter[str]) -> Iterator[Phrase]:
        explained = _explained(file) if explanations else {}
        for image in sorted(p for p in folder.iterdir() if p.suffix.lower() in _IMAGES):
            found = list(_instructions(image, scored=part != "train"))[: 1 if sentences == "first" else None]
            for is_sentence, phrase in found:
                own = _LENGTHS[is_sentence]
                if length not in ("", own):
                    dropped[own] += 1
                elif explanations and image.name not in explained:
                    dropped["not explained"] += 1
                else:
                    yield replace(phrase, said=explained.get(image.name, ""))

    return _phrases.read(
        f"reason_seg/{split}",
        task,
        make,
        images=folder,
        sources=[folder, file] if explanations else [folder],
        code=[__file__, _filled_polygon.__file__],
        options={"sentences": sentences, "length": length, "explanations": explanations},
    )


def _explained(path: Path) -> dict[str, str]:
    """The explanation of each image's mask, by the image's file name."""
    found: dict[str, str] = {}
    for number, (*_, row) in enumerate(_json_rows.rows(path)):
        where = f"{path}: row {number}"
        found[field(row, "image", str, where)] = " ".join(field(row, "outputs", str, where).split())
    return found


def _instructions(image: Path, *, scored: bool) -> Iterator[tuple[bool, Phrase]]:
    """Every instruction of one image, and whether it is a sentence."""
    path = image.with_suffix(".json")
    data = _read(path)
    texts, is_sentence = field(data, "text", list, str(path)), field(data, "is_sentence", bool, str(path))
    if not texts or not all(isinstance(t, str) for t in texts):
        raise DataError(f"{path}: 'text' is no list of texts (got {texts!r:.80}); mend the file")
    size = image_size(image)
    shapes = [_shape(s, f"{path}: shape {k}") for k, s in enumerate(field(data, "shapes", list, str(path)))]
    drawn = _paint([s for s in shapes if s is not None], size)
    target, ignored = _rle(drawn == _TARGET), drawn == _IGNORE
    for number, text in enumerate(texts):
        yield (
            is_sentence,
            Phrase(
                file=image.name,
                size=size,
                image_id=image.stem,
                text=text,
                name=image.stem if len(texts) == 1 else f"{image.stem}.{number}",
                masks=(target,),
                ignore=_rle(ignored) if scored and ignored.any() else None,
            ),
        )


def _read(path: Path) -> dict[str, Any]:
    raw = readers.existing(path, "annotation of the image beside it").read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("cp1252", "replace")
    try:
        data = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}: is not valid JSON ({error}); download it again") from error
    if not isinstance(data, dict):
        raise DataError(f"{path}: must hold an object (got {type(data).__name__}); is this an annotation file?")
    return data


def _shape(shape: Any, where: str) -> tuple[int, list[tuple[int, int]]] | None:
    """What a shape stands for and its corners in whole pixels; None for a flag."""
    label = field(shape, "label", str, where).lower()
    if label == "flag":
        return None
    points = field(shape, "points", list, where)
    corners = [readers.numbers(p, 2, f"{where}: point {k}") for k, p in enumerate(points)]
    if not corners:
        raise DataError(f"{where}: is no polygon (got no points); drop or mend it")
    return _IGNORE if "ignore" in label else _TARGET, [(int(x), int(y)) for x, y in corners]


def _paint(shapes: list[tuple[int, list[tuple[int, int]]]], size: tuple[int, int]) -> np.ndarray:
    """[H, W] uint8: what the smallest polygon over each pixel stands for; 0 outside all."""
    drawn = [(kind, _filled_polygon.draw(corners, size)) for kind, corners in shapes]
    painted = np.zeros(size, dtype=np.uint8)
    # Of equals, the earlier one lies on top, as in LISA, which reverses an ascending order.
    for kind, bitmap in sorted(drawn, key=lambda d: int(d[1].sum()))[::-1]:
        painted[bitmap] = kind
    return painted


def _rle(bitmap: np.ndarray) -> Rle:
    """Run lengths as JSON has them."""
    found = masks.encode(bitmap)
    return {"size": [int(v) for v in found["size"]], "counts": found["counts"].decode()}
