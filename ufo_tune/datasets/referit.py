"""``referit``: ReferItGame's phrases on the segmented IAPR TC-12 (SAIAPR), in the berkeley split's own files.

    samples = load("/data/referit", "test", task="rec")

Expected below ``root``::

    referit_query_{split}.json      {"8756_2": ["sunray at very top", ...], ...}: phrases of region 2 of image 8756
    referit_bbox.json               {"8756_2": [x0, y0, x1, y1], ...}: first and last pixel
    referit_imsize.json             {"8756.jpg": [width, height], ...}
    images/8756.jpg
    mask/8756_2.mat                 for ``res``: ``segimg_t``, 0 inside

The JSON files are in ``exp-referit/data`` of the source, images and masks in the archive that it downloads. A box
runs to the end of its last pixel: one more than the files say. ``refcoco`` with variant refclef has the same phrases,
cleaned, in REFER's layout, without the two training and one test image that REFER misses. Keys may end in ``.png``,
as in the first edition of the files. Phrases without words are left out; ``Phrases.dropped`` counts them.

Phrases as published: 54,127 train, 5,842 val, 60,103 test, of 9,000, 1,000 and 10,000 images.

Licence: free of charge (IAPR TC-12); phrases for research. Source: Kazemzadeh et al. 2014 (EMNLP); split and files
Hu et al. 2016 (arXiv 1511.04164, 1603.06180), github.com/ronghanghu/text_objseg.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ufo_tune.datasets import _phrases
from ufo_tune.datasets import _readers as readers
from ufo_tune.datasets._phrases import TASKS, Phrase, Phrases
from ufo_tune.errors import DataError

__all__ = ["TASKS", "load"]


def load(root: str, split: str, *, task: str, image_dir: str = "images", mask_dir: str = "mask") -> Phrases:
    """One sample per phrase, in the order of the file.

    Args:
        root: folder that all other paths are below.
        split: ``train``, ``val``, ``trainval``, ``test`` or ``all``.
        task: one of ``TASKS``.
        image_dir: folder of the images.
        mask_dir: folder of the masks.

    Raises:
        ConfigError: an unknown task.
        DataError: a file is missing or does not hold what it should.
    """
    _phrases.chosen("referit.task", task, TASKS)
    folder = Path(root)
    queries, boxes, sizes = (folder / f"referit_{name}.json" for name in (f"query_{split}", "bbox", "imsize"))
    return _phrases.read(
        f"referit/{split}",
        task,
        lambda dropped: _regions(queries, boxes, sizes, dropped),
        images=folder / image_dir,
        mask_folder=folder / mask_dir,
        sources=[queries, boxes, sizes],
        code=[__file__],
    )


def _regions(queries: Path, boxes: Path, sizes: Path, dropped: Counter[str]) -> Iterator[Phrase]:
    bounds = {_stem(name): box for name, box in readers.read_json(boxes).items()}
    shown = {_stem(name): size for name, size in readers.read_json(sizes).items()}
    for key, texts in readers.read_json(queries).items():
        region, where = _stem(key), f"{queries}: {key}"
        image = region.split("_")[0]
        x0, y0, x1, y1 = readers.numbers(_listed(bounds, region, boxes, where), 4, f"{boxes}: {region}")
        width, height = readers.numbers(_listed(shown, image, sizes, where), 2, f"{sizes}: {image}")
        if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
            raise DataError(f"{where}: is no list of texts (got {texts!r:.80}); mend the file")
        for number, text in enumerate(texts):
            if not text.strip():
                dropped["no words"] += 1
                continue
            yield Phrase(
                file=f"{image}.jpg",
                size=(int(height), int(width)),
                image_id=image,
                text=text,
                name=f"{region}.{number}",
                boxes=((x0, y0, x1 + 1, y1 + 1),),
                masks=(f"{region}.mat",),
            )


def _stem(name: str) -> str:
    return name.rsplit(".", 1)[0]


def _listed(table: dict[str, Any], key: str, path: Path, where: str) -> Any:
    if key not in table:
        raise DataError(f"{where}: {key!r} is not listed (got nothing in {path}); do the files belong together?")
    return table[key]
