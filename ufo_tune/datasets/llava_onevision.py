"""``llava_onevision``: the single-image conversations of LLaVA-OneVision as JSON, JSONL, or a folder of such files.

    samples = load("/data/llava_onevision", "train", task="vqa")
    samples = load("/data/llava_onevision", "train", task="vqa", text_only="drop", empty_answers="drop",
                   max_exchanges=3, max_chars=1200, drop_suffixes=[".gif"], on_bad_sample="skip")  # as UFO trains on it

Expected tree below ``root``::

    train.jsonl, or train.json, or train/<subset>.json
    <images, at the paths that the rows name>

Official counts: 3.2 M single-image conversations in about 90 subsets; UFO trains on about 1 M of them. The files hold
conversations of one turn and such that start with an answer; the former are malformed rows (``on_bad_sample: skip``).
Options: see ``load``. UFO cuts at six *messages*, that is three exchanges, and counts characters after the cut.

Licence: Apache-2.0 for the collection, each image has its own. Source: huggingface.co, lmms-lab/LLaVA-OneVision-Data
(arXiv 2408.03326); filters from UFO's ``mmdet/datasets/llava_onevision.py``.
"""

from __future__ import annotations

from ufo_tune.datasets._chats import TASKS, loader

__all__ = ["TASKS", "load"]

load = loader("llava_onevision")
