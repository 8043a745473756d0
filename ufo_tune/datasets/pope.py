"""``pope``: POPE, yes-or-no questions about things that are in COCO's images or are not.

    samples = load("/data/pope", "adversarial", task="vqa", image_dir="/data/coco/val2014")

    coco_pope_{random,popular,adversarial}.json   also below output/coco or coco; a JSON object per line
    val2014/COCO_val2014_000000548882.jpg         COCO's images, or ``image_dir``

A split is how the things that are not there were chosen: by chance, among the most frequent ones, or among those that
most often stand beside what is there. Each has 3,000 questions about the same 500 images, half of them with the answer
"yes" (LLaVA and others score an edition of 2,910 questions in ``random``). Metric ``pope`` reports accuracy, precision,
recall, F1 and the share of "yes".

The copy on Hugging Face (lmms-lab/POPE, configuration ``Full``) carries its own images: dataset ``hf`` reads that.

Licence: MIT; each image has its own. Source: Li et al. 2023 (arXiv 2305.10355); github.com/AoiDragon/POPE, ``output``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ufo_tune.datasets import _phrases, _questions
from ufo_tune.datasets._paths import first_file, first_folder
from ufo_tune.datasets._phrases import field
from ufo_tune.datasets._questions import TASKS, Question, Questions
from ufo_tune.errors import DataError

__all__ = ["TASKS", "load"]

SPLITS = ("random", "popular", "adversarial")
LABELS = ("yes", "no")


def load(root: str, split: str, *, task: str, image_dir: str = "") -> Questions:
    """One sample per question, in the order of the file.

    Args:
        root: folder that the files and, unless ``image_dir`` says otherwise, the images are below.
        split: one of ``SPLITS``.
        task: ``vqa``.
        image_dir: folder of COCO's val2014 images, below ``root`` or an absolute path.

    Raises:
        ConfigError: an unknown task or split.
        DataError: no such file, or a line that is no question.
    """
    _questions.check_task(task, "pope")
    _phrases.chosen("pope.split", split, SPLITS)
    folder, name = Path(root), f"coco_pope_{split}.json"
    file = first_file(folder, name, f"output/coco/{name}", f"coco/{name}", option="another root")
    choices = (image_dir,) if image_dir else ("val2014", "images")
    return _questions.read(
        f"pope/{split}",
        lambda: _read(file),
        images=first_folder(folder, *choices, option="image_dir"),
        sources=[file],
        code=[__file__],
    )


def _read(file: Path) -> Iterator[Question]:
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}: is not valid JSON ({error}); download it again") from error
        label = field(row, "label", str, where)
        if label not in LABELS:
            raise DataError(f"{where}: the label is neither yes nor no (got {label!r}); download it again")
        id = str(field(row, "question_id", int, where))
        yield Question(id, field(row, "image", str, where), field(row, "text", str, where), (label,))
