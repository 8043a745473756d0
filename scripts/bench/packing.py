"""What packing saves, and where it does not: a training step with packed rows against one with padded rows.

    python scripts/bench/packing.py [--out packing.json] [--repeat 3] [--budget 1024]

A random LLaVA (width 256, 4 layers, LoRA, 64 image tokens a tile) on batches of 16 rows: pictures from tall to wide,
one to six tiles each, with a box; and conversations without a picture, of log-normal length. Both sides train the same
model on the same rows; losses and gradients must agree, or the run fails. Padding is the share of tokens in the decoder
that are none. The floor is the ratio of all tokens to real ones in the padded batch: what the layers would save if
nothing were padded and attention cost nothing. Rows of one length have none, and stay apart.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import Side, markdown, model_options, side_by_side, write_json
from train_step import CODEC, prepared

from ufo_tune.core import answers
from ufo_tune.core.packing import packs
from ufo_tune.core.types import NO_SIZE, PAD, Answer, Batch, Dialogue, LossTerm, Sample, Turn
from ufo_tune.engine.trainable import Trainable
from ufo_tune.models import llava, tiny
from ufo_tune.models.processor import EncodedRow
from ufo_tune.models.ufo import UfoModel

ROWS = 16
KINDS = ("pictures", "words")
WORDS = ("the", "circle", "is", "red", "and", "large")


def row(built: UfoModel, kind: str, rng: np.random.Generator) -> EncodedRow:
    """One row of a kind."""
    picture = None
    if kind == "words":
        said = " ".join(rng.choice(WORDS, size=min(600, int(rng.lognormal(4, 1)) + 2)))
    else:
        ratio = float(np.exp(rng.uniform(-1.8, 1.8)))
        size = (round(112 / ratio**0.5), round(112 * ratio**0.5))
        picture = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        said = answers.box((3, 4, 20, 30), CODEC)
    size = NO_SIZE if picture is None else (picture.shape[0], picture.shape[1])
    sample = Sample(picture, size, "vqa", source="bench")
    dialogue = Dialogue((Turn("what is red", (Answer(said),)),))
    return built.processor.encode(dialogue, picture, (sample,), (1,), train=True)


def rows_of(built: UfoModel, kind: str, budget: int) -> tuple[Batch, Batch]:
    """The same rows padded and packed, those that share a row beside each other."""
    rng = np.random.default_rng(0)
    rows = [row(built, kind, rng) for _ in range(ROWS)]
    lengths = [len(r.row.ids) for r in rows]
    shared = packs(lengths, budget)
    padded, packed = (built.processor.stack([rows[i] for pack in shared for i in pack]) for _ in range(2))
    packed.packs = tuple(tuple(lengths[i] for i in pack) for pack in shared)
    return padded, packed


def compare(
    built: UfoModel, made: Callable[[], torch.optim.Optimizer], kind: str, budget: int, repeat: int
) -> dict[str, Any]:
    """One row of the table; ``made`` makes an optimizer that moves nothing."""
    padded, packed = rows_of(built, kind, budget)
    trainable = Trainable(built, {"next_token": {}})

    def terms(batch: Batch) -> dict[str, LossTerm]:
        return trainable(batch)  # type: ignore[no-any-return]

    seconds, peaks = side_by_side(Side(lambda: terms(padded), made()), Side(lambda: terms(packed), made()), repeat)
    real = int((padded.segment != PAD).sum())
    slots = {"padded": padded.ids.numel(), "packed": len(packed.packs) * max(map(sum, packed.packs))}
    return {
        "rows": kind,
        "tokens": real,
        "shapes": {"padded": list(padded.ids.shape), "packed": [len(packed.packs), max(map(sum, packed.packs))]},
        "padding": {side: 1 - real / count for side, count in slots.items()},
        "seconds": dict(zip(("padded", "packed"), seconds, strict=True)),
        "bytes": dict(zip(("padded", "packed"), peaks, strict=True)),
        "time_ratio": seconds[0] / seconds[1],
        "memory_ratio": peaks[0] / peaks[1],
        "floor": slots["padded"] / real,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in words."""
    sides = ("padded", "packed")
    return markdown(
        ("rows", "tokens", "padded", "packed", "padding", "packed", "time", "floor", "memory"),
        [
            (
                r["rows"], str(r["tokens"]), *("{} x {}".format(*r["shapes"][s]) for s in sides),
                *(f"{r['padding'][s]:.0%}" for s in sides), f"{r['time_ratio']:.2f}x", f"{r['floor']:.2f}x",
                f"{r['memory_ratio']:.2f}x",
            )
            for r in rows
        ],
    )  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = model_options(__doc__)
    parser.add_argument("--budget", type=int, default=1024, help="tokens of a packed row")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = tiny.build(
            "llava", Path(folder) / "model", width=options.width, layers=options.layers, vision_layers=1, heads=8,
            image_size=112, patch=14, words=[*WORDS, "what"], integers=CODEC.num_bins,
        )  # fmt: skip
        built = llava.build(str(path), CODEC, tiles=6, dtype=torch.float32)
    built, made = prepared(built, "lora")
    rows = [compare(built, made, kind, options.budget, options.repeat) for kind in KINDS]
    print(f"width {options.width}, {options.layers} layers, float32, one thread, torch {torch.__version__}\n")
    print(table(rows))
    settings = {"width": options.width, "layers": options.layers, "budget": options.budget, "torch": torch.__version__}
    write_json(options.out, {**settings, "rows": rows})


if __name__ == "__main__":
    main()
