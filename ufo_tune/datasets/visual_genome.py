"""``visual_genome``: Visual Genome's regions, each a box and a phrase about it.

    samples = load("/data/visual_genome", "all", task="rec")

Expected below ``root``::

    region_descriptions.json  image_data.json             version 1.4 (108,077 images, 5.4 million regions)
    VG_100K/<id>.jpg  VG_100K_2/<id>.jpg                  found by the last folder of ``url``
    densecap_splits.json                                  unless the split is ``all``: {"train": [ids], ...}

There are no official splits of regions; DenseCap's (77,398 train, 5,000 val and 5,000 test images) are the usual ones,
and any file of that form will do. Phrases were written for the region and not to tell it from others: good training
data for ``rec`` at scale, no benchmark. Boxes were drawn by hand and may leave the image: they are clipped to it.
Regions of which nothing is left, and those without words, are left out; ``Phrases.dropped`` counts them. About half
of the images are also COCO images, of train2014 and val2014: see ``ufo-tune data audit``.

The regions are read as a stream (the file is a gigabyte): the table is made in some minutes, once.

Licence: CC BY 4.0. Source: Krishna et al. 2016 (arXiv 1602.07332), "Data Readme" of the project's site; splits
github.com/jcjohnson/densecap, ``info/densecap_splits.json``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from ufo_tune.datasets import _json_rows, _phrases
from ufo_tune.datasets import _readers as readers
from ufo_tune.datasets._coco_rows import clip
from ufo_tune.datasets._phrases import Phrase, Phrases, field
from ufo_tune.errors import DataError

__all__ = ["TASKS", "load"]

TASKS = ("rec",)
_SIDES = ("x", "y", "width", "height")


def load(
    root: str,
    split: str,
    *,
    task: str,
    splits: str = "densecap_splits.json",
    image_dir: str = "",
) -> Phrases:
    """One sample per region, in the order of the file.

    Args:
        root: folder that all other paths are below.
        split: ``all``, or a key of the file of splits.
        task: one of ``TASKS``.
        splits: JSON of lists of image ids.
        image_dir: folder that ``VG_100K`` and ``VG_100K_2`` are in; default ``root``.

    Raises:
        ConfigError: an unknown task.
        DataError: a file is missing or does not hold what it should; no such split.
    """
    _phrases.chosen("visual_genome.task", task, TASKS)
    folder = Path(root)
    regions, images = folder / "region_descriptions.json", folder / "image_data.json"
    lists = [] if split == "all" else [folder / splits]

    def make(dropped: Counter[str]) -> Iterator[Phrase]:
        yield from _regions(regions, _images(images), _wanted(lists[0], split) if lists else None, dropped)

    return _phrases.read(
        f"visual_genome/{split}",
        task,
        make,
        images=folder / image_dir,
        sources=[regions, images, *lists],
        code=[__file__, _json_rows.__file__],
    )


def _wanted(path: Path, split: str) -> Collection[int]:
    data = readers.read_json(path)
    if split not in data:
        raise DataError(f"{path}: no such split (got {split!r}); it has {', '.join(data)}, and there is all")
    return frozenset(field(data, split, list, str(path)))


def _images(path: Path) -> dict[int, tuple[str, tuple[int, int]]]:
    """File and size (H, W) of every image."""
    found = {}
    for number, (*_, row) in enumerate(_json_rows.rows(path)):
        where = f"{path}: row {number}"
        size = (field(row, "height", int, where), field(row, "width", int, where))
        file = "/".join(field(row, "url", str, where).split("/")[-2:])
        found[field(row, "image_id", int, where)] = (file, size)
    return found


def _regions(
    path: Path,
    images: dict[int, tuple[str, tuple[int, int]]],
    wanted: Collection[int] | None,
    dropped: Counter[str],
) -> Iterator[Phrase]:
    for number, (*_, row) in enumerate(_json_rows.rows(path)):
        where = f"{path}: row {number}"
        key = field(row, "image_id" if "image_id" in row else "id", int, where)
        if wanted is not None and key not in wanted:
            continue
        if key not in images:
            raise DataError(f"{where}: its image is not listed (got {key}); do the two files belong together?")
        file, size = images[key]
        for place, region in enumerate(field(row, "regions", list, where)):
            spot = f"{where}: region {place}"
            text = field(region, "phrase", str, spot)
            x, y, width, height = readers.numbers([region.get(s) for s in _SIDES], 4, spot)
            box = clip((x, y, x + width, y + height), size)
            if box is None or not text.strip():
                dropped["outside the image" if box is None else "no words"] += 1
                continue
            yield Phrase(file, size, str(key), text, str(region.get("region_id", f"{number}.{place}")), boxes=(box,))
