"""What parallel answers buy: each way of decoding against its plain counterpart, side by side in one run.

    python scripts/bench/decode.py [--out decode.json] [--repeat 3] [--lanes 100]

A random LLaVA of about 30 M decoder weights on 576 image tokens, one thread (``torch.set_num_threads(1)``). Answers are
scripted by grammars of a single text, so both sides of a ratio write the same objects; no side computes the head for
them. The two sides alternate and the fastest of ``--repeat`` runs counts. Times are of decoding, without the prefill
that both sides share (printed apart). Memory is what the profiler sees allocated during decoding.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import peak_of, write_json

from ufo_tune.config import DecodeSection
from ufo_tune.core import answers
from ufo_tune.core.answers import Grammar, Literal
from ufo_tune.core.codec import Codec
from ufo_tune.core.grid import grid_points
from ufo_tune.core.types import Answer, Batch, Dialogue, Sample, Turn
from ufo_tune.models import tiny
from ufo_tune.models.generate import compiler, prefill, write
from ufo_tune.models.llava import build
from ufo_tune.models.ufo import UfoModel

CODEC = Codec()
STEPWISE = {"forced_runs": False, "compaction": False}


def model(folder: Path) -> UfoModel:
    """A decoder that does not fit into a cache, behind a small tower of 24 x 24 tokens."""
    path = tiny.build(
        "llava", folder, width=512, layers=12, vision_layers=1, heads=8, kv_heads=4, image_size=336, patch=14,
        integers=CODEC.num_bins,
    )  # fmt: skip
    return build(str(path), CODEC, dtype=torch.float32).eval()


def batch(built: UfoModel, lanes: int, rows: int = 1, local: bool = True) -> Batch:
    """Rows of so many answers, each its own sample so that each can have its own script."""
    picture = np.random.default_rng(0).integers(0, 256, (336, 336, 3), dtype=np.uint8)
    side = max(1, round(lanes**0.5))
    points = grid_points(-(-lanes // side), side)[:lanes].tolist()
    replies = tuple(Answer(None, point=(p[0], p[1]) if local else None) for p in points)
    dialogue = Dialogue((Turn("detect red circle, square", replies),))
    samples = (Sample(picture, (336, 336), "detection"),) * lanes
    return built.processor.batch([dialogue] * rows, [picture] * rows, [samples] * rows, False, [(1,) * lanes] * rows)


def boxes(count: int) -> list[str]:
    """Answers of one box each."""
    numbers = np.random.default_rng(1).integers(0, CODEC.num_bins + 1, (count, 4))
    return [f"{('circle', 'square')[n % 2]},{answers.box(row.tolist(), CODEC)}" for n, row in enumerate(numbers)]


def script(*texts: str) -> list[Grammar]:
    """Grammars of one text each."""
    return [(Literal(text),) for text in texts]


class Case:
    """A batch whose lanes follow scripts; calling it decodes once and gives seconds."""

    def __init__(self, built: UfoModel, prepared: Batch, grammars: Sequence[Grammar], **switches: Any) -> None:
        self.built, self.batch = built, prepared
        self.automaton = compiler(built.processor).automaton(grammars)
        longest = max(len(built.processor.tokenizer(g[0].text)["input_ids"]) for g in grammars)  # type: ignore[union-attr]
        self.decode = DecodeSection(max_new_tokens=longest + 8, constrained=True, **switches)
        self.prefill_seconds = 0.0
        self.tokens = 0

    def __call__(self) -> float:
        """Decode once; seconds without the prefill."""
        with torch.inference_mode():
            start = time.perf_counter()
            begun = prefill(self.built, self.batch)
            middle = time.perf_counter()
            written = write(self.built.vlm, begun, self.automaton, self.automaton.starts, self.decode)
            end = time.perf_counter()
        self.prefill_seconds = middle - start
        self.tokens = int((written.ids >= 0).sum())
        return end - middle

    def memory(self) -> tuple[int, int, int]:
        """Bytes: peak of decoding over the prefix cache; the answers' own keys and values; the prefix cache.

        The lanes' heads are older than the profile, but the first step moves them into memory that it sees.
        """
        with torch.inference_mode():
            begun = prefill(self.built, self.batch)
            prefix, heads = (4 * n for n in begun.cache.numel())
            token = heads // int(begun.cache.lengths.sum())  # every lane starts with its <LOCAL>
            fed: list[int] = []
            release = begun.cache.release

            def observed() -> None:
                fed.append(int(begun.cache.lengths.sum()))
                release()

            begun.cache.release = observed  # type: ignore[method-assign]
            peak = peak_of(lambda: write(self.built.vlm, begun, self.automaton, self.automaton.starts, self.decode))
        return peak, fed[0] * token, prefix


def ratio(name: str, slow: Case, fast: Case, repeat: int, goal: float) -> dict[str, Any]:
    """Alternate both, keep the fastest of each."""
    pairs = [(slow(), fast()) for _ in range(repeat)]
    seconds = [min(p[side] for p in pairs) for side in (0, 1)]
    row = {
        "what": name, "plain_s": seconds[0], "ours_s": seconds[1], "ratio": seconds[0] / seconds[1], "goal": goal,
        "prefill_s": fast.prefill_seconds, "plain_tokens": slow.tokens, "ours_tokens": fast.tokens,
    }  # fmt: skip
    aim = f"goal {goal:g}x" if goal else "no goal"
    print(
        f"{name:<58} {seconds[0]:8.3f} s {seconds[1]:8.3f} s  {row['ratio']:6.2f}x  ({aim})"
        f"  prefill {fast.prefill_seconds:.2f} s",
        flush=True,
    )
    return row


def measure(built: UfoModel, lanes: int, repeat: int) -> list[dict[str, Any]]:
    """All rows of the table."""
    texts = boxes(lanes)
    positive = max(1, lanes // 10)
    sparse = [texts[n] if n < positive else "background" for n in range(lanes)]
    many, one = batch(built, lanes), batch(built, 1, local=False)
    mask = answers.slots(CODEC)
    sparse_masks = [f"circle,{mask}" if n < positive else "background" for n in range(lanes)]
    eight = batch(built, 1, rows=8, local=False)

    def masks(prepared: Batch, count: int, forced: bool, text: str = mask) -> Case:
        return Case(built, prepared, script(*[text] * count), forced_runs=forced)

    def compacted(replies: Sequence[str], on: bool) -> Case:
        return Case(built, many, script(*replies), forced_runs=False, compaction=on)

    listed = Case(built, one, script(" ".join(texts)), **STEPWISE)
    labelled = f"circle,{mask}"
    rows = [
        ratio(f"{lanes} parallel boxes / one list of them", listed, Case(built, many, script(*texts), **STEPWISE),
              max(1, repeat // 3), 8),
        ratio("forced runs / step by step, 1 image, 1 mask", masks(one, 1, False), masks(one, 1, True), repeat, 4),
        ratio("forced runs / step by step, 8 images, 1 mask each", masks(eight, 8, False), masks(eight, 8, True),
              repeat, 4),
        ratio(f"forced runs / step by step, {lanes} class,mask answers", masks(many, lanes, False, labelled),
              masks(many, lanes, True, labelled), repeat, 0),
        ratio("compaction / none, 90 % background, boxes", compacted(sparse, False), compacted(sparse, True),
              repeat, 3),
        ratio("compaction / none, 90 % background, masks", compacted(sparse_masks, False),
              compacted(sparse_masks, True), repeat, 3),
    ]  # fmt: skip
    for name, replies in (("boxes", texts), ("masks", [labelled] * lanes)):
        for forced in (False, True):
            peak, own, prefix = Case(built, many, script(*replies), forced_runs=forced, compaction=False).memory()
            title = f"peak memory of {lanes} {name}{', forced runs' if forced else ''} / their keys and values"
            print(f"{title:<58} {peak / 2**20:7.1f} MB {own / 2**20:7.1f} MB  {peak / own:6.2f}x  (at most 1.3x)"
                  f"  prefix {prefix / 2**20:.1f} MB", flush=True)  # fmt: skip
            rows.append({"what": title, "peak": peak, "own": own, "prefix": prefix, "ratio": peak / own, "most": 1.3})
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the table as JSON")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--lanes", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        built = model(Path(folder) / "model")
    weights = sum(p.numel() for p in built.vlm.text_model.parameters())
    print(f"decoder of {weights / 1e6:.1f} M weights, one thread, torch {torch.__version__}\n")
    result = {"decoder_weights": weights, "threads": 1, "rows": measure(built, options.lanes, options.repeat)}
    write_json(options.out, result)


if __name__ == "__main__":
    main()
