"""Depth on five real RGB-D frames: learnt by heart, each frame left out in turn, and asked about other rooms.

    python scripts/rgbd.py REAL_DATA/open3d_rgbd --out runs/rgbd [--steps 200] [--folds 0 1 2 3 4] [--picture rgbd.jpg]

The frames are neighbours in a video of one room, so the one left out is hardly new: the table says how good a copy of
the nearest training frame's depth would be. What the model knows of other rooms, two pictures of other cameras tell.
Finished runs lie in ``--out`` and are not done again. The table is printed as Markdown and written to ``rgbd.json``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ufo_tune import show
from ufo_tune.config import DecodeSection, Recipe
from ufo_tune.core.images import sample_image
from ufo_tune.core.types import Prediction, Sample
from ufo_tune.datasets import depth_folder
from ufo_tune.engine.answering import grouped
from ufo_tune.engine.predict import Predictor
from ufo_tune.engine.train import train
from ufo_tune.metrics.depth_error import Metric

RECIPE = "rgbd_overfit"
SHOWN = ("AbsRel", "RMSE", "delta1")
OTHERS: dict[str, dict[str, Any]] = {
    "TUM_color.png TUM_depth.png": {"scale": 1 / 5000},
    "SUN_color.jpg SUN_depth.png": {"encoding": "sun"},
}
"""Pairs of other cameras below ``other_formats``, with the options that read them."""


def frames(root: Path, index: Path | None = None) -> Sequence[Sample]:
    """The frames of the room, or those of an index file."""
    options = {"index": str(index)} if index else {}
    images, depths = ("", "") if index else ("color", "depth")
    return depth_folder.load(str(root), "", task="depth", images=images, depths=depths, max_depth=4, **options)


def others(root: Path, out: Path) -> list[Sample]:
    """One picture of each other camera."""
    found: list[Sample] = []
    for pair, options in OTHERS.items():
        index = out / f"{pair.split('_')[0]}.txt"
        index.write_text(pair + "\n", encoding="utf-8")
        place = str(root / "other_formats")
        found += depth_folder.load(place, "", task="depth", index=str(index), max_depth=4, **options)
    return found


def trained(root: Path, out: Path, which: Sequence[int], steps: int) -> tuple[Predictor, float]:
    """A model that learnt the frames of these numbers, and the seconds that it took."""
    names = [f"{n:05d}" for n in which]
    folder = out / f"frames_{''.join(map(str, which))}"
    index = out / f"{folder.name}.txt"
    index.write_text("".join(f"color/{n}.jpg depth/{n}.png\n" for n in names), encoding="utf-8")
    if not (folder / "seconds.txt").exists():
        recipe = Recipe.load(
            RECIPE,
            {
                "data.mixture.0.root": json.dumps(str(root)),
                "data.mixture.0.options": json.dumps({"index": str(index), "max_depth": 4}),
                "train.max_steps": str(steps),
            },
        )
        started = time.monotonic()
        train(recipe, folder)
        (folder / "seconds.txt").write_text(f"{time.monotonic() - started:.0f}")
    decode = DecodeSection(max_new_tokens=80, constrained=True, batch_size=1)
    return Predictor(folder, decode=decode), float((folder / "seconds.txt").read_text())


def predicted(predictor: Predictor, samples: Sequence[Sample]) -> list[Prediction]:
    """The model's depth maps, in the words of its training."""
    answering = predictor.answering(predictor.asked("depth"))
    return [prediction for _, prediction in answering.predictions(list(samples), grouped(list(samples)))]


def true(sample: Sample) -> np.ndarray:
    """Metres [H, W], 0 unknown."""
    assert sample.targets is not None and sample.targets.depth is not None
    return sample.targets.depth


def constant(samples: Sequence[Sample], size: tuple[int, int]) -> Prediction:
    """The median depth of samples everywhere: what can be said without looking."""
    metres = np.concatenate([true(s)[true(s) > 0] for s in samples])
    return Prediction(depth=np.full(size, np.median(metres), dtype=np.float32))


def copied(sample: Sample, rest: Sequence[Sample]) -> Prediction:
    """The depth map among ``rest`` that is the best for the sample, with the median where it is unknown."""
    fallback = constant(rest, sample.size).depth
    copies = [Prediction(depth=np.where(true(s) > 0, true(s), fallback).astype(np.float32)) for s in rest]
    return min(copies, key=lambda p: score([sample], [p])["AbsRel"])


def score(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> dict[str, float]:
    """Means over images of ``SHOWN``, inside four metres."""
    metric = Metric(max_depth=4.0)
    for sample, prediction in zip(samples, predictions, strict=True):
        metric.update(sample, prediction)
    values = metric.compute()
    return {name: float(values[name]) for name in SHOWN}


def main() -> None:
    """Train, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder with color/, depth/ and other_formats/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=Recipe.load(RECIPE, keep_unset=True).train.max_steps)
    parser.add_argument("--folds", type=int, nargs="*", default=[0, 1, 2, 3, 4], help="frames to leave out in turn")
    parser.add_argument("--picture", type=Path, default=None)
    args = parser.parse_args()
    root, out = args.root.resolve(), args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    room, rooms = list(frames(root)), others(root, out)

    predictor, seconds = trained(root, out, range(len(room)), args.steps)
    by_heart, elsewhere = predicted(predictor, room), predicted(predictor, rooms)
    rows = {
        "learnt by heart": score(room, by_heart),
        "a constant (median depth)": score(room, [constant(room, s.size) for s in room]),
    }
    left_out: dict[int, Prediction] = {}
    for fold in args.folds:
        rest = [n for n in range(len(room)) if n != fold]
        predictor, took = trained(root, out, rest, args.steps)
        seconds += took
        (left_out[fold],) = predicted(predictor, [room[fold]])
    held = [room[n] for n in left_out]
    rest_of = [[s for s in room if s is not h] for h in held]
    if held:
        rows |= {
            f"left out ({len(held)} of {len(room)} folds)": score(held, list(left_out.values())),
            "left out: a copy of the nearest frame": score(
                held, [copied(h, rest) for h, rest in zip(held, rest_of, strict=True)]
            ),
            "left out: a constant": score(
                held, [constant(rest, h.size) for h, rest in zip(held, rest_of, strict=True)]
            ),
        }
    rows |= {
        "two other rooms": score(rooms, elsewhere),
        "two other rooms: a constant": score(rooms, [constant(room, s.size) for s in rooms]),
    }
    print("| depth of | " + " | ".join(SHOWN) + " |\n|" + "---|" * (len(SHOWN) + 1))
    for name, values in rows.items():
        print(f"| {name} | " + " | ".join(f"{values[k]:.3f}" for k in SHOWN) + " |")
    print(f"\n{args.steps} steps a run, {seconds:.0f} seconds in all; invalid {sum(p.invalid for p in by_heart)}")
    folds = {str(n): score([room[n]], [p]) for n, p in left_out.items()}
    (out / "rgbd.json").write_text(json.dumps({"rows": rows, "folds": folds, "seconds": seconds}, indent=1))
    if args.picture:
        shown = next(iter(left_out), 0)
        picture(
            [(room[shown], by_heart[shown], "learnt by heart")]
            + [(room[n], p, "left out") for n, p in list(left_out.items())[:1]]
            + [(rooms[0], elsewhere[0], "another room")],
            args.picture,
        )


def picture(rows: Sequence[tuple[Sample, Prediction, str]], path: Path) -> None:
    """Photograph, truth and answer of each row, with the scale in metres."""
    images: list[Any] = []
    captions: list[str] = []
    for sample, prediction, name in rows:
        photo = show.draw(np.asarray(sample_image(sample)), scale_to=320)
        images += [photo, show.draw_truth(sample, scale_to=320), show.draw_prediction(sample, prediction, scale_to=320)]
        captions += ["photograph", "truth", f"{name}: AbsRel {score([sample], [prediction])['AbsRel']:.3f}"]
    path.parent.mkdir(parents=True, exist_ok=True)
    show.sheet(images, captions, 3).save(path)


if __name__ == "__main__":
    main()
