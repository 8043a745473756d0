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

from ufo_tune.datasets._chats import TASKS, loader

__all__ = ["TASKS", "load"]

load = loader("llava_instruct")
