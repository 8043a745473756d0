"""The shape of one row of ``jsonl``: keys, types, lengths and the tasks it serves. Knows no images."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeGuard

from ufo_tune.datasets import _jsonl_turns
from ufo_tune.datasets import _readers as readers
from ufo_tune.datasets._jsonl_turns import refuse_long
from ufo_tune.errors import DataError
from ufo_tune.plugins import did_you_mean

TASKS = ("rec", "res", "detection", "instance_segmentation", "vqa", "caption", "conversation", "depth")
PER_OBJECT = ("rec", "res")
"""Tasks with one sample per object; grids have one per image, words one per row."""
IN_WORDS = ("vqa", "caption", "conversation")
"""Tasks answered in words."""
MAX_PHRASE = 1_000
"""Letters of a phrase or class name: longer ones are files pasted in by mistake."""
_KEYS = (
    *("image", "images", "objects", "classes", "absent", "partial", "ignore"),
    *("question", "answer", "messages", "task", "width", "height", "depth", "depth_scale"),
)
_OBJECT_KEYS = ("ref", "bbox", "bbox_type", "image_id", "masks", "crowd")
_BOX_TYPES = ("real", "norm1")


@dataclass(frozen=True, slots=True)
class Row:
    """One row, checked for everything that needs no image.

    Per-object fields share their length, but ``refs`` may be empty. A box or mask of ``[]`` is none.
    """

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
    classes_file: str = ""
    absent: tuple[str, ...] | None = None
    partial: tuple[str, ...] = ()
    ignore: Any = None
    question: str = ""
    answer: str = ""
    references: tuple[str, ...] = ()
    history: tuple[tuple[str, str], ...] = ()
    size: tuple[int, int] | None = None
    depth: str = ""
    depth_scale: float = 0.001

    def parts(self, task: str) -> int:
        """How many samples of a task this row gives."""
        if task in PER_OBJECT:
            return len(self.refs)
        return 1 if task in IN_WORDS else len(self.images)

    def objects_of(self, image: int) -> list[int]:
        """Numbers of the objects in one image."""
        return [k for k, i in enumerate(self.image_of) if i == image]

    def has_box(self, number: int) -> bool:
        """Whether an object has a box of its own."""
        return self.boxes is not None and self.boxes[number] != []

    def has_mask(self, number: int) -> bool:
        """Whether an object has a mask."""
        return self.masks is not None and self.masks[number] != []


def read_row(line: bytes, where: str, classes: tuple[str, ...]) -> Row:
    """Parse one line.

    Args:
        line: its bytes.
        where: file and line, for messages.
        classes: class names for a row that has none of its own.

    Raises:
        DataError: not a JSON object, a key is misspelt or of another type, counts differ, a phrase is empty.
    """
    data = _object(line, where)
    _refuse_misspelt(data, where)
    own = data.get("classes")
    file = own if isinstance(own, str) else ""
    if file:
        own = []
    elif own is not None:
        own = checked_classes(_texts(own, f"{where}: classes"), f"{where}: classes")
    points = _jsonl_turns.points(data)
    objects = _objects(data.get("objects"), where, points=points)
    turns = _jsonl_turns.turns(data, where)
    if points:
        turns = _jsonl_turns.with_refs(turns, objects.get("refs", ()), where)
        _jsonl_turns.check_places(turns, objects.get("boxes"), objects.get("masks"), where)
        if len(objects.get("refs", ())) != len(objects.get("image_of", ())):
            objects["refs"] = ()  # phrases of the words, not of one object each
    *history, (question, answers) = turns
    images = _images(data, where)
    row = Row(
        where=where,
        images=images,
        tasks=(),
        classes=tuple(own) if own is not None else classes,
        classes_file=file,
        absent=_texts(data["absent"], f"{where}: absent") if data.get("absent") is not None else None,
        partial=_texts(data["partial"], f"{where}: partial") if data.get("partial") is not None else (),
        ignore=data.get("ignore"),
        question=question,
        answer=answers[0] if answers else "",
        references=answers if isinstance(data.get("answer"), list) else (),
        history=tuple((asked, said[0]) for asked, said in history),
        size=_size(data, where),
        **_depth(data, where, images),
        **objects,
    )
    if bad := [i for i in row.image_of if not 0 <= i < len(images)]:
        raise DataError(f"{where}: objects.image_id: no such image (got {bad[0]} of {len(images)}); count from 0")
    return _with_tasks(row, data, points)


def class_list(path: Path) -> tuple[str, ...]:
    """The class names of a file that rows share, one a line.

    Raises:
        DataError: there is no such file, or it holds no good names.
    """
    return _class_list(readers.existing(path, "file of class names"), path.stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _class_list(path: Path, changed: int) -> tuple[str, ...]:
    """Cached because thousands of rows name the same file; ``changed`` makes an edited one another."""
    del changed
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 ({error}); save it as UTF-8") from error
    names = checked_classes([line.strip() for line in lines if line.strip()], str(path))
    if not names:
        raise DataError(f"{path}: holds no class names (got an empty file); write one a line")
    return names


def checked_classes(names: Sequence[str], where: str) -> tuple[str, ...]:
    """Class names that a question can list and an answer can spell.

    Raises:
        DataError: a name is empty, too long, holds a comma, or stands twice.
    """
    for name in names:
        if not name.strip() or "," in name:
            raise DataError(f"{where}: a class name is empty or holds a comma (got {name!r:.80}); rename the class")
        refuse_long(name, MAX_PHRASE, where)
    stripped = [name.strip() for name in names]
    if len(set(stripped)) < len(stripped):
        twice = next(name for name in stripped if stripped.count(name) > 1)
        raise DataError(f"{where}: a class is listed twice (got {twice!r}); list each once")
    return tuple(names)


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        data = json.loads(line.decode("utf-8-sig"), object_pairs_hook=lambda pairs: _unique(pairs, where))
    except UnicodeDecodeError as error:
        bad = line[error.start : error.end]
        raise DataError(f"{where}: is not UTF-8 (got byte {bad!r} at {error.start}); save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is not valid JSON ({error}); one object per line") from error
    if not isinstance(data, dict):
        raise DataError(f"{where}: is no object (got {type(data).__name__}); write {{...}} on one line")
    return data


def _unique(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    """JSON lets the last of two equal keys win in silence; here the second is an error."""
    data = dict(pairs)
    if len(data) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DataError(f"{where}: a key stands twice (got {twice!r:.80}); keep one of them")
    return data


def _with_tasks(row: Row, data: Mapping[str, Any], points: bool) -> Row:
    """The row with the tasks it serves: the one it names, or those its content allows."""
    possible: list[str] = []
    if row.answer and len(row.images) <= 1:
        possible += ["caption"] if not row.question else ["conversation"] if points else ["vqa", "conversation"]
    if row.refs:
        possible += ["rec", "res"] if row.masks is not None else ["rec"]
    if (row.classes or row.classes_file) and ({"objects", "classes"} & set(data)) and not points:
        possible.append("detection")
        if row.masks is not None or not row.refs:
            possible.append("instance_segmentation")
    dense = ["depth"] if row.depth else []
    if "task" in data:
        if data["task"] not in TASKS:
            got = data["task"]
            raise DataError(f"{row.where}: task: no such task (got {got!r}); {did_you_mean(str(got), TASKS)}")
        if data["task"] not in (*possible, *dense):
            raise DataError(
                f"{row.where}: does not hold what task {data['task']} needs (got {', '.join(data)}); "
                "see the table of datasets/jsonl"
            )
        tasks = [data["task"]]
    elif possible and possible[0] in IN_WORDS and not points:
        tasks = possible[:1] + dense
    else:
        grid = [t for t in possible if t not in PER_OBJECT]
        tasks = (possible if points else grid or possible) + dense
    if not tasks:
        raise DataError(
            f"{row.where}: holds no task (got {', '.join(data) or 'an empty object'}); give objects with ref and bbox "
            "or masks, question and answer, or depth, with one image"
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
    if images is None and {"question", "messages"} & set(data) and not {"objects", "classes"} & set(data):
        return ()  # text only
    images = [images] if isinstance(images, str | dict) else images
    if isinstance(images, list):
        images = [i.get("path") if isinstance(i, dict) else i for i in images]
    if not images or not isinstance(images, list) or not all(isinstance(i, str) and i for i in images):
        raise DataError(f'{where}: has no image (got {images!r:.80}); give "image": "path below the file\'s folder"')
    return tuple(images)


def mask_value(value: Any, where: str) -> Any:
    """A mask as JSON has it, of a form that can be understood once the image is known.

    Raises:
        DataError: neither run lengths with a size and counts, nor polygons, nor a path.
    """
    good = isinstance(value, str | list)
    if isinstance(value, dict):
        size, counts = value.get("size"), value.get("counts")
        good = isinstance(size, list) and len(size) == 2 and all(map(_whole, size))
        good = good and (isinstance(counts, str) or (isinstance(counts, list) and all(map(_whole, counts))))
    if not good:
        raise DataError(f"{where}: mask: no known form (got {value!r:.80}); give run lengths, polygons or a PNG's path")
    return value


def _depth(data: Mapping[str, Any], where: str, images: Sequence[str]) -> dict[str, Any]:
    """The path of the depth map and its metres per unit, where the row has one."""
    if "depth" not in data:
        return {}
    path, scale = data["depth"], data.get("depth_scale", 0.001)
    if not isinstance(path, str) or not path or len(images) != 1:
        raise DataError(f"{where}: depth: is no path, or not of one image (got {path!r:.80}, {len(images)} images)")
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < float("inf"):
        raise DataError(f"{where}: depth_scale: is no scale (got {scale!r:.80}); give metres per unit of the file")
    return {"depth": path, "depth_scale": float(scale)}


def _size(data: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    if "width" not in data and "height" not in data:
        return None
    height, width = data.get("height"), data.get("width")
    if not (_whole(height) and _whole(width) and height > 0 and width > 0):
        raise DataError(f"{where}: width and height: are not two whole numbers (got {width!r}, {height!r}); mend them")
    return height, width


def _objects(objects: Any, where: str, *, points: bool) -> dict[str, Any]:
    """The per-object fields of a row. Where its words point, objects need no phrase."""
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
    boxes, masks = objects.get("bbox"), objects.get("masks")
    places = boxes if boxes is not None else masks
    each, number = ("place", len(places)) if points and isinstance(places, list) else ("ref", len(refs))
    for key in ("bbox", "masks", "image_id", "crowd"):
        values = objects.get(key)
        if values is not None and (not isinstance(values, list) or len(values) != number):
            count = len(values) if isinstance(values, list) else repr(values)[:40]
            raise DataError(f"{where}: objects.{key}: needs one per {each} (got {count} for {number}); give as many")
    if refs and boxes is None and masks is None:
        raise DataError(f"{where}: objects: have neither bbox nor masks (got {', '.join(objects)}); give one of them")
    kind = objects.get("bbox_type", "real")
    if kind not in _BOX_TYPES:
        raise DataError(f"{where}: objects.bbox_type: unknown (got {kind!r}); {did_you_mean(str(kind), _BOX_TYPES)}")
    image_of, crowd = objects.get("image_id") or [0] * number, objects.get("crowd") or ()
    if not all(_whole(i) for i in image_of):
        raise DataError(f"{where}: objects.image_id: are not whole numbers (got {image_of!r:.80}); count from 0")
    if not all(c in (0, 1) for c in crowd):
        raise DataError(f"{where}: objects.crowd: are not true or false (got {crowd!r:.80}); give one per object")
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
    for value in values:
        refuse_long(value, MAX_PHRASE, where)
    return tuple(values)


def _whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
