"""Samples with known truth, and the generation of a model that answers exactly as asked; no model involved."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import torch
from scipy import special

from ufo_tune import templates
from ufo_tune.core import answers, masks
from ufo_tune.core.codec import Codec
from ufo_tune.core.types import Dialogue, Generation, Sample, Slot, Targets, View

OBJECTS = ("detection", "instance_segmentation")
GRID = (*OBJECTS, "semantic_segmentation")
WHOLE = ("depth", "normals")
"""Tasks whose question is the same for every picture."""
WORDS = {"vqa": "two cats", "conversation": "a cup at <bbox>, its table: <mask>"}
"""Tasks answered in words, and what their samples answer."""
CLASSES = ("Cup", "dining table", "cat")
SIZE = (48, 64)
CELLS = (6, 8)
SLOT, DEPTH, OTHER = 7, 8, 9
"""Ids in made generations: the slot tokens of masks and of depth, and whatever else is said."""
CODECS = [Codec(num_bins=256, slot_side=2, box_format=f) for f in ("xyxy", "cxcywh", "cxcywh_local")]
CODECS.append(Codec(num_bins=100, slot_side=4, negative="end"))


def codec_name(codec: Codec) -> str:
    return f"{codec.box_format}-{codec.slot_side}-{codec.negative}"


def shapes(count: int) -> np.ndarray:
    """[count, H, W] rectangles on whole cells that do not touch; at most 6."""
    found = np.zeros((count, *SIZE), dtype=bool)
    for i in range(count):
        y, x = 4 + 24 * (i // 3), 4 + 20 * (i % 3)
        found[i, y : y + 12 + 4 * (i % 2), x : x + 12] = True
    return found


def label_map(count: int) -> np.ndarray:
    """[H, W] int16: the shapes' classes in turn, -1 between them."""
    found = np.full(SIZE, -1, dtype=np.int16)
    for i, shape in enumerate(shapes(count)):
        found[shape] = i % len(CLASSES)
    return found


def depth_map(count: int) -> np.ndarray:
    """[H, W] float32 metres: the shapes nearer and nearer before a wall."""
    found = np.full(SIZE, 8, dtype=np.float32)
    for i, shape in enumerate(shapes(count)):
        found[shape] = 6 - i
    return found


def normal_map(count: int) -> np.ndarray:
    """[H, W, 3] float32 unit vectors: the shapes face right, down and left of a wall that faces the camera."""
    found = np.zeros((*SIZE, 3), dtype=np.float32)
    found[..., 2] = -1
    for i, shape in enumerate(shapes(count)):
        found[shape] = [(0.6, 0, -0.8), (0, 1, 0), (-0.8, -0.6, 0)][i % 3]
    return found


def own_file(name: str) -> ModuleType | None:
    """``tests/task_samples/<name>.py``, where there is one."""
    module = f"tests.task_samples.{name}"
    return None if importlib.util.find_spec(module) is None else importlib.import_module(module)


def sample_of(name: str, count: int = 3) -> Sample:
    """A sample with ``count`` objects (one where the task is about one)."""
    if own := own_file(name):
        made: Sample = own.sample()
        return made
    single = name not in GRID
    rles = masks.encode_many(shapes(1 if single else count))
    labels = torch.tensor([0] if single else [i % len(CLASSES) for i in range(count)], dtype=torch.long)
    if name == "conversation":  # one object of an earlier answer, two of the last
        rles, labels = masks.encode_many(shapes(3)), torch.zeros(3, dtype=torch.long)
    targets = Targets(masks.boxes_of(rles), rles, labels, text=WORDS.get(name, ""))
    if name == "semantic_segmentation":
        targets = Targets(label_map=label_map(count))
    if name in WHOLE:
        targets = Targets(**{name: {"depth": depth_map, "normals": normal_map}[name](count)})
    return Sample(
        image=np.zeros((*SIZE, 3), np.uint8),
        size=SIZE,
        task=name,
        text="" if name in (*GRID, *WHOLE) else "the left cup",
        classes=CLASSES if name in GRID else (),
        targets=targets,
        source=f"made/{name}#0",
        image_id="made#0",
        history=(("segment it", "It is <mask>."),) if name == "conversation" else (),
    )


def encode(
    task: ModuleType, sample: Sample, codec: Codec, seed: int | None = 0, template: str = "", **options
) -> Dialogue:
    rng = None if seed is None else np.random.default_rng(seed)
    return task.encode(sample, templates.load(template or task.TEMPLATE), codec, rng, **options)


def spoken(dialogue: Dialogue, codec: Codec, sure: float = 0.9) -> Generation:
    """The generation of a model that answers exactly as the dialogue was written.

    Features are one-hot, one dimension a cell, so a slot token's embedding holds that cell's logit of its sub-pixel.
    """
    said = dialogue.turns[-1].answers
    h, w = CELLS
    side = codec.slot_side
    width = h * w
    cut = [answers.pieces(a.text or "", codec) for a in said]
    length = max((len(c) for c in cut), default=0)
    ids = torch.full((len(said), length), -1)
    hidden = torch.zeros(len(said), length, width)
    for n, (pieces, answer) in enumerate(zip(cut, said, strict=True)):
        ids[n, : len(pieces)] = torch.tensor([token_id(p, codec) for p in pieces]).long()
        at = [i for i, p in enumerate(pieces) if token_id(p, codec) != OTHER]
        for number, slot in enumerate(answer.slots):
            rows = (np.arange(h * side) + 0.5) * SIZE[0] / (h * side)
            cols = (np.arange(w * side) + 0.5) * SIZE[1] / (w * side)
            small = slot.target[rows.astype(int)][:, cols.astype(int)]  # [h * side, w * side] nearest pixel
            for k in range(side**2):  # sub-row k // side, sub-column k % side of every cell
                logit = _logits(slot, codec)(small[k // side :: side, k % side :: side])  # [h, w]
                hidden[n, at[number * side**2 + k]] = torch.from_numpy(logit).flatten() * math.sqrt(width)
    return Generation(
        texts=tuple(a.text or "" for a in said),
        ids=ids,
        scores=torch.full((len(said), length), sure),
        hidden=hidden,
        image_features=torch.eye(width).reshape(h, w, width),
        views=(View((0.0, 0.0, float(SIZE[1]), float(SIZE[0])), CELLS),),
        points=tuple(a.point for a in said),
        slot_id=SLOT,
        depth_id=DEPTH,
    )


def _logits(slot: Slot, codec: Codec) -> Callable[[np.ndarray], np.ndarray]:
    """The logits whose sigmoid says a slot's values: inside or not, part of the depth range, half of -1 to 1."""
    near, far = {"mask": (0.0, 1.0), "depth": codec.depth_range, "normal": (-1.0, 1.0)}[slot.kind]
    return lambda values: np.clip(special.logit((values.astype(float) - near) / (far - near)), -12, 12)


def token_id(piece: str, codec: Codec) -> int:
    return {codec.mask_token: SLOT, codec.depth_token: DEPTH}.get(piece, OTHER)


def words(texts: list[str], codec: Codec, points: bool) -> Generation:
    """Any texts as a generation; its slot tokens are those in the text."""
    cut = [answers.pieces(t, codec) for t in texts]
    length = max(len(c) for c in cut)
    ids = torch.tensor([[token_id(p, codec) for p in c] + [-1] * (length - len(c)) for c in cut])
    n, (h, w) = len(texts), CELLS
    return Generation(
        texts=tuple(texts),
        ids=ids.reshape(n, length).long(),
        scores=torch.full((n, length), 0.5),
        hidden=torch.zeros(n, length, 4),
        image_features=torch.zeros(h, w, 4),
        views=(View((0.0, 0.0, float(SIZE[1]), float(SIZE[0])), CELLS),),
        points=tuple((0.5, 0.5) if points else None for _ in texts),
        slot_id=SLOT,
        depth_id=DEPTH,
    )
