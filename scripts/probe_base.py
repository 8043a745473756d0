"""Does a base know which object is meant? Right answers about described objects, by how many objects there are.

    python scripts/probe_base.py runs/tiny_base [--scenes 120]

"What colour (shape, texture, size) is ...", teacher-forced on held-out scenes. A base that is right about one object
alone and wrong among several sees and names, but does not find: what phrases hang on once it learns to point.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
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


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, help="a run or a model that we saved")
    parser.add_argument("--scenes", type=int, default=120)
    options = parser.parse_args()
    right = probe(load(str(options.base)).eval(), options.scenes)
    for name, numbers in GROUPS.items():
        answers = [hit for number in numbers for hit in right[number]]
        print(f"{name:15} right {np.mean(answers) if answers else float('nan'):.2f}  n {len(answers)}")


if __name__ == "__main__":
    main()
