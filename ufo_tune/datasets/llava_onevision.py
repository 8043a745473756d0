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

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ufo_tune.datasets._chats import TASKS, Chats, Filters, choose

__all__ = ["TASKS", "load"]


def load(
    root: str,
    split: str,
    *,
    task: str,
    image_root: str = "",
    text_only: Literal["keep", "drop"] = "keep",
    empty_answers: Literal["error", "drop"] = "error",
    max_exchanges: int = 0,
    max_chars: int = 0,
    drop_suffixes: Sequence[str] = (),
    missing_images: Literal["error", "drop"] = "error",
    on_bad_sample: Literal["error", "skip"] = "error",
) -> Chats:
    """One sample per conversation, in the order of the files.

    Args:
        root: folder of the JSON files and, unless ``image_root`` says otherwise, of the images.
        split: name of the file, without ``.json`` or ``.jsonl``, or of a folder of such files.
        task: ``vqa``.
        image_root: folder that image paths are below.
        text_only: whether conversations without an image stay in.
        empty_answers: whether an empty answer stops, or its conversation is left out.
        max_exchanges: a conversation is cut after so many questions and answers; 0: never.
        max_chars: one whose texts are longer together, after the cut, is left out; 0: none.
        drop_suffixes: conversations about such files are left out, such as ``.gif``.
        missing_images: ``drop`` looks for every image at the start and leaves out what is not there.
        on_bad_sample: whether a malformed row stops, or is left out and counted (``left_out``).

    Raises:
        ConfigError: an unknown task or value of an option.
        DataError: no such file, a malformed row (with file and row), or nothing is left.
    """
    filters = Filters(text_only, empty_answers, max_exchanges, max_chars, drop_suffixes, missing_images, on_bad_sample)
    return choose("llava_onevision", root, split, task=task, images=Path(image_root or root), filters=filters)
