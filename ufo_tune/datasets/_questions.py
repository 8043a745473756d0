"""Questions about images with short true answers, as a memory-mapped table: one sample per question, for ``vqa``.

    samples = read("gqa/testdev_balanced", make, images=folder, sources=[questions], code=[__file__])

``make`` runs once per content of the sources. ``Targets.references`` are all answers, the most frequent first, and
``Targets.text`` is that one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ufo_tune.core.images import image_size
from ufo_tune.core.lazy import Lazy
from ufo_tune.core.types import Sample, Targets
from ufo_tune.datasets import _table
from ufo_tune.errors import ConfigError, DataError
from ufo_tune.plugins import did_you_mean

if TYPE_CHECKING:
    from datasets import Features

TASKS = ("vqa",)


@dataclass(frozen=True, slots=True)
class Question:
    """One question as the files have it; ``answers`` are those of one or several people."""

    id: str
    image: str  # below the folder of images
    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Questions(Lazy[Sample]):
    """Samples made on access. ``name`` is dataset and split."""

    name: str
    table: _table.Table
    images: Path

    @property
    def image_ids(self) -> tuple[str, ...]:
        """One per sample: the name of its image file without ending."""
        return tuple(Path(image).stem for image in self.table.column("image").to_pylist())

    def __len__(self) -> int:
        return len(self.table)

    def _make(self, number: int) -> Sample:
        """One sample.

        Raises:
            DataError: its image is missing or no image.
        """
        row = self.table[number]
        source, image = f"{self.name}#{row['id']}", self.images / row["image"]
        try:
            size = image_size(image)
        except DataError as error:
            raise DataError(f"{source}: {error}") from error
        return Sample(
            image=image,
            size=size,
            task="vqa",
            text=row["text"],
            targets=Targets(text=row["answers"][0], references=tuple(row["answers"])),
            source=source,
            image_id=image.stem,
        )


def read(
    name: str,
    make: Callable[[], Iterable[Question]],
    *,
    images: Path,
    sources: Sequence[Path],
    code: Sequence[str | Path],
    options: Mapping[str, Any] | None = None,
) -> Questions:
    """The questions that ``make`` gives, in its order; see ``_table.table`` for the other arguments.

    Raises:
        DataError: a source is missing or ``make`` finds fault with it; a question or answer without words.
    """
    found = _table.table(
        name.replace("/", "-"),
        lambda: ({}, (_record(question, name) for question in make())),
        features=_features,
        sources=sources,
        code=[*code, __file__],
        options={"name": name, **(options or {})},
    )
    return Questions(name, found, images)


def check_task(task: str, name: str) -> None:
    """Raise ``ConfigError`` for a task that questions do not serve."""
    if task not in TASKS:
        raise ConfigError(f"datasets/{name}: no such task (got {task!r}); {did_you_mean(task, TASKS)}")


def _record(question: Question, name: str) -> dict[str, Any]:
    """One row; answers that nobody gave more often stay in the order of the file."""
    answers = [a.strip() for a in question.answers]
    if not question.text.strip() or not answers or not all(answers):
        raise DataError(
            f"{name}#{question.id}: the question or an answer has no words (got {question.text!r}, "
            f"{question.answers!r:.200}); mend the file"
        )
    counts = Counter(answers)
    answers.sort(key=lambda a: -counts[a])
    return {"id": question.id, "image": question.image, "text": question.text.strip(), "answers": answers}


def _features() -> Features:
    from datasets import Features, Value

    names = {key: Value("string") for key in ("id", "image", "text")}
    return Features({**names, "answers": [Value("string")]})
