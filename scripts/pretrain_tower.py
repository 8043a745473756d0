"""Pre-train the vision tower of the tiny base on captions, before any language model reads its features.

    python scripts/pretrain_tower.py --out runs/tiny_tower --seconds 600

What CLIP's training is to LLaVA, this is to the tiny base: from captions alone ("a big red circle in the upper left,
...") the tower learns which words go with which part of the picture. An image token scores a word by the dot product
with the word's embedding; a region named in a caption holds a word if any of its tokens does (multiple-instance
learning, log-sum-exp over tokens). No boxes, no masks, no coordinates. `recipes/tiny_base.yaml` then trains the whole
model.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ufo_tune.config import Recipe
from ufo_tune.core.types import Sample
from ufo_tune.datasets import scenes
from ufo_tune.engine import load
from ufo_tune.engine.muon import Muon
from ufo_tune.models.ufo import UfoModel

REGIONS = [f"{y} {x}" for y in ("upper", "middle", "lower") for x in ("left", "middle", "right")]
REGIONS[4] = "middle"
GROUPS = (scenes.COLOURS, scenes.SHAPES, scenes.TEXTURES, scenes.SIZES)
_CLAUSE = re.compile(r"an? ([\w ]+?) in the ([\w ]+)")


def targets(samples: list[Sample], word_ids: dict[str, int]) -> Tensor:
    """[B, 9, W] 1 where the caption puts a word into a region."""
    out = torch.zeros(len(samples), len(REGIONS), len(word_ids))
    for row, sample in enumerate(samples):
        for words, region in _CLAUSE.findall(sample.targets.text if sample.targets else ""):
            out[row, REGIONS.index(region), [word_ids[w] for w in words.split()]] = 1
    return out


def region_scores(features: Tensor, words: Tensor, bias: Tensor) -> Tensor:
    """[B, 9, W] log-sum-exp of token scores over each ninth of the picture.

    Args:
        features: [B, K, D] projected image tokens in raster order, K a square.
        words: [W, D] embeddings.
        bias: [W].
    """
    side = int(features.shape[1] ** 0.5)
    scores = (features @ words.T) / words.shape[1] ** 0.5 + bias  # [B, K, W]
    at = ((torch.arange(side) + 0.5) * 3 / side).long()  # the third in which a token's centre lies
    member = F.one_hot((at[:, None] * 3 + at).flatten(), 9).bool()  # [K, 9]
    hidden = scores[:, :, None].masked_fill(~member[None, :, :, None], float("-inf"))  # [B, K, 9, W]
    return hidden.logsumexp(1)


def train(model: UfoModel, seconds: float, batch: int, rate: float, seed: int) -> None:
    """Train tower, projector and the words' embeddings in place."""
    tokenizer = model.processor.tokenizer
    words = [w for group in GROUPS for w in group]
    index = {w: i for i, w in enumerate(words)}
    ids = torch.tensor([tokenizer.convert_tokens_to_ids(w) for w in words])
    embeddings = model.vlm.hf.get_input_embeddings().weight  # type: ignore[operator]
    bias = torch.nn.Parameter(torch.full((len(words),), -5.0))
    optimizer = Muon(groups(model, [embeddings, bias], rate), betas=(0.9, 0.98))
    data = scenes.load("", "pretrain", task="vqa", size=1_000_000, questions=1, kinds=["caption"], seed=seed)
    started, step, seen = time.monotonic(), 0, torch.zeros(len(GROUPS), 2)
    bar = tqdm(total=round(seconds), desc="tower", unit="s")
    while (elapsed := time.monotonic() - started) < seconds:
        share = min((step + 1) / 200, 1.0) * max(0.02, 1 - elapsed / seconds)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share
        samples = [data[step * batch + i] for i in range(batch)]
        views = model.processor.plan(samples[0].size)
        pixels = torch.cat([model.processor.pixels(s.image, views)["pixel_values"] for s in samples])  # type: ignore[arg-type]
        features = model.vlm.image_features({"pixel_values": pixels}).unflatten(0, (batch, -1))  # [B, K, D]
        scores, truth = region_scores(features, embeddings[ids], bias), targets(samples, index)
        loss = F.binary_cross_entropy_with_logits(scores, truth, reduction="sum") / batch
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 5.0)
        optimizer.step()
        optimizer.zero_grad()
        seen += accuracy(scores.detach(), truth)
        step += 1
        if step % 50 == 0:
            shown = (seen[:, 0] / seen[:, 1]).tolist()
            bar.set_postfix_str(f"loss {float(loss.detach()):.2f} " + " ".join(f"{v:.2f}" for v in shown))
            bar.n = round(elapsed)
            bar.refresh()
            seen.zero_()
    bar.close()
    rescale(model, features.detach())
    with torch.no_grad():  # the head starts where the words are, so that saying a word seen is a short way
        head = model.vlm.hf.get_output_embeddings().weight  # type: ignore[operator]
        head[ids] = embeddings[ids]


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


def groups(model: UfoModel, extra: list[Tensor], rate: float) -> list[dict[str, Any]]:
    """Tower and projector: Muon's step for hidden matrices, AdamW's for the rest and ``extra``."""
    named = [(n, p) for n, p in model.vlm.hf.named_parameters() if model.vlm.part_of(n) in ("vision", "projector")]
    hidden = [p for n, p in named if p.ndim == 2 and "position_embedding" not in n]
    rest = [p for n, p in named if p.ndim != 2 or "position_embedding" in n]
    return [
        {"params": hidden, "lr": 0.02, "peak_lr": 0.02, "weight_decay": 0.02, "muon": True},
        {"params": [*rest, *extra], "lr": rate, "peak_lr": rate, "weight_decay": 0.0},
    ]


def accuracy(scores: Tensor, truth: Tensor) -> Tensor:
    """[groups, 2]: hits and cases of naming the colour, shape, ... of regions that hold one object."""
    out, start = torch.zeros(len(GROUPS), 2), 0
    for number, group in enumerate(GROUPS):
        s, t = scores[..., start : start + len(group)], truth[..., start : start + len(group)]
        alone = t.sum(-1) == 1
        out[number, 0] = (s.argmax(-1) == t.argmax(-1))[alone].sum()
        out[number, 1] = alone.sum()
        start += len(group)
    return out


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base", default="tiny:llava", help="where to start: random weights, or an earlier tower")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=10)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    m = Recipe.load("tiny_base").model
    model = load.base(args.base, "llava", m.codec, m.options)
    train(model, args.seconds, args.batch, args.rate, args.seed)
    model.save(args.out)


if __name__ == "__main__":
    main()
