"""``flickr30k_entities``: noun phrases of Flickr30k's captions and the boxes of what they name.

    samples = load("/data/flickr30k_entities", "val", task="rec", boxes="union")

Expected below ``root``::

    train.txt  val.txt  test.txt           image ids, one a line
    Sentences/<id>.txt                     five captions: [/EN#283585/people A child] in [/EN#283586/clothing ...]
    Annotations/<id>.xml                   boxes of the ids behind EN#
    flickr30k-images/<id>.jpg              or flickr30k_images, or images

One sample per phrase that has a box, in the order of the lists, captions and words. Phrases with several boxes ("two
men") are left out, or their boxes are united (``union``: the "merged boxes" protocol of phrase grounding); phrases
without box (scenes, things not to be seen, words that name nothing) are left out. ``Phrases.dropped`` counts both.
Boxes are the dataset's own reader's: pixels counted from 1 become pixels counted from 0, all four by minus one.

31,783 images (29,783 train, 1,000 val, 1,000 test), 158,915 captions, 276 thousand boxes. Captions stay in their case.

Licence: annotations for research; images under Flickr's terms, for non-commercial research only. Source: Plummer et
al. 2015 (arXiv 1505.04870); github.com/BryanPlummer/flickr30k_entities, README and ``flickr30k_entities_utils.py``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from ufo_tune.datasets import _phrases
from ufo_tune.datasets import _readers as readers
from ufo_tune.datasets._coco_rows import Box, clip
from ufo_tune.datasets._paths import first_folder
from ufo_tune.datasets._phrases import Phrase, Phrases
from ufo_tune.errors import DataError

__all__ = ["TASKS", "load"]

TASKS = ("rec",)
_PHRASE = re.compile(r"\[/EN#(\d+)\S*\s+([^\]]*)\]")
_IMAGES = ("flickr30k-images", "flickr30k_images", "images")
_Boxes = dict[str, list[Box]]


def load(
    root: str,
    split: str,
    *,
    task: str,
    boxes: Literal["one", "union"] = "one",
    image_dir: str = "",
) -> Phrases:
    """One sample per phrase with a box.

    Args:
        root: folder that all other paths are below.
        split: name of a list of image ids, without ``.txt``.
        task: one of ``TASKS``.
        boxes: phrases with exactly one box, or also those with several, united.
        image_dir: folder of the images; default the first that exists of those above.

    Raises:
        ConfigError: an unknown task or choice.
        DataError: a file is missing or does not hold what it should.
    """
    _phrases.chosen("flickr30k_entities.task", task, TASKS)
    _phrases.chosen("flickr30k_entities.boxes", boxes, ("one", "union"))
    folder = Path(root)
    listed = readers.existing(folder / f"{split}.txt", "list of images")

    def make(dropped: Counter[str]) -> Iterator[Phrase]:
        for image in listed.read_text(encoding="utf-8").split():
            size, found = _annotations(folder / "Annotations" / f"{image}.xml", dropped)
            for name, chain, text in _captions(folder / "Sentences" / f"{image}.txt"):
                named = found.get(chain, [])
                if not named or (len(named) > 1 and boxes == "one"):
                    dropped["several boxes" if named else "no box"] += 1
                    continue
                yield Phrase(f"{image}.jpg", size, image, text, f"{image}.{name}", boxes=named)

    return _phrases.read(
        f"flickr30k_entities/{split}",
        task,
        make,
        images=folder / image_dir if image_dir else first_folder(folder, *_IMAGES, option="image_dir"),
        sources=[listed, folder / "Annotations", folder / "Sentences"],
        code=[__file__],
        options={"boxes": boxes},
    )


def _captions(path: Path) -> Iterator[tuple[str, str, str]]:
    """Place within the file, id and words of every phrase."""
    try:
        lines = readers.existing(path, "captions").read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 ({error}); save it as UTF-8") from error
    for number, line in enumerate(lines):
        if line.count("[/EN#") != len(_PHRASE.findall(line)):
            raise DataError(f"{path}:{number + 1}: a phrase does not end (got {line!r:.80}); close it with ]")
        for place, found in enumerate(_PHRASE.finditer(line)):
            yield f"{number}.{place}", found[1], found[2]


def _annotations(path: Path, dropped: Counter[str]) -> tuple[tuple[int, int], _Boxes]:
    """Size (H, W) of the image, and the boxes of every id; those without area in the image are counted."""
    try:
        tree = ElementTree.parse(readers.existing(path, "annotation file")).getroot()
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: is not valid XML ({error}); download it again") from error
    size = (_number(tree, "size/height", path), _number(tree, "size/width", path))
    boxes: _Boxes = {}
    for thing in tree.iterfind("object"):
        for bounds in thing.iterfind("bndbox"):
            x0, y0, x1, y1 = (float(_number(bounds, side, path) - 1) for side in ("xmin", "ymin", "xmax", "ymax"))
            clipped = clip((x0, y0, x1, y1), size)
            if clipped is None:
                dropped["boxes without area"] += 1
                continue
            for name in thing.iterfind("name"):
                boxes.setdefault((name.text or "").strip(), []).append(clipped)
    return size, boxes


def _number(element: ElementTree.Element, place: str, path: Path) -> int:
    text = element.findtext(place, "").strip()
    if not text.isdigit():
        raise DataError(f"{path}: {place} is no whole number (got {text!r}); download it again")
    return int(text)
