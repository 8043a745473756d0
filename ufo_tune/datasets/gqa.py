"""``gqa``: GQA, compositional questions that were made from scene graphs, each with one short answer.

    samples = load("/data/gqa", "testdev_balanced", task="vqa")

    testdev_balanced_questions.json   also below questions or questions1.2; an object, its keys are the questions' ids
    images/n161313.jpg                or ``image_dir``

A split is the beginning of a file's name. Balanced questions: 943,000 in train, 132,062 in val, 12,578 in testdev,
about 113,018 images of Visual Genome in all (testdev 398). The test and challenge files have no answers. A file is
read whole once: ``train_balanced`` needs some GB of memory for that.

Licence: CC BY 4.0; images as in Visual Genome. Source: Hudson and Manning 2019 (arXiv 1902.09506);
cs.stanford.edu/people/dorarad/gqa, "Download".
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ufo_tune.datasets import _questions
from ufo_tune.datasets import _readers as readers
from ufo_tune.datasets._paths import first_file, first_folder
from ufo_tune.datasets._phrases import field
from ufo_tune.datasets._questions import TASKS, Question, Questions

__all__ = ["TASKS", "load"]


def load(root: str, split: str, *, task: str, image_dir: str = "images") -> Questions:
    """One sample per question, in the order of the file.

    Args:
        root: folder that the file and, unless ``image_dir`` says otherwise, the images are below.
        split: such as ``testdev_balanced``.
        task: ``vqa``.
        image_dir: folder of the images, below ``root`` or an absolute path.

    Raises:
        ConfigError: an unknown task.
        DataError: no such file, or a question without text, image or answer.
    """
    _questions.check_task(task, "gqa")
    folder, name = Path(root), f"{split}_questions.json"
    file = first_file(folder, name, f"questions/{name}", f"questions1.2/{name}", option="another root")
    return _questions.read(
        f"gqa/{split}",
        lambda: _read(file),
        images=first_folder(folder, image_dir, option="image_dir"),
        sources=[file],
        code=[__file__],
    )


def _read(file: Path) -> Iterator[Question]:
    for id, row in readers.read_json(file).items():
        image, text, answer = (field(row, key, str, f"{file}: {id}") for key in ("imageId", "question", "answer"))
        yield Question(id, f"{image}.jpg", text, (answer,))
