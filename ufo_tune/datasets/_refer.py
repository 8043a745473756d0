"""The REFER toolkit's two files, refs over COCO's instances, as phrases. Serves ``refcoco`` and ``grefcoco``.

    for phrase in phrases(folder / "refs(unc).p", folder / "instances.json", "testA", dropped=Counter()): ...

Source: github.com/lichengunc/refer, ``refer.py``; of several and no targets github.com/henghuiding/ReLA, ``grefer.py``
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ufo_tune.datasets import _json_rows, _refer_pickle
from ufo_tune.datasets import _readers as readers
from ufo_tune.datasets._phrases import Phrase, field
from ufo_tune.errors import DataError

CODE = (__file__, _json_rows.__file__, _refer_pickle.__file__)
"""Files whose change makes other phrases."""
_ID = (int, str)  # refclef's annotations have texts as ids


def phrases(
    refs: Path, instances: Path, split: str, *, dropped: Counter[str], keep_no_target: bool = False
) -> Iterator[Phrase]:
    """The sentences of one split, in the order of the file.

    Args:
        refs: a pickle (``.p``) or JSON list.
        instances: COCO's instances JSON of the same images.
        split: ``testA``, ``testB`` and ``testC`` also take refs that are in several (``testAB``), ``test`` all that
            begin so, as in REFER.
        dropped: counts what is left out.
        keep_no_target: whether sentences that name nothing become phrases without regions.

    Raises:
        DataError: no such split, a field is missing or of another type, an image or annotation is not listed.
    """
    data = readers.read_json(instances)
    images, annotations = _by_id(data, "images", instances), _by_id(data, "annotations", instances)
    seen: Counter[str] = Counter()
    pickled = refs.suffix == ".p"
    rows = _refer_pickle.load(refs) if pickled else (row for *_, row in _json_rows.rows(refs))
    for number, ref in enumerate(rows):
        where = f"{refs}: ref {number}"
        own = field(ref, "split", str, where)
        seen[own] += 1
        if not _in_split(own, split):
            continue
        sentences = field(ref, "sentences", list, where)
        things = _things(ref, annotations, where)
        if not things and not keep_no_target:
            dropped["no target"] += len(sentences)
            continue
        image = _listed(images, field(ref, "image_id", _ID, where), "image", where)
        shared = {
            "file": field(image, "file_name", str, f"{where}: its image"),
            "size": tuple(field(image, side, int, f"{where}: its image") for side in ("height", "width")),
            "image_id": str(ref["image_id"]),
            "boxes": tuple(_xyxy(t, f"{where}: annotation {t.get('id')}") for t in things),
            "masks": tuple(t.get("segmentation") for t in things),
        }
        for place, sentence in enumerate(sentences):
            text = field(sentence, "sent", str, f"{where}: sentence {place}")
            yield Phrase(text=text, name=str(sentence.get("sent_id", f"{number}.{place}")), **shared)
    if not any(_in_split(own, split) for own in seen):
        raise DataError(f"{refs}: no such split (got {split!r}); it has {', '.join(sorted(seen)) or 'no refs'}")


def _in_split(own: str, wanted: str) -> bool:
    if wanted in ("testA", "testB", "testC"):
        return own.startswith("test") and wanted[-1] in own[4:]
    return own.startswith("test") if wanted == "test" else own == wanted


def _by_id(data: dict[str, Any], key: str, path: Path) -> dict[Any, dict[str, Any]]:
    rows = field(data, key, list, str(path))
    found = {field(row, "id", _ID, f"{path}: {key}[{number}]"): row for number, row in enumerate(rows)}
    if len(found) != len(rows):
        raise DataError(f"{path}: {key}: ids are not unique (got {len(rows)} rows, {len(found)} ids); mend the file")
    return found


def _things(ref: dict[str, Any], annotations: dict[Any, dict[str, Any]], where: str) -> list[dict[str, Any]]:
    """The annotations that a ref names; none for gRefCOCO's -1. Where it names several, crowds are left out."""
    named = field(ref, "ann_id", (*_ID, list), where)
    if not isinstance(named, list):
        named = [named]
    elif not all(isinstance(k, _ID) for k in named) or not named:
        raise DataError(f"{where}: 'ann_id' is no list of ids (got {named!r:.80}); mend the file")
    if named == [-1]:
        return []
    things = [_listed(annotations, key, "annotation", where) for key in named]
    for thing in things:
        if thing.get("image_id") != ref.get("image_id"):
            raise DataError(
                f"{where}: its annotation {thing['id']} is of another image (got {thing.get('image_id')!r} for "
                f"{ref.get('image_id')!r}); do refs and instances belong together?"
            )
    if len(things) > 1:
        things = [t for t in things if not t.get("iscrowd")]
        if not things:
            raise DataError(f"{where}: names crowds only (got {named}); drop it")
    return things


def _listed(rows: dict[Any, dict[str, Any]], key: Any, what: str, where: str) -> dict[str, Any]:
    if key not in rows:
        raise DataError(f"{where}: its {what} is not listed (got {key!r}); do refs and instances belong together?")
    return rows[key]


def _xyxy(thing: dict[str, Any], where: str) -> tuple[float, float, float, float]:
    x, y, width, height = readers.numbers(thing.get("bbox"), 4, f"{where}: bbox")
    return x, y, x + width, y + height
