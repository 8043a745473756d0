"""Pre-train the vision tower of the tiny base on questions about places, before any language model reads its features.

    python scripts/pretrain_tower.py --out runs/tiny_tower --seconds 1500

What CLIP's training is to LLaVA, this is to the tiny base. The questions "what is at column .. row ..", "which column
and row is the middle of it in" and "how wide and tall is it" are asked about every field of the 20 x 20 board at once,
and answered in words: what an image token shows there is scored against the embeddings of the words. No boxes, no
masks, no pixel numbers. `recipes/tiny_base.yaml` then trains the language model on what the tower sees.

    python scripts/pretrain_tower.py --base runs/tiny_base --keep 2 --rate 3e-4 --out runs/again

goes on with the tower of a base whose language model has learnt: only what a patch shows where is asked, and features
may not move far from what the language model knows.
"""

from __future__ import annotations

import argparse
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ufo_tune.config import Recipe
from ufo_tune.datasets import scenes
from ufo_tune.datasets._scene_language import BOARD, NUMBERS
from ufo_tune.datasets._scene_render import Scene
from ufo_tune.engine import load
from ufo_tune.engine.muon import Muon
from ufo_tune.models.tiny import waves
from ufo_tune.models.ufo import UfoModel

WORDS = {
    "there": ("nothing", "object"),
    "colour": scenes.COLOURS,
    "shape": scenes.SHAPES,
    "texture": scenes.TEXTURES,
    "size": scenes.SIZES,
    **dict.fromkeys(("column", "row", "middle column", "middle row", "width", "height"), NUMBERS[1:]),
}
"""What is asked about a field -> the words of the answer. All but ``there``, ``column`` and ``row`` need an object."""
EVERYWHERE = ("there", "column", "row")
TELLING = ("colour", "shape", "texture", "size")
SIDE = 128  # pixels of a scene


class Reader(nn.Module):
    """Scores the words of each answer at each field: a feature, turned by the question, against the words' embeddings.

    The attributes' words are compared with the feature itself, so that it looks like what it shows. Whether
    there is a thing is asked with a turn of its own for each of the fields that share an image token; the rest is about
    the thing and interpolated.

    Args:
        embeddings: [V, D] of the language model.
        ids: question -> token ids of its words.
        share: fields along one side of an image token.
    """

    def __init__(self, embeddings: Tensor, ids: dict[str, list[int]], share: int) -> None:
        super().__init__()
        self.embeddings, self.ids, self.share = embeddings, ids, share
        width = embeddings.shape[1]
        wide = {q: share**2 * width if q == "there" else width for q in ids if q not in TELLING}
        self.turn = nn.ModuleDict({q: nn.Linear(width, wide[q], bias=False) for q in wide})
        self.bias = nn.ParameterDict({q: nn.Parameter(torch.zeros(len(words))) for q, words in ids.items()})

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Question -> scores [B, BOARD**2, words], from image tokens [B, K, D] in raster order, K a square."""
        side, width = int(features.shape[1] ** 0.5), features.shape[2]
        scores = {}
        for question, ids in self.ids.items():
            turned = self.turn[question](features) if question in self.turn else features
            words = self.embeddings[ids].T / width**0.5  # [D, words]
            if question == "there":
                own = turned.unflatten(2, (self.share, self.share, width)) @ words  # [B, K, s, s, words]
                grid = own.unflatten(1, (side, side)).transpose(2, 3)  # [B, side, s, side, s, words]
                scores[question] = grid.flatten(1, 4) + self.bias[question]  # [B, BOARD**2, words]
                continue
            grid = (turned @ words + self.bias[question]).mT.unflatten(2, (side, side))  # [B, words, side, side]
            # Scores are linear in the feature: interpolating them is scoring the interpolated feature, and cheaper.
            fields = F.interpolate(grid, size=(BOARD, BOARD), mode="bilinear", align_corners=False)
            scores[question] = fields.flatten(2).mT  # [B, BOARD**2, words]
        return scores


def answers(drawn: list[Scene]) -> dict[str, Tensor]:
    """Question -> number of the right word [B, BOARD**2] at each field, -100 where the question does not fit."""
    out = {q: np.full((len(drawn), BOARD * BOARD), -100) for q in WORDS}
    centres = ((np.arange(BOARD) + 0.5) * SIDE / BOARD).astype(int)
    number = np.arange(BOARD)
    for row, scene in enumerate(drawn):
        owner = scene.owner[centres][:, centres].ravel()  # [BOARD**2]
        tables = (scenes.COLOURS, scenes.SHAPES, scenes.TEXTURES, scenes.SIZES)
        words = [(t.colour, t.shape, t.texture, t.size) for t in scene.things]
        told = np.array([[table.index(w) for table, w in zip(tables, one, strict=True)] for one in words])  # [N, 4]
        boxes = scene.boxes * (BOARD / SIDE)
        middle = ((boxes[:, :2] + boxes[:, 2:]) / 2).astype(int)  # [N, 2]
        extent = np.maximum((boxes[:, 2:] - boxes[:, :2] + 0.5).astype(int), 1) - 1  # [N, 2], the words start at "one"
        facts = np.concatenate([told, middle, extent], axis=1)  # [N, 8]
        there = owner >= 0
        out["there"][row] = there
        out["column"][row], out["row"][row] = np.tile(number, BOARD), np.repeat(number, BOARD)
        for question, values in zip([q for q in WORDS if q not in EVERYWHERE], facts.T, strict=True):
            out[question][row, there] = values[owner[there]]
    return {q: torch.from_numpy(v) for q, v in out.items()}


class Pictures:
    """Batches of scenes as the model sees them. Scene ``k`` of the run is scene ``k`` of the split, of this seed."""

    def __init__(self, model: UfoModel, split: str, seed: int) -> None:
        self.model, self.split, self.seed = model, split, seed

    def __call__(self, first: int, count: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Pixels [B, 3, H, W] of ``count`` scenes and the answers about them."""
        drawn = [scenes.scene(self.seed, self.split, first + k, SIDE) for k in range(count)]
        own = self.model.processor
        views = own.plan((SIDE, SIDE))
        return own.join_pixels([own.pixels(s.image, views) for s in drawn])["pixel_values"], answers(drawn)


def seen(model: UfoModel, pixels: Tensor) -> Tensor:
    """Projected image tokens [B, K, D]."""
    return model.vlm.image_features({"pixel_values": pixels})[0].unflatten(
        0, (len(pixels), -1)
    )  # [B * K, D] -> [B, K, D]


def train(
    model: UfoModel, reader: Reader, pictures: Pictures, seconds: float, batch: int, rate: float, keep: float
) -> Tensor:
    """Train tower, projector and reader in place; returns the last features [B, K, D]."""
    optimizer = Muon(groups(model, reader, rate), betas=(0.9, 0.98))
    before = deepcopy(model) if keep else None
    started, step = time.monotonic(), 0
    bar = tqdm(total=round(seconds), desc="tower", unit="s")
    while (elapsed := time.monotonic() - started) < seconds:
        share = min((step + 1) / 100, 1.0) * max(0.02, 1 - elapsed / seconds)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share
        pixels, truth = pictures(step * batch, batch)
        features = seen(model, pixels)
        scores = reader(features)
        losses = [F.cross_entropy(scores[q].flatten(0, 1), truth[q].flatten(), ignore_index=-100) for q in scores]
        if before is not None:
            with torch.no_grad():
                known = seen(before, pixels)
            losses.append(keep * F.mse_loss(features, known))
        torch.stack(losses).sum().backward()
        torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 5.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step % 50 == 0:
            bar.set_postfix_str(f"step {step} " + " ".join(f"{float(x.detach()):.2f}" for x in losses))
            bar.n = round(elapsed)
            bar.refresh()
    bar.close()
    return features.detach()


def rescale(model: UfoModel, features: Tensor) -> None:
    """Bring projected features to unit mean square, the size of states inside the language model.

    Training to score words grows them some thirty times; layers then add next to nothing to an image token, and the
    language model cannot work on what it sees (measured: docs/tiny_base.md).
    """
    last: Any = model.vlm.hf.model.multi_modal_projector.linear_2  # type: ignore[union-attr]
    with torch.no_grad():
        size = features.square().mean().sqrt()
        last.weight.div_(size)
        last.bias.div_(size)


@torch.no_grad()
def lay_out_words(model: UfoModel, telling: list[int], places: list[int]) -> None:
    """Where the rows of the language model start.

    The head starts where the words that the tower learnt are, so that saying a word seen is a short way. A place on the
    board starts as the waves of its share of the side, as integers start as those of theirs (``models.tiny``): what is
    learnt about columns and rows is then near to what integers will mean.
    """
    embeddings = model.vlm.hf.get_input_embeddings().weight  # type: ignore[operator]
    head = model.vlm.hf.get_output_embeddings().weight  # type: ignore[operator]
    head[telling] = embeddings[telling]
    shares = (torch.arange(BOARD) + 0.5) / BOARD
    size = float(head.std())
    for table in (embeddings, head):
        table[places] = size * waves(shares, table.shape[1])


def groups(model: UfoModel, reader: Reader, rate: float) -> list[dict[str, Any]]:
    """Muon's step for the hidden matrices of tower, projector and reader, AdamW's for the rest."""
    named = [(n, p) for n, p in model.vlm.hf.named_parameters() if model.vlm.part_of(n) in ("vision", "projector")]
    hidden = [p for n, p in named if p.ndim == 2 and "position_embedding" not in n]
    rest = [p for n, p in named if p.ndim != 2 or "position_embedding" in n]
    hidden += list(reader.turn.parameters())
    rest += [p for p in reader.parameters() if p.ndim == 1 or p is reader.embeddings]
    return [
        {"params": hidden, "lr": 20 * rate, "peak_lr": 20 * rate, "weight_decay": 0.02, "muon": True},
        {"params": rest, "lr": rate, "peak_lr": rate, "weight_decay": 0.0},
    ]


@torch.no_grad()
def accuracy(reader: Reader, pictures: Pictures, count: int = 200, batch: int = 20) -> dict[str, float]:
    """Question -> share of right answers over all fields where it fits."""
    hits = {q: torch.zeros(2) for q in reader.ids}
    for first in range(0, count, batch):
        pixels, truth = pictures(first, batch)
        scores = reader(seen(pictures.model, pixels))
        for question in scores:
            right = truth[question]
            fits = right >= 0
            hits[question] += torch.tensor([(scores[question].argmax(-1) == right)[fits].sum(), fits.sum()])
    return {q: round(float(hit / total), 3) for q, (hit, total) in hits.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base", default="tiny:llava", help="where to start: random weights, or an earlier tower")
    parser.add_argument("--seconds", type=float, default=1500)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--rate", type=float, default=1e-3, help="AdamW's; Muon's is twenty times as large")
    parser.add_argument("--keep", type=float, default=0.0, help="weight of staying near the features of --base")
    parser.add_argument("--seed", type=int, default=10, help="of the weights and of the scenes")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    section = Recipe.load("tiny_base").model
    model = load.base(args.base, "llava", section.codec, section.options)
    table = model.vlm.hf.get_input_embeddings().weight  # type: ignore[operator]
    asked = {"there": WORDS["there"]} if args.keep else WORDS
    ids = {q: model.processor.tokenizer.convert_tokens_to_ids(list(words)) for q, words in asked.items()}
    share = BOARD * section.options["patch"] // section.options["image_size"]
    reader = Reader(table.detach().clone() if args.keep else table, ids, share)
    pictures = Pictures(model, "pretrain", args.seed)
    features = train(model, reader, pictures, args.seconds, args.batch, args.rate, args.keep)
    for question, right in accuracy(reader, Pictures(model, "val", 0)).items():
        print(f"{question:14} {right:.3f}")
    if not args.keep:  # a language model that has learnt already has its sizes and its words
        rescale(model, features)
        lay_out_words(model, [i for q in TELLING for i in ids[q]], ids["column"])
    model.save(args.out)


if __name__ == "__main__":
    main()
