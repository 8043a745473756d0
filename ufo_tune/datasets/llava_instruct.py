"""``llava_instruct``: LLaVA-1.5's 665K conversations, and any file of that shape or of the ``messages`` style.

    samples = load("/data/llava", "llava_v1_5_mix665k", task="vqa")
    samples = load("/data/llava", "llava_v1_5_mix665k", task="vqa", text_only="drop", empty_answers="drop",
                   missing_images="drop")  # as UFO trains on it

Expected tree below ``root`` (the images' own folders, as LLaVA's instructions unpack them)::

    llava_v1_5_mix665k.json
    coco/train2017/  gqa/images/  ocr_vqa/images/  textvqa/train_images/  vg/VG_100K/  vg/VG_100K_2/

Official counts: 665,298 conversations, 40,688 of them text only; images of coco 364,100, vg 86,417, ocr_vqa 80,000,
gqa 72,140, textvqa 21,953. Some OCR-VQA images can no longer be had: ``missing_images: drop``. Options: see ``load``;
the two styles of row: see ``_chats``.

Licence: CC BY 4.0 with the terms of OpenAI's models; each image has its own. Source: huggingface.co,
liuhaotian/LLaVA-Instruct-150K; counts from github.com/haotian-liu/LLaVA, issue 657; filters from UFO (ufo.md 12.3).
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
    """One sample per conversation, in the order of the file.

    Args:
        root: folder of the JSON file and, unless ``image_root`` says otherwise, of the images.
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
    return choose("llava_instruct", root, split, task=task, images=Path(image_root or root), filters=filters)
