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

import argparse
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import markdown, peak_of, write_json
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


def model(folder: Path, vocabulary: int, width: int, layers: int) -> UfoModel:
    """A model whose head has exactly so many rows."""
    known = [*WORDS, "detect", "background"]
    named = len(tiny.tokenizer(known, CODEC.num_bins)) + len(CODEC.special_tokens)
    filler = [f"word{n}" for n in range(vocabulary - named)]
    path = tiny.build(
        "llava", folder, width=width, layers=layers, vision_layers=1, heads=8, image_size=SIDE, patch=14,
        words=[*known, *filler], integers=CODEC.num_bins,
    )  # fmt: skip
    return llava.build(str(path), CODEC, dtype=torch.float32)


def batch(built: UfoModel) -> Batch:
    """One row of the detection task, every grid point kept."""
    asked = ask("detection", "scenes_detection", {"keep": 100})
    sample = open_dataset("scenes", "", "train", "detection", {"side": SIDE})[0]
    collator = Collator(built.processor, asked.task, asked.template, built.codec, asked.encode_options)
    made = collator.rows([(sample,)], np.random.default_rng(0))
    assert made is not None  # no limit of length was given
    return made


@dataclass(slots=True)
class Side:
    """One way of computing the loss; calling it takes a step and gives CPU seconds."""

    model: UfoModel
    objective: nn.Module
    optimizer: torch.optim.Optimizer
    batch: Batch
    loss: float = math.nan
    gradient: float = math.nan

    def __call__(self) -> float:
        """One step."""
        start = time.process_time()
        term = self.objective(self.batch, self.model(self.batch), lambda extra: self.model(self.batch, extra))["token"]
        mean = term.total / term.count
        mean.backward()
        self.optimizer.step()
        end = time.process_time()
        gradients = [p.grad.norm() for p in self.model.parameters() if p.grad is not None]
        self.loss, self.gradient = float(mean.detach()), float(torch.stack(gradients).norm())
        self.optimizer.zero_grad()
        return end - start


def compare(built: UfoModel, train: str, repeat: int) -> dict[str, Any]:
    """One row of the table: both sides on one model."""
    lora.apply(built, TRAIN[train].model_copy(update={"lora": TRAIN[train].lora.model_copy(update={"dropout": 0.0})}))
    section = TrainSection(learning_rate=1e-30, weight_decay=0.0)  # 0 is refused; this moves no float32 weight
    shared = batch(built.train())
    sides = {}
    for name, objective in (("full", FullLogits()), ("supervised", NextToken())):
        sides[name] = Side(built, objective, optimizer(built, objective, section), shared)
        sides[name]()  # the optimizer's state is there before anything is measured
    seconds = [{name: side() for name, side in sides.items()} for _ in range(repeat)]
    bytes_ = {name: peak_of(side) for name, side in sides.items()}
    best = {name: min(s[name] for s in seconds) for name in sides}
    for what in ("loss", "gradient"):
        values = [getattr(side, what) for side in sides.values()]
        if not math.isclose(*values, rel_tol=1e-4):
            raise SystemExit(f"train_step: {what} differs between the sides (got {values}); they must compute the same")
    return {
        "vocabulary": built.vlm.hf.get_output_embeddings().weight.shape[0],  # type: ignore[operator]
        "train": train,
        "tokens": shared.ids.shape[1],
        "supervised": int((shared.labels != IGNORE).sum()),
        "loss": sides["supervised"].loss,
        "seconds": best,
        "bytes": bytes_,
        "time_ratio": best["full"] / best["supervised"],
        "memory_ratio": bytes_["full"] / bytes_["supervised"],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in words."""
    header = ("vocabulary", "trains", "tokens", "supervised", "full logits", "ours", "time", "full logits", "ours",
              "memory")  # fmt: skip
    return markdown(
        header,
        [
            (
                str(r["vocabulary"]), r["train"], str(r["tokens"]), str(r["supervised"]),
                *(f"{r['seconds'][s]:.2f} s" for s in ("full", "supervised")), f"{r['time_ratio']:.2f}x",
                *(f"{r['bytes'][s] / 2**20:.0f} MB" for s in ("full", "supervised")), f"{r['memory_ratio']:.2f}x",
            )
            for r in rows
        ],
    )  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the table as JSON")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[32_000, 152_000])
    parser.add_argument("--train", choices=list(TRAIN), nargs="+", default=["lora", "full"])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for vocabulary in options.vocabularies:
        for train in options.train:
            with tempfile.TemporaryDirectory() as folder:
                built = model(Path(folder) / "model", vocabulary, options.width, options.layers)
            rows.append(compare(built, train, options.repeat))
    print(f"width {options.width}, {options.layers} layers, float32, one thread, torch {torch.__version__}\n")
    print(table(rows))
    settings = {"width": options.width, "layers": options.layers, "threads": 1, "torch": torch.__version__}
    write_json(options.out, {**settings, "rows": rows})


if __name__ == "__main__":
    main()
