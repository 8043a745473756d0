"""What one core of this machine can do, so that the floors in docs/performance.md have a scale.

    python scripts/bench/machine.py [--out machine.json]

Float32 matrix products (operations), a matrix times a vector (bytes that are read once), and a photograph of
640 x 480 decoded and brought to 448 x 448; the fastest of twenty, in CPU time of one thread.
"""

from __future__ import annotations

import argparse
import io
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _data_files import photograph
from _measure import write_json
from PIL import Image

WIDTH = 4096
"""Of the matrix that is read: 64 MB, more than a cache holds."""
DEEP = 1024
"""Of the matrices that are multiplied."""


def fastest(call: Callable[[], object], repeat: int = 20) -> float:
    """CPU seconds of the fastest of ``repeat`` calls."""
    seconds = []
    for _ in range(repeat):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return min(seconds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    square, large, vector = torch.randn(DEEP, DEEP), torch.randn(WIDTH, WIDTH), torch.randn(WIDTH)
    file = io.BytesIO()
    photograph(np.random.default_rng(0)).save(file, "JPEG", quality=90)
    found = {
        "gflops": 2 * DEEP**3 / fastest(lambda: square @ square) / 1e9,
        "gbytes_per_second": 4 * WIDTH**2 / fastest(lambda: large @ vector) / 1e9,
        "photograph_ms": 1e3 * fastest(lambda: Image.open(file).convert("RGB").resize((448, 448))),
    }
    print(f"{platform.processor() or platform.machine()}, one thread, torch {torch.__version__}")
    print("  ".join(f"{name} {value:.1f}" for name, value in found.items()))
    write_json(options.out, found)


if __name__ == "__main__":
    main()
