"""What the tower's kept outputs save: a training step on images seen before, against one that looks again.

    python scripts/bench/vision_cache.py [--out vision_cache.json] [--repeat 3]

Random models (width 256, 4 decoder layers, LoRA) on one scene with eight answers of detection: LLaVA, one view of 576
image tokens, and SmolVLM, four tiles and the whole picture, 1280 patches for 320 image tokens; towers of 2 and of 8
layers. Both sides train the same model from the same weights on the same batch; losses and gradients must agree, or the
run fails. The floor is the ratio of their operations as torch counts them. The sides alternate, and the fastest of
``--repeat`` counts, in CPU seconds of one thread.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from _measure import Side, markdown, model_options, side_by_side, write_json
from torch.utils.flop_counter import FlopCounterMode
from train_step import CODEC, batch, prepared

from ufo_tune import plugins
from ufo_tune.core.types import Batch, LossTerm
from ufo_tune.datasets.scenes import WORDS
from ufo_tune.engine.trainable import Trainable
from ufo_tune.models import tiny
from ufo_tune.models.ufo import UfoModel
from ufo_tune.models.vision_cache import VisionCache, key_of

SHAPES: dict[str, dict[str, Any]] = {
    "llava": {"image_size": 336, "patch": 14},
    "smolvlm": {"image_size": 256, "patch": 16},
}


def model(family: str, folder: Path, width: int, layers: int, tower: int) -> UfoModel:
    """A random model with a tower of so many layers."""
    path = tiny.build(
        family, folder, width=width, layers=layers, vision_layers=tower, heads=8,
        words=[*WORDS, "detect", "background"], integers=CODEC.num_bins, **SHAPES[family],
    )  # fmt: skip
    options = {"tiles": "2x2"} if family == "smolvlm" else {}
    built: UfoModel = plugins.find("models", family).build(str(path), CODEC, dtype=torch.float32, **options)
    return built


def named(built: UfoModel, side: int) -> Batch:
    """One row of detection, eight answers, whose image has a name."""
    shared = batch(built, "detection", 8, side)
    pixels = built.processor.pixels(*_seen(built, shared))
    shared.image_keys = ((key_of(pixels), built.processor.tower_rows(pixels)),)
    return shared


def _seen(built: UfoModel, shared: Batch) -> Any:
    image = shared.samples[0][0].image
    assert not isinstance(image, Path) and image is not None  # scenes are made in memory
    return image, shared.views[0]


def compare(family: str, built: UfoModel, tower: int, repeat: int) -> dict[str, Any]:
    """One row of the table."""
    built, made = prepared(built, "lora")
    shared = named(built, 2 * SHAPES[family]["image_size"])
    trainable, cache = Trainable(built, {"next_token": {}}), VisionCache(built.vlm, 1)

    def terms(kept: VisionCache | None) -> dict[str, LossTerm]:
        built.vision_cache = kept
        return trainable(shared)  # type: ignore[no-any-return]

    sides = [Side(lambda kept=kept: terms(kept), made()) for kept in (None, cache)]  # type: ignore[misc]
    seconds, peaks = side_by_side(sides[0], sides[1], repeat)
    operations = []
    for side in sides:
        with FlopCounterMode(display=False) as counter:
            side()
        operations.append(counter.get_total_flops())
    return {
        "family": family,
        "tower": tower,
        "tokens": shared.ids.shape[1],
        "kept_bytes": cache._size,
        "seconds": dict(zip(("looks", "knows"), seconds, strict=True)),
        "bytes": dict(zip(("looks", "knows"), peaks, strict=True)),
        "time_ratio": seconds[0] / seconds[1],
        "floor": operations[0] / operations[1],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in words."""
    return markdown(
        ("family", "tower", "tokens", "looks", "knows", "time", "floor", "kept of an image"),
        [
            (
                r["family"], f"{r['tower']} layers", str(r["tokens"]),
                *(f"{1e3 * r['seconds'][s]:.0f} ms" for s in ("looks", "knows")), f"{r['time_ratio']:.2f}x",
                f"{r['floor']:.2f}x", f"{r['kept_bytes'] / 1e6:.1f} MB",
            )
            for r in rows
        ],
    )  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = model_options(__doc__)
    parser.add_argument("--families", choices=list(SHAPES), nargs="+", default=list(SHAPES))
    parser.add_argument("--towers", type=int, nargs="+", default=[2, 8])
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for family in options.families:
        for tower in options.towers:
            with tempfile.TemporaryDirectory() as folder:
                built = model(family, Path(folder) / "model", options.width, options.layers, tower)
            rows.append(compare(family, built, tower, options.repeat))
    print(f"width {options.width}, {options.layers} layers, float32, one thread, torch {torch.__version__}\n")
    print(table(rows))
    settings = {"width": options.width, "layers": options.layers, "threads": 1, "torch": torch.__version__}
    write_json(options.out, {**settings, "rows": rows})


if __name__ == "__main__":
    main()
