"""A training step of this project against a plain one: same model, batch, loss and gradients, side by side in one run.

    python scripts/bench/plain_step.py [--out plain_step.json] [--repeat 3] [--vocabularies 32000 92000]
        [--attention sdpa [--compile]]

One row at 448 pixels with six objects: 256 image tokens and 40 parallel answers, as UFO trains, 18 of them boxes or
masks and the others "background". The plain side does what the method's text says, in the order in which it says it.
It writes the attention rule answer by answer into a dense float mask, computes the logits of every position, and
takes one object after the other: its sixteen dot products with the image, put together to a map, raised to the size
of the target, dice and focal loss. LoRA and the new tokens' rows are peft's. All of it is correct, and its single
operations are torch's own; losses and gradients must agree within 1e-4, or the run fails. Vision tower, decoder, the
``<LOCAL>`` features and the optimizer are the same code on both sides, so that the layers bound the ratio: the larger
the vocabulary, the less. Ours attends by ``model.attention: stretches`` unless told otherwise; ``--compile``
compiles its layers as ``train.compile`` does, which goes with sdpa only.

The sides alternate, and the fastest of ``--repeat`` counts, in CPU seconds of one thread. Memory is the most that the
profiler sees allocated during a step, without weights and optimizer state, which are the same. Goals: at least twice as
fast, at most half the memory.
"""

from __future__ import annotations

import copy
import itertools
import math
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _measure import Side, report_steps, side_by_side, step_options
from torch import Tensor
from train_step import batch, model, prepared

from ufo_tune.core.types import IGNORE, PROMPT, Batch, LossTerm
from ufo_tune.engine import speed
from ufo_tune.engine.trainable import Trainable
from ufo_tune.models import stretches
from ufo_tune.models.new_tokens import NewTokens
from ufo_tune.models.ufo import UfoModel

SIDE, PATCH = 448, 28
"""Pixels; 16 x 16 image tokens, as many as InternVL has of a tile."""
SCENE = 4
"""Of those for training: with six objects, as most have in COCO."""
TASKS = ["detection", "instance_segmentation"]
OBJECTIVES: dict[str, dict[str, Any]] = {"next_token": {}, "mask_retrieval": {}}


def dense_mask(batch: Batch) -> Tensor:
    """[B, 1, T, T] float32 that is added to attention scores: 0 where a token is seen, else the least number."""
    rows, length = batch.ids.shape
    mask = torch.full((rows, 1, length, length), torch.finfo(torch.float32).min)
    for row in range(rows):
        segments = batch.segment[row].tolist()
        prompt = segments.count(PROMPT)
        images = [i for i in batch.image_index[row].tolist() if i >= 0]
        mask[row, 0, :prompt, :prompt].masked_fill_(torch.ones(prompt, prompt, dtype=torch.bool).tril(), 0.0)
        mask[row, 0, images[0] : images[-1] + 1, images[0] : images[-1] + 1] = 0.0  # they stand together
        for answer in range(max(segments) + 1):
            first, size = segments.index(answer), segments.count(answer)
            own = slice(first, first + size)
            mask[row, 0, own, :prompt] = 0.0
            mask[row, 0, own, own].masked_fill_(torch.ones(size, size, dtype=torch.bool).tril(), 0.0)
    return mask


def labels_of_next(batch: Batch) -> Tensor:
    """[B, T]: what each position predicts. Answers follow each other, but each follows the prompt or its own head."""
    wanted = torch.full_like(batch.labels, IGNORE)
    for row, labels in enumerate(batch.labels.tolist()):
        for at, label in enumerate(labels):
            if label != IGNORE:
                wanted[row, at - 1] = label  # every answer of a grid task starts with its own <LOCAL>
    return wanted


def mask_losses(states: Tensor, images: Tensor, slots: list[int], target: Tensor) -> tuple[Tensor, Tensor]:
    """Dice and focal loss of one object.

    Args:
        states: [T, D] of its row.
        images: [K] positions of the image tokens, a square of them.
        slots: positions that predict its slot tokens, a square of them.
        target: [H, W].
    """
    side, part = math.isqrt(len(images)), math.isqrt(len(slots))
    features = states[images].reshape(side, side, -1)  # [h, w, D]
    small = torch.zeros(side * part, side * part)
    for slot, position in enumerate(slots):
        dotted = features @ states[position] / math.sqrt(states.shape[-1])  # [h, w]
        small[slot // part :: part, slot % part :: part] = dotted
    x = F.interpolate(small[None, None], size=target.shape, mode="bilinear")[0, 0]  # [H, W]
    p = x.sigmoid()
    dice = 1 - (2 * (p * target).sum() + 1e-3) / (p.sum() + target.sum() + 1e-3)
    right = p * target + (1 - p) * (1 - target)
    alpha = 0.25 * target + 0.75 * (1 - target)
    entropy = F.binary_cross_entropy_with_logits(x, target, reduction="none")
    return dice, (alpha * (1 - right) ** 2 * entropy).mean()


def plain_terms(built: UfoModel, batch: Batch) -> dict[str, LossTerm]:
    """The same losses, one object after the other."""
    inputs = built.embed(batch)
    inputs.mask = dense_mask(batch)
    hidden = built.decode(inputs, batch)  # [B, T, D]
    logits = built.vlm.logits(hidden).float()  # [B, T, V]
    wanted = labels_of_next(batch)
    token = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORE, reduction="sum")  # [B*T, V]
    terms = {"token": LossTerm(token, (batch.labels != IGNORE).sum().float())}
    losses = []
    for row, slots, target in zip(batch.slot_owner, batch.slot_index.tolist(), batch.slot_targets, strict=True):
        images = batch.image_index[row]
        losses.append(mask_losses(hidden[row], images[images >= 0], slots, target))
    for name, values in zip(("dice", "focal"), zip(*losses, strict=True), strict=bool(losses)):
        terms[name] = LossTerm(torch.stack(values).sum(), torch.tensor(float(len(values))))
    return terms


def compare(built: UfoModel, task: str, train: str, options: Namespace) -> dict[str, Any]:
    """One row of the table: both sides on the same weights."""
    plain = copy.deepcopy(built)
    made = {}
    for name, side in (("plain", plain), ("ours", built)):
        torch.manual_seed(0)  # of LoRA's first weights
        _, made[name] = prepared(side, train)
    for module in plain.modules():
        if isinstance(module, NewTokens):
            module.__class__ = NewTokens.__base__
    if options.attention == "stretches":
        stretches.use(built.vlm)
    if options.compile:
        speed.compile_layers(built.vlm)
    shared = batch(built, task, options.answers, SIDE, SCENE)
    ours = Trainable(built, OBJECTIVES)
    sides = {
        "plain": Side(lambda: plain_terms(plain, shared), made["plain"]()),
        "ours": Side(lambda: ours(shared), made["ours"]()),
    }  # fmt: skip
    return {
        "vocabulary": built.vlm.hf.get_output_embeddings().weight.shape[0],  # type: ignore[operator]
        "task": task,
        "train": train,
        "tokens": shared.ids.shape[1],
        "supervised": int((shared.labels != IGNORE).sum()),
        "masks": len(shared.slot_targets),
        **side_by_side(sides, options.repeat),
    }


def main() -> None:
    """Measure and print."""
    parser = step_options(__doc__, vocabularies=[32_000, 92_000], trains=["lora"])
    parser.add_argument("--tasks", choices=TASKS, nargs="+", default=TASKS)
    parser.add_argument("--answers", type=int, default=40)
    parser.add_argument("--compile", action="store_true", help="compile our side's layers (minutes, once)")
    parser.add_argument("--attention", choices=["stretches", "sdpa"], default="stretches", help="ours (%(default)s)")
    options = parser.parse_args()
    if options.compile and options.attention != "sdpa":
        parser.error("--compile: goes with --attention sdpa, as in a recipe")
    torch.set_num_threads(1)
    rows = []
    for task, vocabulary, train in itertools.product(options.tasks, options.vocabularies, options.train):
        with tempfile.TemporaryDirectory() as folder:
            built = model(Path(folder) / "model", vocabulary, options.width, options.layers, SIDE, PATCH)
        rows.append(compare(built, task, train, options))
    sizes = {k: k for k in ("task", "vocabulary", "trains", "tokens", "supervised", "masks")} | {"trains": "train"}
    report_steps(options, rows, sizes, sides={"plain": "plain", "ours": "ours"})


if __name__ == "__main__":
    main()
