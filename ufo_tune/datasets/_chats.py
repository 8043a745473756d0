r"""Conversations about an image: read once into a memory-mapped table, then chosen from by options.

    chats = choose("llava_instruct", root, split, task="vqa", images=folder, filters=Filters(text_only="drop"))

One row is one conversation, in either style:

========= ===================================================================================================
LLaVA     ``{"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\nWhat is it?"},
          {"from": "gpt", "value": "A cup."}]}``
messages  ``{"images": ["a.jpg"], "messages": [{"role": "user", "content": "<image>What is it?"},
          {"role": "assistant", "content": "A cup."}]}``
========= ===================================================================================================

It becomes one sample: the last question, the last answer, and the earlier turns as ``history``. The placeholder
``<image>`` is taken out wherever it stands, because templates say where the image goes. System messages are left out
(chat templates have their own), and so is an answer before the first question, as LLaVA's own training does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ufo_tune.core.answers import whole
from ufo_tune.core.images import image_size
from ufo_tune.core.lazy import Lazy
from ufo_tune.core.types import NO_SIZE, Sample, Targets
from ufo_tune.datasets import _json_rows, _table
from ufo_tune.errors import ConfigError, DataError
from ufo_tune.plugins import did_you_mean

if TYPE_CHECKING:
    from datasets import Features

TASKS = ("vqa",)
_PLACEHOLDER = "<image>"
_KINDS = {"human": "question", "user": "question", "gpt": "answer", "assistant": "answer", "system": "system"}
_CHOICES = {
    "text_only": ("keep", "drop"),
    "empty_answers": ("error", "drop"),
    "missing_images": ("error", "drop"),
    "on_bad_sample": ("error", "skip"),
}


@dataclass(frozen=True, slots=True)
class Filters:
    """Which conversations are wanted; the defaults leave none out.

    Args:
        text_only: whether conversations without an image stay in.
        empty_answers: whether an empty answer stops, or its conversation is left out.
        max_exchanges: a conversation is cut after so many questions and answers; 0: never.
        max_chars: one whose texts are longer together, after the cut, is left out; 0: none.
        drop_suffixes: conversations about such files are left out, such as ``.gif``.
        missing_images: ``drop`` looks for every image at the start and leaves out what is not there.
        on_bad_sample: whether a malformed row stops, or is left out and counted.
    """

    text_only: Literal["keep", "drop"] = "keep"
    empty_answers: Literal["error", "drop"] = "error"
    max_exchanges: int = 0
    max_chars: int = 0
    drop_suffixes: Sequence[str] = ()
    missing_images: Literal["error", "drop"] = "error"
    on_bad_sample: Literal["error", "skip"] = "error"


@dataclass(frozen=True, slots=True)
class Chats(Lazy[Sample]):
    """Samples made on access. ``rows`` [n] are places in ``table``, ``left_out`` counts by reason what is not there."""

    name: str
    table: _table.Table
    rows: np.ndarray
    images: Path
    max_exchanges: int
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def image_ids(self) -> tuple[str, ...]:
        """One per sample: the image's path or, for text only, the sample's own name."""
        images, ids = (self.table.column(c).take(self.rows).to_pylist() for c in ("image", "id"))
        return tuple(image or f"{self.name}#{number}" for image, number in zip(images, ids, strict=True))

    def __len__(self) -> int:
        return len(self.rows)

    def _make(self, number: int) -> Sample:
        """One sample.

        Raises:
            DataError: its image is missing or no image.
        """
        row = self.table[int(self.rows[number])]
        source = f"{self.name}#{row['id']}"
        questions, answers = (row[c][: self.max_exchanges or None] for c in ("questions", "answers"))
        image = self.images / row["image"] if row["image"] else None
        try:
            size = NO_SIZE if image is None else image_size(image)
        except DataError as error:
            raise DataError(f"{source}: {error}") from error
        return Sample(
            image=image,
            size=size,
            task="vqa",
            text=questions[-1],
            targets=Targets(text=answers[-1]),
            source=source,
            image_id=row["image"] or source,
            history=tuple(zip(questions[:-1], answers[:-1], strict=True)),
        )


def loader(name: str) -> Callable[..., Chats]:
    """The ``load`` of a dataset whose files hold conversations: they differ in name and source only."""

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
        filters = Filters(
            text_only, empty_answers, max_exchanges, max_chars, drop_suffixes, missing_images, on_bad_sample
        )
        return choose(name, root, split, task=task, images=Path(image_root or root), filters=filters)

    return load


def choose(name: str, root: str, split: str, *, task: str, images: Path, filters: Filters) -> Chats:
    """The conversations of ``root/split.json``, ``.jsonl``, or of all such files in the folder ``root/split``.

    Args:
        name: of the dataset.
        root: folder.
        split: the file's name, with or without its suffix, or the folder's.
        task: one of ``TASKS``.
        images: folder that image paths are below.
        filters: see ``Filters``.

    Raises:
        ConfigError: an unknown task or value of a filter.
        DataError: no such file, a malformed row (with its place), or nothing is left.
    """
    if task not in TASKS:
        raise ConfigError(f"datasets/{name}: no such task (got {task!r}); {did_you_mean(task, TASKS)}")
    for option, known in _CHOICES.items():
        if (got := getattr(filters, option)) not in known:
            raise ConfigError(f"datasets/{name}.{option}: unknown (got {got!r}); {did_you_mean(str(got), known)}")
    files = _files(Path(root), split)
    code = [__file__, _json_rows.__file__]
    table = _table.table(name, lambda: ({}, _records(files)), features=_features, sources=files, code=code)
    rows, left_out = _chosen(table, images, filters)
    if not len(rows):
        raise DataError(f"{Path(root, split)}: no conversation is left (got {len(table)}: {left_out}); ask for less")
    return Chats(f"{name}/{split}", table, rows, images, filters.max_exchanges, left_out)


@dataclass(frozen=True, slots=True)
class Chat:
    """One conversation: as many answers as questions, none of the latter empty."""

    image: str
    questions: tuple[str, ...]
    answers: tuple[str, ...]


def read_chat(row: Any, where: str) -> Chat:
    """Understand one row.

    Raises:
        DataError: no conversation, an odd role, turns that do not alternate, an empty question, not one image.
    """
    if not isinstance(row, dict):
        raise DataError(f"{where}: is no object (got {type(row).__name__}); give one conversation per row")
    said = [(kind, text) for kind, text in _said(row, where) if kind != "system"]
    said = said[1:] if said and said[0][0] == "answer" else said
    kinds = [kind for kind, _ in said]
    if not said or kinds != ["question", "answer"] * (len(said) // 2):
        got = ", ".join(kinds)
        raise DataError(f"{where}: turns do not alternate (got {got[:80] or 'none'}); give question, answer, ...")
    questions, answers = tuple(t for _, t in said[::2]), tuple(t for _, t in said[1::2])
    image = _image(row, questions, where)
    questions, answers = tuple(map(_words, questions)), tuple(map(_words, answers))
    if "" in questions:
        raise DataError(f"{where}: question {questions.index('')} is empty (got no words); mend or drop the row")
    return Chat(image, questions, answers)


def _said(row: dict[str, Any], where: str) -> Iterator[tuple[str, str]]:
    """What each turn is, and its text."""
    turns = row.get("conversations", row.get("messages"))
    if not isinstance(turns, list) or not turns:
        raise DataError(
            f"{where}: has no conversations (got {', '.join(row) or 'an empty object'}); give a list of turns"
        )
    for number, turn in enumerate(turns):
        turn = turn if isinstance(turn, dict) else {}
        role, text = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
        if not isinstance(role, str) or role not in _KINDS:
            raise DataError(f"{where}: turn {number}: unknown role (got {role!r:.40}); use {', '.join(_KINDS)}")
        if not isinstance(text, str):
            raise DataError(f"{where}: turn {number}: is no text (got {text!r:.40}); give its words")
        if not whole(text):
            raise DataError(f"{where}: turn {number}: holds half a letter (got {text!a:.40}); write both halves")
        yield _KINDS[role], text


def _image(row: dict[str, Any], questions: Sequence[str], where: str) -> str:
    """The one image; empty where the conversation is text only. Naming it once more, as a turn may, does not matter."""
    named = row.get("images", row.get("image")) or []
    named = [named] if isinstance(named, str) else named
    if not isinstance(named, list) or not all(isinstance(n, str) and n and whole(n) for n in named):
        raise DataError(f"{where}: image is no path (got {named!r:.80}); give the path below the image folder")
    if len(set(named)) > 1:
        raise DataError(f"{where}: shows several images (got {len(set(named))}); split it, or drop the row")
    # Inside a text without image it is words, such as a tag of XML; at an edge it means a picture.
    asks = any(q.strip().startswith(_PLACEHOLDER) or q.strip().endswith(_PLACEHOLDER) for q in questions)
    if asks and not named:
        raise DataError(f"{where}: asks about an image (got none); name it in the row, or drop the row")
    return named[0] if named else ""


def _words(text: str) -> str:
    return " ".join(part for part in map(str.strip, text.split(_PLACEHOLDER)) if part)


def _files(root: Path, split: str) -> list[Path]:
    folder = root / split
    if folder.is_dir() and split:
        found = sorted(p for p in folder.iterdir() if p.suffix in (".json", ".jsonl"))
        if not found:
            raise DataError(f"{folder}: has no JSON files (got an empty folder); check root and split")
        return found
    choices = [folder, root / f"{split}.json", root / f"{split}.jsonl"]
    found = [p for p in choices if p.is_file()][:1]
    if not found:
        raise DataError(f"{folder}: no such file or folder (got neither .json nor .jsonl); check root and split")
    return found


def _records(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """A malformed row is kept with what is wrong with it: whether it stops or is left out is decided later."""
    for path in files:
        for number, where, row in _rows(path):
            chat, problem = Chat("", (), ()), ""
            try:
                chat = read_chat(row, where)
            except DataError as error:
                problem = str(error)
            yield {
                "id": f"{path.stem}:{number}" if len(files) > 1 else str(number),
                "image": chat.image,
                "questions": list(chat.questions),
                "answers": list(chat.answers),
                "lengths": [len(q) + len(a) for q, a in zip(chat.questions, chat.answers, strict=True)],
                "unanswered": [not a for a in chat.answers],
                "place": where,
                "problem": problem,
            }


def _rows(path: Path) -> Iterator[tuple[int, str, Any]]:
    """Number, place and value of each row: lines count from 1, as editors do, the rows of an array from 0."""
    if path.suffix != ".jsonl":
        yield from ((number, f"{path}: row {number}", row[-1]) for number, row in enumerate(_json_rows.rows(path)))
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield number, f"{path}:{number}", json.loads(line)
                except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError, too
                    raise DataError(f"{path}:{number}: is not valid JSON ({error}); one object per line") from error


def _features() -> Features:
    from datasets import Features, Value

    texts, string = [Value("string")], Value("string")
    lists = {"questions": texts, "answers": texts, "lengths": [Value("int32")], "unanswered": [Value("bool")]}
    return Features({"id": string, "image": string, **lists, "place": string, "problem": string})


def _chosen(table: _table.Table, images: Path, filters: Filters) -> tuple[np.ndarray, dict[str, int]]:
    """Rows [n] that are wanted, and how many others there are for each reason; the first that holds counts.

    Raises:
        DataError: the first malformed row or empty answer, where such are errors.
    """
    import pyarrow.compute as arrow  # as slow to import as datasets, which brings it

    paths = table.column("image")
    bad = arrow.not_equal(table.column("problem"), "").to_numpy()
    if bad.any() and filters.on_bad_sample == "error":
        more = f" ({bad.sum()} such rows; on_bad_sample: skip leaves them out)"
        raise DataError(str(table[int(bad.argmax())]["problem"]) + more)
    chars, unanswered = (_summed(table, column, filters.max_exchanges) for column in ("lengths", "unanswered"))
    empty = ~bad & (unanswered > 0)
    if empty.any() and filters.empty_answers == "error":
        where = table[int(empty.argmax())]["place"]
        raise DataError(f"{where}: an answer is empty (got {empty.sum()} such rows); set empty_answers: drop")
    reasons = {"malformed": bad, "empty answer": empty}
    if filters.text_only == "drop":
        reasons["text only"] = arrow.equal(paths, "").to_numpy()
    if filters.max_chars:
        reasons["too long"] = chars > filters.max_chars
    for suffix in filters.drop_suffixes:
        reasons[suffix] = arrow.ends_with(paths, suffix, ignore_case=True).to_numpy()
    if filters.missing_images == "drop":
        reasons["missing image"] = ~_present(images, paths.to_pylist())
    left_out, kept = {}, np.ones(len(table), dtype=bool)
    for reason, holds in reasons.items():
        if count := int((kept & holds).sum()):
            left_out[reason] = count
        kept &= ~holds
    return np.flatnonzero(kept), left_out


def _summed(table: _table.Table, column: str, first: int) -> np.ndarray:
    """[rows] sums of each row's list, or of its ``first`` values where that is not 0."""
    lists = table.column(column).combine_chunks()
    counts = lists.value_lengths().to_numpy()
    starts = np.cumsum(counts) - counts
    ends = starts + (np.minimum(counts, first) if first else counts)
    total = np.append(0, np.cumsum(lists.flatten().to_numpy(zero_copy_only=False)))
    summed: np.ndarray = total[ends] - total[starts]
    return summed


def _present(folder: Path, paths: Sequence[str]) -> np.ndarray:
    """[paths] bool: which files are there; each folder is listed once. Text only (no path) is there."""
    listed: dict[str, set[str]] = {}
    found = np.ones(len(paths), dtype=bool)
    for number, path in enumerate(paths):
        if path:
            parent, name = os.path.split(os.path.join(folder, path))
            if parent not in listed:
                listed[parent] = set(os.listdir(parent)) if os.path.isdir(parent) else set()
            found[number] = name in listed[parent]
    return found
