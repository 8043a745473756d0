"""``refcoco``: RefCOCO, RefCOCO+, RefCOCOg and RefCLEF as the REFER toolkit has them; one sample per sentence.

    samples = load("/data/refer_seg", "testA", task="res", variant="refcoco+")
    samples = load("/data/refer_seg", "val", task="rec", variant="refcocog", split_by="google")

Expected below ``root`` (REFER's ``data`` folder)::

    refcoco/instances.json  refcoco/refs(unc).p           and so on for refcoco+, refcocog, refclef
    images/mscoco/images/train2014/COCO_train2014_*.jpg   or images/train2014, or train2014
    images/saiapr_tc-12/*.jpg                             refclef; or saiapr_tc-12

or, with ``layout="rows"``, MiniGPT-4's ``refcoco_val.json``: rows of ``img_id``, ``sents``, ``bbox`` (xywh),
``height`` and ``width``, of val and test splits, without masks: ``rec`` only, not for refclef.

Sentences, which is what is scored; the box counts as found from IoU 0.5 on:

======================= ======= ====== ====== ====== ======
variant, ``split_by``     train    val   test  testA  testB
======================= ======= ====== ====== ====== ======
refcoco, unc            120,624 10,834         5,657  5,095
refcoco+, unc           120,191 10,758         5,726  4,889
refcocog, umd            80,512  4,896  9,602
refcocog, google         85,474  9,536
======================= ======= ====== ====== ====== ======

RefCOCO(+) testA names people, testB other things. The google splits of refcoco and refcocog share images between
train and the rest: for comparison with old tables only. RefCLEF, on the segmented IAPR TC-12, has unc splits (train,
val, testA, testB, testC) and the berkeley ones of ReferIt (train, val, test), of which REFER misses 2 training images
and 1 test image; ``referit`` reads ReferIt's own files.

Boxes are the annotations' ``bbox``, xywh in all four (REFER's ``getRefBox``); masks are polygons or run lengths, in
refclef a list of run lengths, which are united. Phrases are REFER's cleaned ``sent``: lower case, no punctuation.
All COCO images here are in train2014, hence in train2017: see ``ufo-tune data audit``.

Licence: annotations for research (REFER's code is Apache-2.0); each COCO image has its own; IAPR TC-12 free to use.
Source: github.com/lichengunc/refer; github.com/Vision-CAIR/MiniGPT-4, ``eval_scripts``; counts: Yu et al. 2016
(arXiv 1608.00272), Nagaraja et al. 2016 (arXiv 1608.00525).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ufo_tune.datasets import _json_rows, _phrases, _refer
from ufo_tune.datasets import _readers as readers
from ufo_tune.datasets._paths import first_folder
from ufo_tune.datasets._phrases import TASKS, Phrase, Phrases, field
from ufo_tune.errors import ConfigError, DataError

__all__ = ["TASKS", "load"]

SPLIT_BY = {
    "refcoco": ("unc", "google"),
    "refcoco+": ("unc",),
    "refcocog": ("umd", "google"),
    "refclef": ("unc", "berkeley"),
}
"""Variants and their partitions, the usual one first."""
_COCO = ("images/mscoco/images/train2014", "images/train2014", "train2014")
_SAIAPR = ("images/saiapr_tc-12", "saiapr_tc-12")
_IMAGE = re.compile(r"(\w+_0*(\d+))_\d+")  # file name, COCO's id, number of the ref


def load(
    root: str,
    split: str,
    *,
    task: str,
    variant: str = "refcoco",
    split_by: str = "",
    layout: Literal["refer", "rows"] = "refer",
    image_dir: str = "",
) -> Phrases:
    """One sample per sentence, in the order of the file.

    Args:
        root: folder that all other paths are below.
        split: ``train``, ``val``, ``test``, ``testA``, ``testB`` or ``testC``, where the variant has it.
        task: one of ``TASKS``.
        variant: a key of ``SPLIT_BY``.
        split_by: who divided it; default the variant's usual one.
        layout: REFER's files, or MiniGPT-4's rows.
        image_dir: folder of the images; default the first that exists of those above.

    Raises:
        ConfigError: an unknown task, variant, partition or layout; masks asked of rows.
        DataError: a file is missing or does not hold what it should; no such split.
    """
    _phrases.chosen("refcoco.task", task, TASKS)
    _phrases.chosen("refcoco.variant", variant, SPLIT_BY)
    _phrases.chosen("refcoco.layout", layout, ("refer", "rows"))
    split_by = _phrases.chosen("refcoco.split_by", split_by or SPLIT_BY[variant][0], SPLIT_BY[variant])
    if layout == "rows" and (task == "res" or variant == "refclef" or split_by == "google"):
        raise ConfigError(
            f"datasets/refcoco.layout: rows have boxes of the usual COCO splits only (got task {task}, {variant}, "
            f"{split_by}); use layout refer"
        )
    folder = Path(root)
    refs, instances = folder / variant / f"refs({split_by}).p", folder / variant / "instances.json"
    rows = folder / f"{variant}_{split}.json"
    places = _SAIAPR if variant == "refclef" else _COCO
    return _phrases.read(
        f"{variant}/{split}",
        task,
        (lambda _: _rows(rows))
        if layout == "rows"
        else (lambda dropped: _refer.phrases(refs, instances, split, dropped=dropped)),
        images=folder / image_dir if image_dir else first_folder(folder, *places, option="image_dir"),
        sources=[rows] if layout == "rows" else [refs, instances],
        code=[__file__, *_refer.CODE],
        options={"layout": layout},
    )


def _rows(path: Path) -> Iterator[Phrase]:
    for number, (*_, row) in enumerate(_json_rows.rows(path)):
        where = f"{path}: row {number}"
        image = _IMAGE.fullmatch(field(row, "img_id", str, where))
        if image is None:
            raise DataError(f"{where}: 'img_id' is none (got {row['img_id']!r}); give COCO_train2014_<id>_<number>")
        x, y, width, height = readers.numbers(row.get("bbox"), 4, f"{where}: bbox")
        yield Phrase(
            file=f"{image[1]}.jpg",
            size=(field(row, "height", int, where), field(row, "width", int, where)),
            image_id=image[2],
            text=field(row, "sents", str, where),
            name=str(number),
            boxes=((x, y, x + width, y + height),),
        )
