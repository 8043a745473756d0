"""What logits at supervised positions only save: a training step against one with full logits, side by side.

    python scripts/bench/train_step.py [--out train_step.json] [--repeat 3] [--vocabularies 32000 152000]

A random LLaVA (width 256, 4 layers) on one row of 576 image tokens and 100 parallel detection answers, a quarter of the
tokens supervised. Both sides train the same model, from the same weights on the same batch. A step is forward,
backward and AdamW with a learning rate too small to move anything, so losses and gradients must agree, or the run
fails. The sides alternate, and the fastest of ``--repeat`` counts, in CPU seconds of one thread. Memory is the most
that the profiler sees allocated during a step (activations, logits, gradients), without weights and optimizer state,
which are the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import Side, report_steps, side_by_side, step_options
from torch import Tensor, nn

from ufo_tune.config import ModelSection, TrainSection
from ufo_tune.core.codec import Codec
from ufo_tune.core.losses import token_cross_entropy
from ufo_tune.core.sequence import predicting
from ufo_tune.core.types import IGNORE, Batch, EmbedTransform, LossTerm, ModelOutput
from ufo_tune.data.collate import Collator
from ufo_tune.data.open import open_dataset
from ufo_tune.datasets.scenes import WORDS
from ufo_tune.engine.optim import optimizer
from ufo_tune.engine.sources import ask
from ufo_tune.models import llava, lora, tiny
from ufo_tune.models.ufo import UfoModel
from ufo_tune.objectives._base import Rerun
from ufo_tune.objectives.next_token import Objective as NextToken

CODEC = Codec()
SIDE = 336
"""Pixels; 24 x 24 patches of 14."""
TRAIN = {
    "lora": ModelSection(base="bench"),
    "full": ModelSection(
        base="bench", language="full", vision="full", projector="full", train_tokens="full"
    ),
}  # fmt: skip


class FullLogits(nn.Module):
    """The plain way: logits at every position, unsupervised ones ignored by the loss."""

    def before(self, batch: Batch) -> list[EmbedTransform]:
        """None."""
        return []

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """The number of supervised tokens."""
        return {"token": (batch.labels != IGNORE).sum().float()}

    def forward(self, batch: Batch, output: ModelOutput, rerun: Rerun) -> dict[str, LossTerm]:
        """``{"token": sum of cross-entropies}``."""
        row, at, labels = predicting(batch.labels, batch.segment)  # [Q] each
        wanted = torch.full_like(batch.labels, IGNORE)  # [B, T], at the predicting position
        wanted[row, at] = labels
        return {"token": token_cross_entropy(output.logits(output.hidden), wanted)}


def model(folder: Path, vocabulary: int, width: int, layers: int, side: int = SIDE, patch: int = 14) -> UfoModel:
    """A model whose head has exactly so many rows, on squares of ``side`` pixels."""
    known = [*WORDS, "detect", "background"]
    named = len(tiny.tokenizer(known, CODEC.num_bins)) + len(CODEC.special_tokens)
    filler = [f"word{n}" for n in range(vocabulary - named)]
    path = tiny.build(
        "llava", folder, width=width, layers=layers, vision_layers=1, heads=8, image_size=side, patch=patch,
        words=[*known, *filler], integers=CODEC.num_bins,
    )  # fmt: skip
    return llava.build(str(path), CODEC, dtype=torch.float32)


def batch(built: UfoModel, task: str = "detection", keep: int = 100, side: int = SIDE, scene: int = 0) -> Batch:
    """One row of a task on a scene, so many grid points kept."""
    asked = ask(task, f"scenes_{task}", {"keep": keep})
    sample = open_dataset("scenes", "", "train", task, {"side": side})[scene]
    collator = Collator(built.processor, asked.task, asked.template, built.codec, asked.encode_options)
    made = collator.rows([(sample,)], np.random.default_rng(0))
    assert made is not None  # no limit of length was given
    return made


def prepared(built: UfoModel, train: str) -> tuple[UfoModel, Callable[[], torch.optim.Optimizer]]:
    """The model in training, with what the recipe trains, and optimizers that move no float32 weight."""
    lora.apply(built, TRAIN[train].model_copy(update={"lora": TRAIN[train].lora.model_copy(update={"dropout": 0.0})}))
    section = TrainSection(learning_rate=1e-30, weight_decay=0.0)  # 0 is refused
    return built.train(), lambda: optimizer(built, nn.ModuleDict(), section)


def compare(built: UfoModel, train: str, repeat: int) -> dict[str, Any]:
    """One row of the table: both sides on one model."""
    built, made = prepared(built, train)
    shared = batch(built)

    def side(objective: nn.Module) -> Side:
        return Side(lambda: objective(shared, built(shared), lambda extra: built(shared, extra)), made())

    sides = {"full": side(FullLogits()), "supervised": side(NextToken())}
    measured = side_by_side(sides, repeat)
    return {
        "vocabulary": built.vlm.hf.get_output_embeddings().weight.shape[0],  # type: ignore[operator]
        "train": train,
        "tokens": shared.ids.shape[1],
        "supervised": int((shared.labels != IGNORE).sum()),
        "loss": sides["supervised"].loss,
        **measured,
    }


def main() -> None:
    """Measure and print."""
    options = step_options(__doc__, vocabularies=[32_000, 152_000], trains=["lora", "full"]).parse_args()
    torch.set_num_threads(1)
    rows = []
    for vocabulary in options.vocabularies:
        for train in options.train:
            with tempfile.TemporaryDirectory() as folder:
                built = model(Path(folder) / "model", vocabulary, options.width, options.layers)
            rows.append(compare(built, train, options.repeat))
    sizes = {"vocabulary": "vocabulary", "trains": "train", "tokens": "tokens", "supervised": "supervised"}
    report_steps(options, rows, sizes, sides={"full logits": "full", "ours": "supervised"})


if __name__ == "__main__":
    main()
