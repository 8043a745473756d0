"""The shape of one row of ``jsonl``: keys, types, lengths and the tasks it serves. Knows no images."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ufo_tune.errors import DataError
from ufo_tune.plugins import did_you_mean

TASKS = ("rec", "res", "detection", "instance_segmentation", "vqa")
PER_OBJECT = ("rec", "res")
"""Tasks with one sample per object; grids have one per image, questions one per row."""
_KEYS = ("image", "images", "objects", "classes", "question", "answer", "messages", "task", "width", "height")
_OBJECT_KEYS = ("ref", "bbox", "bbox_type", "image_id", "masks", "crowd")
_BOX_TYPES = ("real", "norm1")


@dataclass(frozen=True, slots=True)
class Row:
    """One row, checked for everything that needs no image. Per-object fields share their length."""

    where: str
    images: tuple[str, ...]
    tasks: tuple[str, ...]
    refs: tuple[str, ...] = ()
    boxes: Sequence[Any] | None = None
    normalised: bool = False
    masks: Sequence[Any] | None = None
    crowd: tuple[bool, ...] = ()
    image_of: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()
    question: str = ""
    answer: str = ""
    size: tuple[int, int] | None = None

    def parts(self, task: str) -> int:
        """How many samples of a task this row gives."""
        if task in PER_OBJECT:
            return len(self.refs)
        return 1 if task == "vqa" else len(self.images)

    def objects_of(self, image: int) -> list[int]:
        """Numbers of the objects in one image."""
        return [k for k, i in enumerate(self.image_of) if i == image]


def read_row(line: bytes, where: str, classes: tuple[str, ...]) -> Row:
    """Parse one line.

    Args:
        line: its bytes.
        where: file and line, for messages.
        classes: class names for a row that has none of its own.

    Raises:
        DataError: not a JSON object, a key is misspelt or of another type, counts differ, a phrase is empty.
    """
    try:
        data = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: is not valid JSON ({error}); one object per line") from error
    if not isinstance(data, dict):
        raise DataError(f"{where}: is no object (got {type(data).__name__}); write {{...}} on one line")
    _refuse_misspelt(data, where)
    own = _texts(data["classes"], f"{where}: classes") if "classes" in data else None
    question, answer = _question(data, where)
    objects = _objects(data.get("objects"), where)
    images = _images(data, where)
    row = Row(
        where=where,
        images=images,
        tasks=(),
        classes=own if own is not None else classes,
        question=question,
        answer=answer,
        size=_size(data, where),
        **objects,
    )
    if bad := [i for i in row.image_of if not 0 <= i < len(images)]:
        raise DataError(f"{where}: objects.image_id: no such image (got {bad[0]} of {len(images)}); count from 0")
    return _with_tasks(row, data, "objects" in data)


def _with_tasks(row: Row, data: Mapping[str, Any], has_objects: bool) -> Row:
    """The row with the tasks it serves: the one it names, or those its content allows."""
    possible: list[str] = []
    if row.question and row.answer and len(row.images) <= 1:
        possible.append("vqa")
    if row.refs:
        possible += ["rec", "res"] if row.masks is not None else ["rec"]
    if row.classes and (has_objects or "classes" in data):
        possible.append("detection")
        if row.masks is not None or not row.refs:
            possible.append("instance_segmentation")
    if "task" in data:
        if data["task"] not in TASKS:
            got = data["task"]
            raise DataError(f"{row.where}: task: no such task (got {got!r}); {did_you_mean(str(got), TASKS)}")
        if data["task"] not in possible:
            raise DataError(
                f"{row.where}: does not hold what task {data['task']} needs (got {', '.join(data)}); "
                "see the table of datasets/jsonl"
            )
        tasks = [data["task"]]
    elif "vqa" in possible:
        tasks = ["vqa"]
    else:
        grid = [t for t in possible if t not in PER_OBJECT]
        tasks = grid or possible
    if not tasks:
        raise DataError(
            f"{row.where}: holds no task (got {', '.join(data) or 'an empty object'}); give objects with ref and bbox "
            "or masks, or question and answer, with one image"
        )
    if set(tasks) & set(PER_OBJECT):
        for number, text in enumerate(row.refs):
            if not text.strip():
                raise DataError(f"{row.where}: objects.ref[{number}]: empty phrase (got {text!r}); say what to find")
    return Row(**{name: getattr(row, name) for name in Row.__slots__ if name != "tasks"}, tasks=tuple(tasks))


def _refuse_misspelt(data: Mapping[str, Any], where: str) -> None:
    for key in data:
        if key not in _KEYS and (close := difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.75)):
            raise DataError(f"{where}: no such key (got {key!r}); did you mean {close[0]!r}?")


def _images(data: Mapping[str, Any], where: str) -> tuple[str, ...]:
    images = data.get("images", data.get("image"))
    if images is None and ("question" in data or "messages" in data) and not {"objects", "classes"} & set(data):
        return ()  # text only
    images = [images] if isinstance(images, str | dict) else images
    if isinstance(images, list):
        images = [i.get("path") if isinstance(i, dict) else i for i in images]
    if not images or not isinstance(images, list) or not all(isinstance(i, str) and i for i in images):
        raise DataError(f'{where}: has no image (got {images!r:.80}); give "image": "path below the file\'s folder"')
    return tuple(images)


def _question(data: Mapping[str, Any], where: str) -> tuple[str, str]:
    """Question and answer, from their own keys or from one turn of ``messages``; empty where there are none."""
    if "question" not in data and "answer" not in data:
        if "messages" not in data or data.get("objects") or "classes" in data:  # there templates say the words
            return "", ""
        said = data["messages"] if isinstance(data["messages"], list) else []
        turns = [m for m in said if isinstance(m, dict) and m.get("role") != "system"]
        if [m.get("role") for m in turns] != ["user", "assistant"]:
            raise DataError(f"{where}: messages: is not one question and one answer (got {len(turns)} turns); split it")
        question, answer = turns[0].get("content"), turns[1].get("content")
        question = question.replace("<image>", "").strip() if isinstance(question, str) else question
    else:
        question, answer = data.get("question"), data.get("answer")
    for name, value in (("question", question), ("answer", answer)):
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{where}: {name}: is empty (got {value!r:.80}); give question and answer as texts")
    return str(question), str(answer)


def _size(data: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    if "width" not in data and "height" not in data:
        return None
    size = (data.get("height"), data.get("width"))
    if not all(isinstance(v, int) and v > 0 for v in size):
        raise DataError(
            f"{where}: width and height: are not two whole numbers (got {size[1]!r}, {size[0]!r}); mend them"
        )
    return size  # type: ignore[return-value]


def _objects(objects: Any, where: str) -> dict[str, Any]:
    """The per-object fields of a row."""
    if objects is None or objects == {}:
        return {}
    if not isinstance(objects, dict):
        raise DataError(
            f"{where}: objects: is no object (got {type(objects).__name__}); give {{ref: [..], bbox: [..]}}"
        )
    for key in objects:
        if key not in _OBJECT_KEYS:
            raise DataError(f"{where}: objects: no such key (got {key!r}); {did_you_mean(key, _OBJECT_KEYS)}")
    refs = _texts(objects.get("ref", []), f"{where}: objects.ref")
    for key in ("bbox", "masks", "image_id", "crowd"):
        values = objects.get(key)
        if values is not None and (not isinstance(values, list) or len(values) != len(refs)):
            count = len(values) if isinstance(values, list) else repr(values)[:40]
            raise DataError(f"{where}: objects.{key}: needs one per ref (got {count} for {len(refs)}); give as many")
    boxes, masks = objects.get("bbox"), objects.get("masks")
    if refs and boxes is None and masks is None:
        raise DataError(f"{where}: objects: have neither bbox nor masks (got {', '.join(objects)}); give one of them")
    kind = objects.get("bbox_type", "real")
    if kind not in _BOX_TYPES:
        raise DataError(f"{where}: objects.bbox_type: unknown (got {kind!r}); {did_you_mean(str(kind), _BOX_TYPES)}")
    image_of, crowd = objects.get("image_id") or [0] * len(refs), objects.get("crowd") or ()
    if not all(isinstance(i, int) for i in image_of):
        raise DataError(f"{where}: objects.image_id: are not whole numbers (got {image_of!r:.80}); count from 0")
    return {
        "refs": refs,
        "boxes": boxes,
        "normalised": kind == "norm1",
        "masks": masks,
        "crowd": tuple(bool(c) for c in crowd),
        "image_of": tuple(image_of),
    }


def _texts(values: Any, where: str) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise DataError(f'{where}: is no list of texts (got {values!r:.80}); give ["..", ".."]')
    return tuple(values)
