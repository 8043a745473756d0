"""How long a user waits: ``import ufo_tune``, and from a fresh process to the first mask of the tiny model.

    python scripts/bench/first_mask.py [--out first_mask.json] [--model quickstart/merged] [--repeat 5]

Every figure is of fresh Python processes, the fastest of ``--repeat``; the files have been read before, so the disk is
not measured. ``wall`` is what the user waits; ``cpu`` is what the process computed, which other work on the machine
disturbs less. The parts of the first mask follow each other: all imports, the weights, the answer. Below stands what
the same imports take while garbage is collected (``ufo_tune.core.imports`` collects none), and what plain Python takes
to import torch alone, and with it the classes of transformers that a LLaVA needs: the floor. The last line is the
floor's share of our time.

Without ``--model`` it is the shipped base, prepared and never taught: it answers all the same, and its answer takes as
long as a taught one's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from _measure import write_json
from PIL import Image

LAPS = """
import json, sys, time
laps, last = {}, [time.perf_counter(), time.process_time()]
def lap(name):
    now = [time.perf_counter(), time.process_time()]
    laps[name] = [now[0] - last[0], now[1] - last[1]]
    last[:] = now
"""
PACKAGE = """
import ufo_tune
lap("import ufo_tune")
"""
FIRST_MASK = """
import ufo_tune
load = ufo_tune.load
from ufo_tune.plugins import find
find("models", "llava")
lap("imports")
model = load(sys.argv[1])
lap("weights")
mask = model.predict(sys.argv[2], "res", text="the red circle").masks[0]
lap("mask")
assert mask.shape == (128, 128), mask.shape
"""
COLLECTING = """
import gc
gc.disable = lambda: None  # what ufo_tune.core.imports would do without
import ufo_tune
ufo_tune.load
from ufo_tune.plugins import find
find("models", "llava")
lap("imports, collecting")
"""
TORCH = """
import torch
lap("torch alone")
"""
FLOOR = """
import torch
from ufo_tune import _torchvision
_torchvision.available()  # a torchvision for CUDA beside a CPU torch would stop transformers
from transformers import LlamaForCausalLM, LlavaForConditionalGeneration, SiglipVisionModel
lap("torch, transformers")
"""


def measured(code: str, *arguments: str) -> dict[str, dict[str, float]]:
    """Seconds of one fresh process, by part."""
    compiled = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    call = [sys.executable, "-c", f"{LAPS}{code}print(json.dumps(laps))", *arguments]
    done = subprocess.run(call, capture_output=True, text=True, check=True, env=compiled)
    laps = json.loads(done.stdout.splitlines()[-1])
    return {name: {"wall": wall, "cpu": cpu} for name, (wall, cpu) in laps.items()}


def total(laps: dict[str, dict[str, float]], clock: str) -> float:
    """Seconds of all parts."""
    return sum(lap[clock] for lap in laps.values())


def base(folder: Path) -> Path:
    """The shipped base, saved as a model."""
    from ufo_tune.engine.load import base

    base("embedded", "llava", {}, {}).save(folder / "base")
    return folder / "base"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    # Folders of compiled modules are written by the first run, as after an installation.
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = args.model or base(folder)
        picture = folder / "picture.png"
        noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
        Image.fromarray(noise).save(picture)
        rounds = [
            [measured(code, str(model), str(picture)) for code in (PACKAGE, FIRST_MASK, COLLECTING, TORCH, FLOOR)]
            for _ in range(args.repeat)
        ]
    package, first, collecting, torch, floor = (
        min(runs, key=lambda laps: total(laps, "wall")) for runs in zip(*rounds, strict=True)
    )
    first["to the first mask"] = {clock: total(first, clock) for clock in ("wall", "cpu")}
    figures = package | first | collecting | torch | floor
    for name, seconds in figures.items():
        print(f"{name:20} {seconds['wall']:6.2f} s wall {seconds['cpu']:6.2f} s cpu")
    share = total(floor, "wall") / figures["to the first mask"]["wall"]
    print(f"{'floor / first mask':20} {share:6.2f}")
    if args.out:
        write_json(args.out, figures)


if __name__ == "__main__":
    main()
