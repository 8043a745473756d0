"""``grefcoco``: gRefCOCO's sentences, which name one, several or no things; one sample per sentence.

    samples = load("/data/refer_seg", "val", task="res")
    samples.dropped  # {"no target": ...}

Expected below ``root``::

    grefcoco/grefs(unc).json  grefcoco/instances.json
    images/mscoco/images/train2014/COCO_train2014_*.jpg   or images/train2014, or train2014

Several targets are one object: the mask is all their pixels and the box their bounds. The GREC benchmark asks for one
box each: ``boxes: each``, with the template ``grec``. Crowds among several targets are left out, as in the authors'
reader. Sentences without target (``ann_id`` is ``[-1]``) are left out and counted, or kept as samples with zero objects
(``no_target: keep``), which only templates that know them can train on: ``gres`` and ``grec``.

The paper counts 278,232 sentences, 80,022 with several targets and 32,202 with none, on 19,994 images; splits are
train, val, testA, testB (not every release has the test splits, and releases differ in counts).

Licence: annotations for non-commercial research; each COCO image has its own. Source: Liu et al. 2023, GRES
(arXiv 2306.00968); github.com/henghuiding/gRefCOCO; github.com/henghuiding/ReLA, ``grefer.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ufo_tune.datasets import _phrases, _refer
from ufo_tune.datasets._paths import first_folder
from ufo_tune.datasets._phrases import TASKS, Phrases

__all__ = ["TASKS", "load"]

_IMAGES = ("images/mscoco/images/train2014", "images/train2014", "train2014")


def load(
    root: str,
    split: str,
    *,
    task: str,
    no_target: Literal["drop", "keep"] = "drop",
    boxes: Literal["joined", "each"] = "joined",
    image_dir: str = "",
) -> Phrases:
    """One sample per sentence, in the order of the file.

    Args:
        root: folder that all other paths are below.
        split: ``train``, ``val``, ``testA`` or ``testB``.
        task: one of ``TASKS``.
        no_target: what becomes of sentences that name nothing; ``Phrases.dropped`` counts those left out.
        boxes: of several targets, for ``rec``: one around all, or one each.
        image_dir: folder of the images; default the first that exists of those above.

    Raises:
        ConfigError: an unknown task or choice.
        DataError: a file is missing or does not hold what it should; no such split.
    """
    _phrases.chosen("grefcoco.task", task, TASKS)
    _phrases.chosen("grefcoco.no_target", no_target, ("drop", "keep"))
    _phrases.chosen("grefcoco.boxes", boxes, ("joined", "each"))
    folder = Path(root)
    refs, instances = folder / "grefcoco" / "grefs(unc).json", folder / "grefcoco" / "instances.json"
    return _phrases.read(
        f"grefcoco/{split}",
        task,
        lambda dropped: _refer.phrases(refs, instances, split, dropped=dropped, keep_no_target=no_target == "keep"),
        images=folder / image_dir if image_dir else first_folder(folder, *_IMAGES, option="image_dir"),
        sources=[refs, instances],
        code=[__file__, *_refer.CODE],
        options={"no_target": no_target},
        each=boxes == "each",
    )
