"""The plain way that ``data.py`` measures against: one sample after the other, as reference code does it.

pycocotools holds the annotations in memory. For each sample the photograph is decoded, *all* objects' masks are decoded
at full size and resized one by one, the Hugging Face processor takes the image and the prompt with all its
placeholders, every answer is tokenised on its own, and objects, points and tokens are gone through in Python loops.
Batches come out equal to ours (``data.py`` checks that), from the same random numbers.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pycocotools.coco import COCO
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ufo_tune.core.codec import Codec
from ufo_tune.templates import Template

Row = dict[str, Any]
"""Lists ``ids``, ``labels``, ``segment``, ``positions``; ``pixels`` [3, side, side]; maps ``targets``; ``points``."""
FLIP = 0.5
"""Probability of a mirror image, in detection."""
UNASKED = "masks nobody asked for"
"""The stage of masks that the task does not need."""
Stage = Callable[[str], AbstractContextManager[None]]


class Plain:
    """Rows of ``detection`` and ``res`` from COCO's JSON.

    Args:
        folder: what ``_data_files.write`` wrote.
        task: ``detection`` or ``res``.
        hf: the Hugging Face processor; its image processor is used on the square that the tower sees.
        template: wordings.
        codec: how answers are written.
        side: of that square in pixels.
        stage: times a part of the work.
    """

    def __init__(
        self, folder: Path, task: str, hf: Any, template: Template, codec: Codec, side: int, stage: Stage
    ) -> None:
        self.coco = COCO(str(folder / "annotations" / "instances_train.json"))
        self.refs = pickle.loads((folder / "refcoco" / "refs(unc).p").read_bytes()) if task == "res" else []
        self.names = [c["name"] for c in sorted(self.coco.loadCats(self.coco.getCatIds()), key=lambda c: c["id"])]
        self.images, self.hf = folder / "train", hf
        self.template, self.codec = template, codec
        self.side, self.stage = side, stage

    def row(self, index: int, rng: np.random.Generator) -> Row:
        """One sample, in the order of the dataset."""
        if not self.refs:
            return self.detection(self.coco.getImgIds()[index], rng)
        ref = self.refs[index]
        return self.res(ref["image_id"], ref["ann_id"], ref["sentences"][0]["sent"], rng)

    def detection(self, image_id: int, rng: np.random.Generator) -> Row:
        """The default options: 10 x 10 points, 40 kept, 3 for each object; mirrored at random."""
        image = self._image(image_id)
        rows = self.coco.loadAnns(self.coco.getAnnIds(imgIds=[image_id]))
        flip = rng.random(3)[0] < FLIP
        rng.random(8)  # of crops and colours, which are off
        self._masks(rows, -1, flip)
        with self.stage("augment"):
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image
        with self.stage("task"):
            boxes, labels = [], []
            for row in rows:
                x, y, width, height = row["bbox"]
                x0, x1 = np.float32(x), np.float32(x + width)
                x0, x1 = (image.width - x1, image.width - x0) if flip else (x0, x1)
                boxes.append([x0, y, x1, y + height])
                labels.append(row["category_id"] - 1)
            rng.random()  # whether to list some classes only
            points = [((j + 0.5) / 10, (i + 0.5) / 10) for i in range(10) for j in range(10)]
            assigned = self._match(points, boxes, image.size)
            order = rng.permutation(len(points))
            order = sorted(order.tolist(), key=lambda p: assigned[p] < 0)[:40]
            answers, kept = [], []
            for p in sorted(order):
                k = assigned[p]
                answers.append("background" if k < 0 else f"{self.names[labels[k]]},{self._box(boxes[k], image.size)}")
                kept.append(points[p])
            question = self.template.question(rng, classes=",".join(self.names), range=f"0-{self.codec.num_bins}")
        return self._row(image, question, answers, kept, [])

    def res(self, image_id: int, annotation: int, phrase: str, rng: np.random.Generator) -> Row:
        """The mask of one of the image's objects."""
        image = self._image(image_id)
        rows = self.coco.loadAnns(self.coco.getAnnIds(imgIds=[image_id]))
        targets = self._masks(rows, annotation)
        with self.stage("task"):
            question = self.template.question(rng, phrase=phrase)
            answer = self.template.answer(rng, mask=self.codec.mask_token * self.codec.slot_tokens)
        return self._row(image, question, [answer], [], targets)

    def batch(self, rows: Sequence[Row], pad: int) -> dict[str, Tensor]:
        """Rows padded to the longest."""
        with self.stage("stack"):
            width = max(len(row["ids"]) for row in rows)
            out: dict[str, Tensor] = {"pixel_values": torch.stack([row["pixels"] for row in rows])}
            for name, fill in (("ids", pad), ("labels", -100), ("segment", -2), ("positions", 0)):
                out[name] = torch.tensor([row[name] + [fill] * (width - len(row[name])) for row in rows])
            targets = [t for row in rows for t in row["targets"]]
            out["targets"] = torch.stack(targets) if targets else torch.zeros(0)
        return out

    def _image(self, image_id: int) -> Image.Image:
        with self.stage("decode image"):
            shown = self.coco.loadImgs([image_id])[0]
            return Image.open(self.images / shown["file_name"]).convert("RGB")

    def _masks(self, rows: Sequence[dict[str, Any]], wanted: int, flip: bool = False) -> list[Tensor]:
        """All objects' masks as a pipeline of annotations loads them; the one that is wanted."""
        found = []
        for row in rows:
            with self.stage("masks" if row["id"] == wanted else UNASKED):
                mask = self.coco.annToMask(row)
                resized = self._resized(mask[:, ::-1].copy() if flip else mask)
            found += [resized] if row["id"] == wanted else []
        return found

    def _resized(self, mask: np.ndarray) -> Tensor:
        whole = torch.from_numpy(mask)[None, None].float()  # [1, 1, H, W]
        return F.interpolate(whole, (self.side, self.side), mode="bilinear", align_corners=False)[0, 0]

    def _match(self, points: Sequence[tuple[float, float]], boxes: Sequence[list[float]], size: Any) -> list[int]:
        """The object of each point, -1 where it has none; in single precision as ours, so that ties fall alike."""
        single = np.float32
        width, height = (single(side) for side in size)
        times = max(1, min(3, len(points) // max(1, len(boxes))))
        cost = np.zeros((len(points), times * len(boxes)))
        for i, (px, py) in enumerate(points):
            for j, (x0, y0, x1, y1) in enumerate(boxes):
                cx = (single(x0) / width + single(x1) / width) / single(2)
                cy = (single(y0) / height + single(y1) / height) / single(2)
                distance = abs(float(single(px)) - float(cx)) + abs(float(single(py)) - float(cy))
                cost[i, j :: len(boxes)] = 5 * distance
        assigned = [-1] * len(points)
        for i, j in zip(*linear_sum_assignment(cost), strict=True):
            assigned[i] = int(j) % len(boxes)
        return assigned

    def _box(self, box: Sequence[float], size: Any) -> str:
        bins = [round(float(np.float32(v)) * self.codec.num_bins / side) for v, side in zip(box, size * 2, strict=True)]
        return f"{self.codec.box_open}{','.join(map(str, bins))}{self.codec.box_close}"

    def _row(
        self,
        image: Image.Image,
        question: str,
        answers: Sequence[str],
        points: Sequence[tuple[float, float]],
        targets: list[Tensor],
    ) -> Row:
        tokenizer, side = self.hf.tokenizer, self.side
        with self.stage("pixels"):
            square = image.resize((side, side), Image.Resampling.BICUBIC)
            pixels = self.hf.image_processor(square, do_resize=False, do_center_crop=False, return_tensors="pt")
        with self.stage("lay out"):
            shown = f"{question}\n" + "<image>" * (side // self.hf.patch_size) ** 2
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": [{"type": "text", "text": shown}]}],
                chat_template=self.hf.chat_template,
                add_generation_prompt=True,
                tokenize=False,
            )
            ids = list(tokenizer(text)["input_ids"])
            prompt, labels, segment = len(ids), [-100] * len(ids), [-1] * len(ids)
            positions = list(range(prompt))
            local = tokenizer.convert_tokens_to_ids(self.codec.local_token)
            for number, answer in enumerate(answers):
                head = [local] if points else []
                said = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
                for place, token in enumerate(head + said):
                    ids.append(token)
                    labels.append(token if place >= len(head) else -100)
                    segment.append(number)
                    positions.append(prompt + place)
        return {
            "ids": ids, "labels": labels, "segment": segment, "positions": positions,
            "pixels": pixels["pixel_values"][0], "targets": targets, "points": points,
        }  # fmt: skip
