"""An objective of the tiny base alone: what is there, at each field of the board, asked of the language model's output.

    PYTHONPATH=. torchrun --nproc-per-node 2 scripts/fields.py --base runs/tiny_base --out runs/fields

The tower learns in words what each field shows (``pretrain_tower.py``), but a language model that only ever answers in
text forgets at its image tokens what it need not say: measured, the share of detail within a patch that can be read off
its output linearly was 0.70 at the input and 0.10 at the output. Words only, as everywhere in the base: thing or
nothing, colour, shape, texture, size. No boxes, no masks, no pixel numbers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scripts.pretrain_tower import TELLING, WORDS, answers
from ufo_tune.config import Recipe
from ufo_tune.core.types import Batch, EmbedTransform, LossTerm, ModelOutput
from ufo_tune.datasets import scenes
from ufo_tune.datasets._scene_language import BOARD
from ufo_tune.engine.train import train
from ufo_tune.objectives._base import Rerun

TERMS = ("fields",)
ASKED = ("there", *TELLING)


class Objective(nn.Module):
    """Cross-entropy of the words at every field, over the fields where the question fits.

    Args:
        weight: of the loss.
        width: D of the language model.
        share: fields along one side of an image token.
    """

    def __init__(self, *, weight: float = 0.3, width: int = 192, share: int = 2) -> None:
        super().__init__()
        self.weight, self.share = weight, share
        self.heads = nn.ModuleDict({q: nn.Linear(width, share**2 * len(WORDS[q])) for q in ASKED})

    def before(self, batch: Batch) -> list[EmbedTransform]:
        """Nothing."""
        return []

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Questions that fit, at all fields."""
        fits = sum(int((value >= 0).sum()) for value in self._truth(batch).values())
        return {"fields": torch.tensor(float(fits), device=batch.ids.device)}

    def forward(self, batch: Batch, output: ModelOutput, rerun: Rerun) -> dict[str, LossTerm]:
        """Sum over all fields and questions."""
        features = torch.stack([f.flatten(0, 1) for f in output.image_features])  # [B, K, D]
        total = features.new_zeros(())
        for question, right in self._truth(batch).items():
            scores = self.heads[question](features).unflatten(2, (self.share**2, -1))  # [B, K, s * s, words]
            total = total + F.cross_entropy(
                scores.flatten(0, 2), right.to(features.device).flatten(), ignore_index=-100, reduction="sum"
            )
        return {"fields": LossTerm(self.weight * total, self.counts(batch)["fields"])}

    def _truth(self, batch: Batch) -> dict[str, Tensor]:
        """Question -> number of the right word [B, K, s * s], -100 where it does not fit."""
        drawn = []
        for samples in batch.samples:
            where, _, number = samples[0].image_id.partition("#")
            _, seed, side, most, split = where.split("/")
            drawn.append(scenes.scene(int(seed), split, int(number), int(side), int(most)))
        side = BOARD // self.share
        found = {}
        for question, right in answers(drawn).items():
            if question in ASKED:
                fields = right.unflatten(1, (side, self.share, side, self.share)).transpose(2, 3)  # [B, h, w, s, s]
                found[question] = fields.flatten(3).flatten(1, 2)  # [B, K, s * s]
        return found


def main() -> None:
    """``recipes/tiny_base.yaml`` with this objective beside the answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="run of tiny_base to go on from")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=1500)
    parser.add_argument("--seed", type=int, default=51)
    parser.add_argument("--weight", type=float, default=1.0, help="of the objective")
    args = parser.parse_args()
    recipe = Recipe.load(
        "tiny_base",
        {"model.base": args.base, "train.max_seconds": str(args.seconds), "train.seed": str(args.seed)},
    )
    objectives = {**recipe.objectives, "scripts.fields": {"weight": args.weight}}
    train(recipe.model_copy(update={"objectives": objectives}), args.out)


if __name__ == "__main__":
    main()
