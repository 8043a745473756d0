"""``vqa_v2``: VQA v2.0, open questions about COCO's images, each answered by ten people.

    samples = load("/data/vqa_v2", "val2014", task="vqa", image_dir="/data/coco/{split}")

    v2_OpenEnded_mscoco_val2014_questions.json    also below annotations or questions
    v2_mscoco_val2014_annotations.json            likewise
    val2014/COCO_val2014_000000262148.jpg         COCO's images, or ``image_dir``

``Targets.references`` are all ten answers, the most frequent first; metric ``vqa_accuracy`` counts how many of the ten
agree. Training learns the most frequent one. 443,757 questions about 82,783 images in train2014, 214,354 about 40,504
in val2014. The answers of test2015 are not public.

Licence: CC BY 4.0; each image has its own. Source: Goyal et al. 2017 (arXiv 1612.00837); visualqa.org, "Download".
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ufo_tune.datasets import _json_rows, _questions
from ufo_tune.datasets._paths import first_file, first_folder
from ufo_tune.datasets._phrases import field
from ufo_tune.datasets._questions import TASKS, Question, Questions
from ufo_tune.errors import DataError

__all__ = ["TASKS", "load"]


def load(root: str, split: str, *, task: str, image_dir: str = "{split}") -> Questions:
    """One sample per question, in the order of the annotations.

    Args:
        root: folder that the files and, unless ``image_dir`` says otherwise, the images are below.
        split: ``train2014`` or ``val2014``.
        task: ``vqa``.
        image_dir: folder of the images, below ``root`` or an absolute path; ``{split}`` is replaced.

    Raises:
        ConfigError: an unknown task.
        DataError: a file is missing or does not hold what it should; an answered question that nobody asked.
    """
    _questions.check_task(task, "vqa_v2")
    folder = Path(root)

    def file(name: str) -> Path:
        return first_file(folder, name, f"annotations/{name}", f"questions/{name}", option="another root")

    questions = file(f"v2_OpenEnded_mscoco_{split}_questions.json")
    annotations = file(f"v2_mscoco_{split}_annotations.json")
    return _questions.read(
        f"vqa_v2/{split}",
        lambda: _read(questions, annotations, split),
        images=first_folder(folder, image_dir.format(split=split), option="image_dir"),
        sources=[questions, annotations],
        code=[__file__, _json_rows.__file__],
    )


def _read(questions: Path, annotations: Path, split: str) -> Iterator[Question]:
    asked: dict[int, str] = {}
    for number, (_, _, _, row) in enumerate(_json_rows.rows(questions, "questions")):
        where = f"{questions}: questions[{number}]"
        asked[field(row, "question_id", int, where)] = field(row, "question", str, where)
    for number, (_, _, _, row) in enumerate(_json_rows.rows(annotations, "annotations")):
        where = f"{annotations}: annotations[{number}]"
        id, image = (field(row, key, int, where) for key in ("question_id", "image_id"))
        if id not in asked:
            raise DataError(f"{where}: answers a question that is not asked (got {id}); check that both files belong")
        answers = tuple(field(a, "answer", str, where) for a in field(row, "answers", list, where))
        yield Question(str(id), f"COCO_{split}_{image:012d}.jpg", asked[id], answers)
