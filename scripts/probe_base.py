"""Does a base know which object is meant? Right answers about described objects, by how many objects there are.

    python scripts/probe_base.py runs/tiny_base [--scenes 120]

"What colour (shape, texture, size) is ...", teacher-forced on held-out scenes. A base that is right about one object
alone and wrong among several sees and names, but does not find: what phrases hang on once it learns to point.

Then: how well a linear map can read off an image token's state *where in it* an object lies, before and after the
language model. Masks are read from the states after it; what it threw away no mask can show.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ufo_tune.core.sequence import predicting
from ufo_tune.data.collate import Collator
from ufo_tune.data.open import open_dataset
from ufo_tune.datasets import scenes
from ufo_tune.engine.load import load
from ufo_tune.engine.sources import ask
from ufo_tune.models.ufo import UfoModel

KINDS = ["colour", "shape", "texture", "size"]
QUESTIONS, ROWS = 12, 8
GROUPS = {"1 object": range(1, 2), "2 objects": range(2, 3), "3 to 6 objects": range(3, 7)}


@torch.no_grad()
def probe(model: UfoModel, count: int) -> dict[int, list[bool]]:
    """Number of objects -> for each question about such a scene, whether every token of the answer came first."""
    asked = ask("vqa", "scenes_vqa", {})
    options = {"size": count, "questions": QUESTIONS, "kinds": KINDS}
    samples = open_dataset("scenes", "", "val", "vqa", options)
    collator = Collator(model.processor, asked.task, asked.template, model.codec, asked.encode_options)
    rng = np.random.default_rng(0)  # asked for, as in training, so that answers are in the row
    right: dict[int, list[bool]] = defaultdict(list)
    for first in tqdm(range(0, count, ROWS), desc="scenes", unit_scale=ROWS):
        numbers = range(first, min(first + ROWS, count))
        batch = collator.rows([tuple(samples[k * QUESTIONS + q] for q in range(QUESTIONS)) for k in numbers], rng)
        assert batch is not None  # no row is left out without a greatest length
        output = model(batch.to(model.device))
        row, at, label = predicting(batch.labels, batch.segment)  # [Q] each
        hit = output.logits(output.hidden[row, at]).argmax(-1) == label  # [Q]
        for line, k in enumerate(numbers):
            owner, hits = batch.segment[line, at[row == line]], hit[row == line]
            answers = [bool(hits[owner == q].all()) for q in owner.unique()]
            right[len(scenes.scene(0, "val", k).things)] += answers
    return right


@torch.no_grad()
def detail(model: UfoModel, fit: int, held: int) -> dict[str, float]:
    """Variance explained (R2) by a linear map from image tokens' states to which of their 4 x 4 parts are covered.

    Counted are tokens that are covered in part, and there the differences between their parts.

    Args:
        model: of one square view.
        fit: scenes that the map is fitted on by least squares.
        held: further scenes that it is judged on.
    Returns:
        For states ``before`` and ``after`` the language model.
    """
    asked = ask("vqa", "scenes_vqa", {})
    samples = open_dataset("scenes", "", "val", "vqa", {"size": fit + held, "questions": 1})
    collator = Collator(model.processor, asked.task, asked.template, model.codec, asked.encode_options)
    states: dict[str, list[Tensor]] = {"before": [], "after": []}
    covered = []
    for first in tqdm(range(0, fit + held, ROWS), desc="detail", unit_scale=ROWS):
        numbers = range(first, min(first + ROWS, fit + held))
        batch = collator.rows([(samples[k],) for k in numbers], None)
        assert batch is not None  # no row is left out without a greatest length
        output = model(batch.to(model.device))
        states["before"] += [f.flatten(0, 1) for f in output.image_inputs]  # [h * w, D] each
        states["after"] += [f.flatten(0, 1) for f in output.image_features]
        height, width = output.image_features[0].shape[:2]
        for k in numbers:
            there = torch.from_numpy(scenes.scene(0, "val", k).owner >= 0).float()[None, None]  # [1, 1, H, W]
            parts = F.adaptive_avg_pool2d(there, (4 * height, 4 * width))
            covered.append(F.pixel_unshuffle(parts, 4)[0].flatten(1).T)  # [h * w, 16]
    split, truth = fit * height * width, torch.cat(covered)
    share = truth[split:].mean(1)
    edge = (share > 0.02) & (share < 0.98)  # [held tokens] those that are covered in part
    found = {}
    for name, several in states.items():
        known = F.pad(torch.cat(several), (0, 1), value=1.0)  # [tokens, D + 1] with a constant
        weights = torch.linalg.lstsq(known[:split], truth[:split]).solution
        lies, read = truth[split:][edge], (known[split:] @ weights)[edge]  # [edge tokens, 16]
        lies, read = (v - v.mean(1, keepdim=True) for v in (lies, read))  # how much is covered is easy: only where
        found[name] = 1 - float((lies - read).square().sum() / lies.square().sum())
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, help="a run or a model that we saved")
    parser.add_argument("--scenes", type=int, default=120)
    options = parser.parse_args()
    model = load(str(options.base)).eval()
    right = probe(model, options.scenes)
    for name, numbers in GROUPS.items():
        answers = [hit for number in numbers for hit in right[number]]
        print(f"{name:15} right {np.mean(answers) if answers else float('nan'):.2f}  n {len(answers)}")
    for name, explained in detail(model, 300, 100).items():
        print(f"detail within a patch, {name} the language model: R2 {explained:.2f}")


if __name__ == "__main__":
    main()
