"""Predictions as JSON lines, written as they come, so that an evaluation that died goes on where it stopped.

    claim(folder, origin)
    with PredictionLog(folder, rank=0) as log:
        log.add(to_row(sample, prediction))
    join(folder, order)                           # the parts of all processes become predictions.jsonl
    for case in cases(samples, folder, [0]): ...  # read back, one at a time
    release(folder)                               # nothing is missing any more

Only what died is gone on with, and only by the same protocol, weights and version: predictions are never mixed, and a
finished evaluation is done again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from ufo_tune.core.answers import parse
from ufo_tune.core.codec import Codec
from ufo_tune.core.types import Prediction, Sample, Samples
from ufo_tune.errors import EvalError

FILE = "predictions.jsonl"
UNFINISHED = "unfinished.json"
"""Whose predictions these are, for as long as some are missing."""
_SAMPLED = 256
"""Values of each parameter that enter the fingerprint."""


def to_row(
    sample: Sample, prediction: Prediction, answers: Sequence[str] = (), codec: Codec | None = None
) -> dict[str, Any]:
    """One prediction as plain JSON values; boxes are xyxy pixels of the original image, masks COCO run lengths.

    Args:
        sample: what was asked.
        prediction: what was understood.
        answers: the model's own words. They are counted (``said``), and kept where some of them could not be read, and
            where the only one has boxes: ``readings`` looks at their bins, which nobody else sees.
        codec: how they should be written; with it those whose boxes are out of range or torn, or whose slot tokens do
            not add up, are counted too (``malformed``).
    """
    row: dict[str, Any] = {
        "source": sample.source,
        "boxes": prediction.boxes.float().tolist(),
        "scores": prediction.scores.float().tolist(),
        "labels": prediction.labels.tolist(),
        "text": prediction.text,
        "invalid": prediction.invalid,
    }
    if prediction.masks is not None:
        row["masks"] = [{"size": list(m["size"]), "counts": _text(m["counts"])} for m in prediction.masks]
    for name in ("label_map", "depth", "normals"):
        array = getattr(prediction, name)
        if array is not None:
            row[name] = _pack(array)
    if answers:
        row["said"] = len(answers)
    if answers and codec is not None:
        row["malformed"] = sum(not parse(text, codec).ok for text in answers)
    alone = codec is not None and len(answers) == 1 and bool(parse(answers[0], codec).boxes)
    if answers and (prediction.invalid or alone):
        row["answers"] = list(answers)
    return row


def from_row(row: Mapping[str, Any]) -> Prediction:
    """The prediction of a row, as ``to_row`` wrote it: on the CPU, in float32."""
    masks = row.get("masks")
    return Prediction(
        boxes=torch.tensor(row["boxes"], dtype=torch.float32).reshape(-1, 4),  # [N, 4]
        masks=None if masks is None else tuple({"size": m["size"], "counts": m["counts"].encode()} for m in masks),
        scores=torch.tensor(row["scores"], dtype=torch.float32),
        labels=torch.tensor(row["labels"], dtype=torch.long),
        label_map=_unpack(row.get("label_map")),
        depth=_unpack(row.get("depth")),
        normals=_unpack(row.get("normals")),
        text=row["text"],
        invalid=row["invalid"],
    )


def fingerprint(model: nn.Module) -> str:
    """A short hash of the weights (names, shapes and a sample of each parameter's values): which model was scored."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().reshape(-1)  # [values]
        picked = flat[:: max(1, len(flat) // _SAMPLED)].float().cpu().numpy()
        digest.update(f"{name}{tuple(parameter.shape)}".encode() + picked.tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Case:
    """A sample and what was said about it, read back.

    ``said`` answers were given, of which ``malformed`` broke the form of boxes or slots; ``answers`` are those
    that were kept (see ``to_row``).
    """

    sample: Sample
    prediction: Prediction
    said: int = 1
    malformed: int = 0
    answers: tuple[str, ...] = ()


class Stored(Mapping[str, dict[str, Any]]):
    """The rows of all predictions files of a folder by source, read from the disk when asked for.

    A last line that was cut off when a run died is left out; of two rows of one source the first counts.

    Raises:
        EvalError: another line is not JSON.
    """

    def __init__(self, folder: Path) -> None:
        self._places: dict[str, tuple[Path, int, int]] = {}
        for path in _files(folder):
            for source, start, length in _lines(path):
                self._places.setdefault(source, (path, start, length))

    def __getitem__(self, source: str) -> dict[str, Any]:
        row: dict[str, Any] = json.loads(self.line(source))
        return row

    def __contains__(self, source: object) -> bool:
        return source in self._places  # without reading it

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def line(self, source: str) -> bytes:
        """The row as it stands in the file, with its line end."""
        path, start, length = self._places[source]
        with path.open("rb") as file:
            file.seek(start)
            return file.read(length)


class PredictionLog:
    """The ``predictions.jsonl`` of one split; with several processes each but the first writes a part beside it.

    Attributes:
        done: source -> row of what an earlier run left in the folder.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.folder = folder
        self.rank = rank
        self.done = Stored(folder)

    def __enter__(self) -> Self:
        path = self.folder / (f"predictions.{self.rank}.jsonl" if self.rank else FILE)
        _drop_torn_line(path)
        self._file = path.open("a", encoding="utf-8", errors="backslashreplace")  # names of files in another encoding
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, row: Mapping[str, Any]) -> None:
        """Write one row now."""
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._file.flush()


def cases(samples: Samples, folder: Path, indices: Iterable[int]) -> Iterator[Case]:
    """Samples with what was predicted about them; one at a time is held.

    Args:
        samples: the split that was predicted.
        folder: with its ``predictions.jsonl``.
        indices: which samples, in this order.
    Raises:
        EvalError: a sample has no prediction.
    """
    stored = Stored(folder)
    for index in indices:
        sample = samples[index]
        if sample.source not in stored:
            raise EvalError(f"{folder / FILE}: has no prediction (got none of {sample.source}); evaluate again")
        row = stored[sample.source]
        kept = tuple(row.get("answers", ()))
        yield Case(sample, from_row(row), row.get("said", 1), row.get("malformed", 0), kept)


def join(folder: Path, order: Sequence[str]) -> None:
    """Make one ``predictions.jsonl`` of the parts of all processes; for the first process, when all have written.

    Killed at any point, it can be done again: a row is in the new file before its part goes.

    Args:
        folder: of a split.
        order: sources of the samples in the order of the dataset, so that any number of processes leave equal files.
    """
    stored = Stored(folder)
    new = folder / (FILE + ".new")
    with new.open("wb") as file:
        file.writelines(stored.line(source) for source in order)
    os.replace(new, folder / FILE)
    for part in _files(folder):
        if part.name != FILE:
            part.unlink()


def claim(folder: Path, origin: Mapping[str, Any]) -> None:
    """Open a folder for the predictions of one origin, before ``PredictionLog`` does: go on, or start over.

    Raises:
        EvalError: it holds the unfinished predictions of another origin (other weights, another protocol).
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / UNFINISHED
    text = json.dumps(origin, indent=1, sort_keys=True)
    if not path.exists():
        for finished in _files(folder):
            finished.unlink()
        fresh = folder / f".{UNFINISHED}.part"
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)  # whole or not at all: half a claim would be another's
    elif path.read_text(encoding="utf-8") != text:
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = sorted(k for k in {*before, *origin} if before.get(k) != origin.get(k))
        raise EvalError(
            f"{folder}: holds unfinished predictions of another run (got another {', '.join(changed)}); "
            "delete the folder or choose another --out"
        )


def release(folder: Path) -> None:
    """Say that nothing of a folder is missing: the next evaluation there starts over."""
    (folder / UNFINISHED).unlink(missing_ok=True)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("predictions*.jsonl"))


def _lines(path: Path) -> Iterator[tuple[str, int, int]]:
    """Source, first byte and length of every whole line."""
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):  # cut off, perhaps inside a character
                return
            try:
                source = json.loads(line)["source"]
            except (ValueError, KeyError, TypeError) as error:
                said = line.decode("utf-8", "replace").strip()
                raise EvalError(
                    f"{path}:{number}: is no prediction (got {said:.40}); delete the file to predict again"
                ) from error
            yield source, start, len(line)
            start += len(line)


def _drop_torn_line(path: Path) -> None:
    """Cut off what follows the last whole line; other processes may be reading the lines before it."""
    if path.exists():
        os.truncate(path, sum(length for _, _, length in _lines(path)))


def _text(counts: bytes | str) -> str:
    return counts if isinstance(counts, str) else counts.decode()


def _pack(array: np.ndarray) -> dict[str, Any]:
    data = base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes())).decode()
    return {"dtype": str(array.dtype), "shape": list(array.shape), "zlib": data}


def _unpack(packed: Mapping[str, Any] | None) -> np.ndarray | None:
    if packed is None:
        return None
    data = zlib.decompress(base64.b64decode(packed["zlib"]))
    return np.frombuffer(data, dtype=packed["dtype"]).reshape(packed["shape"]).copy()  # [H, W]
