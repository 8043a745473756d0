"""What a model found in one picture, in its pixels: numbers, pictures, and the forms that other libraries take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow
from PIL import ImageShow

from ufo_tune import show
from ufo_tune.core import masks as rle
from ufo_tune.core import placeholders
from ufo_tune.core.types import Prediction, Rle, Sample
from ufo_tune.engine import predict
from ufo_tune.errors import ConfigError
from ufo_tune.show.overlay import Picture


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """What was asked, and what the model said. ``N`` objects, in its order; everything is in pixels of the picture.

    Attributes:
        sample: what was asked: picture, size, task, text, classes.
        prediction: the same answer as the engine has it: tensors, and masks as COCO run lengths.
    """

    sample: Sample
    prediction: Prediction

    @property
    def boxes(self) -> np.ndarray:
        """[N, 4] float32, xyxy; zeros where an object was not found."""
        boxes: np.ndarray = self.prediction.boxes.float().numpy()
        return boxes

    @cached_property
    def masks(self) -> np.ndarray | None:
        """[N, H, W] bool, decoded when first asked for; None where the answer has none."""
        if self.prediction.masks is None:
            return None
        return rle.decode_many(self.prediction.masks, self.size).astype(bool)

    @property
    def rles(self) -> tuple[Rle, ...] | None:
        """The masks as N COCO run lengths ``{"size": [H, W], "counts": bytes}``; small, however large the picture."""
        return self.prediction.masks

    @property
    def scores(self) -> np.ndarray:
        """[N] float32 in [0, 1]: how sure the model was.

        Of its words; of a mask for a phrase or class that times the mean probability of the mask's pixels.
        """
        scores: np.ndarray = self.prediction.scores.float().numpy()
        return scores

    @property
    def labels(self) -> list[str]:
        """N names: the class, or the phrase where no classes were asked for."""
        return show.names(self.sample, self.prediction)

    @property
    def found(self) -> np.ndarray:
        """[N] bool: whether there is anything of the object: a pixel of its mask, or a box with an area.

        False for a phrase that names nothing, and where the answer could not be read.
        """
        boxes = self.boxes
        return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])

    @property
    def text(self) -> str:
        """The answer in words, with ``<bbox>`` and ``<mask>`` for what it points at."""
        return self.prediction.text

    @property
    def invalid(self) -> int:
        """Answers that could not be read (one question about classes has many answers)."""
        return self.prediction.invalid

    @property
    def depth(self) -> np.ndarray | None:
        """[H, W] float32 metres."""
        return self.prediction.depth

    @property
    def normals(self) -> np.ndarray | None:
        """[H, W, 3] float32 unit vectors: x right, y down, z away."""
        return self.prediction.normals

    @property
    def label_map(self) -> np.ndarray | None:
        """[H, W] int16: place in ``classes``, -1 where nothing was said."""
        return self.prediction.label_map

    @property
    def classes(self) -> tuple[str, ...]:
        """The names that were asked for."""
        return self.sample.classes

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the picture, upright."""
        return self.sample.size

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a message of ``Model.chat``, with a box for each place in its words."""
        places = len(placeholders.found(self.text))
        # An answer that points at nothing may hold a box of zeros all the same, and one with several masks only one.
        boxes = [*self.boxes.tolist(), *([0.0] * 4 for _ in range(places))][:places]
        return {"role": "assistant", "content": self.text, "boxes": boxes}

    def above(self, score: float) -> Result:
        """The same answer without the objects that are less sure than ``score``."""
        p = self.prediction
        kept = (p.scores >= score).nonzero()[:, 0]  # [K]
        few = replace(
            p,
            boxes=p.boxes[kept],
            masks=None if p.masks is None else tuple(p.masks[i] for i in kept.tolist()),
            scores=p.scores[kept],
            labels=p.labels[kept] if len(p.labels) else p.labels,
        )
        return Result(self.sample, few)

    def draw(self, *, scale_to: int | None = None, min_score: float = 0.3) -> Picture:
        """The picture with everything in it: masks, boxes, labels, scores; depth and normals as colours.

        Args:
            scale_to: long side in pixels; default: that of the picture, within bounds that suit a screen.
            min_score: of a question about classes, surer objects only.
        Returns:
            A ``PIL.Image.Image`` in RGB.
        """
        return predict.overlay(self.sample, self.prediction, scale_to=scale_to, min_score=min_score)

    def show(self) -> None:
        """Open ``draw()`` in the notebook, or in this computer's viewer.

        Raises:
            ConfigError: there is no viewer, as on a server.
        """
        if not ImageShow.show(self.draw()):
            raise ConfigError("show: this computer has no viewer for pictures (got none); use save('seen.png')")

    def save(self, path: str | Path) -> Path:
        """Write ``draw()``, or where the name ends in ``.json`` what ``to_json`` gives.

        Returns:
            The path.
        Raises:
            ConfigError: pictures of that kind, or there, cannot be written.
        """
        path = Path(path)
        is_json = path.suffix.lower() == ".json"
        if not is_json and Pillow.registered_extensions().get(path.suffix.lower()) not in Pillow.SAVE:
            raise ConfigError(f"save: no such kind of picture (got {path.name!r}); end it in .png, .jpg or .json")
        try:
            if is_json:
                text = json.dumps(self.to_json(), indent=1, ensure_ascii=False)
                path.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
            else:
                self.draw().save(path)
        except OSError as error:  # no such folder, a full disk, a kind of picture that has no colours
            raise ConfigError(f"save: {path} cannot be written (got: {error}); give another name, as a .png") from error
        return path

    def to_json(self) -> dict[str, Any]:
        """What ``ufo-tune predict`` writes: boxes, masks as COCO run lengths, scores, labels, the answer in words.

        All values are those of JSON. Depth, normals and the label map are not in it.
        """
        return predict.to_json(self.sample, self.prediction)

    def to_coco(self, image_id: int = 0, categories: Mapping[str, int] | None = None) -> list[dict[str, Any]]:
        """COCO results, one for each object that was found: ``pycocotools.coco.COCO.loadRes`` takes them.

        Args:
            image_id: of the picture.
            categories: name -> id; default: the place in ``classes``, from 1 on, and 1 for a phrase.
        Raises:
            ConfigError: ``categories`` lacks a name.
        """
        ids = {name: number for number, name in enumerate(self.classes, start=1)} if categories is None else categories
        rows = []
        for number in np.flatnonzero(self.found).tolist():
            label = self.labels[number]
            if label not in ids and (categories is not None or self.classes):
                raise ConfigError(f"to_coco: categories lack a name (got {label!r}); give every class an id")
            x0, y0, x1, y1 = self.boxes[number].tolist()
            row = {
                "image_id": image_id,
                "category_id": ids.get(label, 1),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "score": float(self.scores[number]),
            }
            if self.rles is not None:
                counts = self.rles[number]["counts"]
                row["segmentation"] = {"size": list(self.size), "counts": counts.decode()}
            rows.append(row)
        return rows

    def to_supervision(self) -> Any:
        """``supervision.Detections`` of the objects that were found; names are in ``data["class_name"]``.

        Raises:
            ConfigError: the package supervision is not installed.
        """
        try:
            import supervision
        except ModuleNotFoundError as error:
            raise ConfigError(
                "to_supervision: the package is not installed (got none); pip install supervision"
            ) from error
        found = self.found
        names = [name for name, there in zip(self.labels, found, strict=True) if there]
        numbers = self.prediction.labels.numpy() if len(self.prediction.labels) else np.zeros(len(found), dtype=int)
        return supervision.Detections(
            xyxy=self.boxes[found],
            mask=None if self.masks is None else self.masks[found],
            confidence=self.scores[found],
            class_id=numbers[found].astype(int),
            data={"class_name": np.array(names, dtype=str)},
        )

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        file = BytesIO()
        self.draw().save(file, "PNG")
        return file.getvalue()

    def __repr__(self) -> str:
        asked = self.sample.text or ", ".join(self.classes)
        maps = [name for name in ("depth", "normals", "label_map") if getattr(self, name) is not None]
        parts = [self.sample.task, *([repr(asked)] if asked else []), *maps]
        if len(self.boxes):
            parts.append(f"{int(self.found.sum())} of {len(self.boxes)} objects found")
        parts += [f"text={self.text!r}"] if self.text and not maps else []
        parts += [f"invalid={self.invalid}"] if self.invalid else []
        return f"Result({', '.join(parts)})"
