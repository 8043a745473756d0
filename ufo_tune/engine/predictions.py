"""Predictions as JSON lines, written as they come, so that an evaluation that died goes on where it stopped.

    claim(folder, origin)
    with PredictionLog(folder, rank=0) as log:
        log.add(to_row(sample, prediction))

Only what died is gone on with, and only by the same protocol, weights and version: predictions are never mixed, and a
finished evaluation is done again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from ufo_tune.core.types import Prediction, Sample
from ufo_tune.errors import EvalError

FILE = "predictions.jsonl"
UNFINISHED = "unfinished.json"
"""Whose predictions these are, for as long as some are missing."""
_SAMPLED = 256
"""Values of each parameter that enter the fingerprint."""


def to_row(sample: Sample, prediction: Prediction, answers: Sequence[str] = ()) -> dict[str, Any]:
    """One prediction as plain JSON values; boxes are xyxy pixels of the original image, masks COCO run lengths.

    Args:
        sample: what was asked.
        prediction: what was understood.
        answers: the model's own words, kept where some of them could not be read.
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
    for name in ("label_map", "depth"):
        array = getattr(prediction, name)
        if array is not None:
            row[name] = _pack(array)
    if prediction.invalid and answers:
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


class PredictionLog:
    """The ``predictions.jsonl`` of one split; with several processes each but the first writes a part beside it.

    Attributes:
        done: source -> prediction of what an earlier run left in the folder.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.folder = folder
        self.rank = rank
        self.done = {row["source"]: from_row(row) for path in _files(folder) for row in read(path)}

    def __enter__(self) -> Self:
        path = self.folder / (f"predictions.{self.rank}.jsonl" if self.rank else FILE)
        _drop_torn_line(path)
        self._file = path.open("a", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, row: Mapping[str, Any]) -> None:
        """Write one row now."""
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._file.flush()

    def finish(self) -> None:
        """Join the parts of all processes in ``predictions.jsonl``; for the first process, when all are done."""
        for part in _files(self.folder):
            if part.name != FILE:
                with (self.folder / FILE).open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in read(part))
                part.unlink()
        (self.folder / UNFINISHED).unlink()


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a predictions file; a last line that was cut off when a run died is left out.

    Raises:
        EvalError: another line is not JSON.
    """
    *lines, _ = path.read_text(encoding="utf-8").split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise EvalError(f"{path}:{number}: not JSON (got {line:.40}); delete the file to predict again") from error
    return rows


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


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("predictions*.jsonl"))


def _drop_torn_line(path: Path) -> None:
    if path.exists():
        whole = path.read_bytes()
        path.write_bytes(whole[: whole.rfind(b"\n") + 1])


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
