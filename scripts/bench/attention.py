"""What FlexAttention saves of a layer's attention: the layout's block mask against sdpa with a dense mask.

    python scripts/bench/attention.py [--out attention.json] [--repeat 20] [--answers 40 80 120] [--sides 448 896 1344]

Rows of 256 image tokens for each tile of 448 pixels, 40 tokens of text and parallel answers of 20 tokens (a box), in
the shape of an 8B decoder: 32 heads of 128, 8 of keys. One layer's attention, forward and backward, through the
functions that transformers itself calls, in bfloat16 on a GPU; both sides must agree. Memory is the most that is
allocated over queries, keys and values, the mask included; making the mask, once for all layers, is timed by itself.

FlexAttention has no backward pass on CPUs, so without a GPU nothing is timed: the table then holds what the layout
alone says, the pairs that are seen and the blocks that are computed, out of all.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _measure import markdown, write_json
from torch import Tensor, nn
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ufo_tune.core.sequence import visible
from ufo_tune.core.types import PROMPT
from ufo_tune.models.flex import block_mask

HEADS, KEY_HEADS, SIZE = 32, 8, 128
TEXT, ANSWER = 40, 20
"""Tokens of the prompt beside the image, and of one answer."""


def layout(side: int, answers: int) -> tuple[Tensor, Tensor, Tensor]:
    """Segments [1, T], image tokens [1, T] and whether they are causal [1] of one row."""
    image = 256 * (side // 448) ** 2
    parts = torch.arange(answers).repeat_interleave(ANSWER)
    segment = torch.cat([torch.full((image + TEXT,), PROMPT), parts])[None]
    marked = torch.arange(segment.shape[1])[None] < image
    return segment, marked, torch.tensor([False])


def counted(side: int, answers: int) -> dict[str, Any]:
    """What the layout says, whatever the machine."""
    row = layout(side, answers)
    dense, blocks = visible(*row), block_mask(*row).to_dense()
    return {
        "side": side,
        "answers": answers,
        "tokens": row[0].shape[1],
        "pairs_seen": float(dense.float().mean()),
        "blocks_computed": float(blocks.float().mean()),
    }


class Layer(nn.Module):
    """As much of an attention layer as transformers' attention functions look at."""

    num_key_value_groups = HEADS // KEY_HEADS
    is_causal = True


def timed(call: Callable[[], object], repeat: int) -> float:
    """The median of so many calls in milliseconds, after three that compile and warm up."""
    for _ in range(3):
        call()
    found = []
    for _ in range(repeat):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        found.append(start.elapsed_time(end))
    return statistics.median(found)


def measured(side: int, answers: int, repeat: int) -> dict[str, Any]:
    """Both sides on a GPU.

    Raises:
        SystemExit: outputs or gradients differ by more than bfloat16 explains.
    """
    row = tuple(t.cuda() for t in layout(side, answers))
    torch.manual_seed(0)
    shapes = [(1, heads, row[0].shape[1], SIZE) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    states = [torch.randn(s, device="cuda", dtype=torch.bfloat16, requires_grad=True) for s in shapes]
    module, found, results = Layer(), {}, {}
    for name, function, rule in (
        ("sdpa", sdpa_attention_forward, visible),
        ("flex", flex_attention_forward, block_mask),
    ):
        held = torch.cuda.memory_allocated()
        mask = rule(*row)

        def step(function: Any = function, mask: Any = mask) -> list[Tensor]:
            out = function(module, *states, mask, scaling=SIZE**-0.5)[0]
            return [out, *torch.autograd.grad(out.float().square().sum(), states)]

        milliseconds = timed(step, repeat)
        torch.cuda.reset_peak_memory_stats()
        results[name] = step()
        found[name] = {
            "ms": milliseconds,
            "bytes": torch.cuda.max_memory_allocated() - held,
            "mask_ms": timed(lambda rule=rule: rule(*row), repeat),
        }
    for one, other in zip(results["sdpa"], results["flex"], strict=True):
        apart = float((one.float() - other.float()).norm() / one.float().norm())
        if apart > 2e-2:
            raise SystemExit(f"the sides must compute the same: {apart:.2g} apart at {side}, {answers} answers")
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in words."""
    header = ["pixels", "answers", "tokens", "pairs seen", "blocks computed"]
    cells = [
        [str(r["side"]), str(r["answers"]), str(r["tokens"]), f"{r['pairs_seen']:.0%}", f"{r['blocks_computed']:.0%}"]
        for r in rows
    ]
    if "sdpa" in rows[0]:
        header += ["sdpa", "flex", "time", "sdpa", "flex", "memory", "block mask"]
        for row, line in zip(rows, cells, strict=True):
            sdpa, flex = row["sdpa"], row["flex"]
            line += [f"{s['ms']:.2f} ms" for s in (sdpa, flex)] + [f"{sdpa['ms'] / flex['ms']:.2f}x"]
            line += [f"{s['bytes'] / 2**20:.0f} MB" for s in (sdpa, flex)] + [f"{sdpa['bytes'] / flex['bytes']:.2f}x"]
            line.append(f"{flex['mask_ms']:.2f} ms")
    return markdown(header, cells)


def main() -> None:
    """Measure where there is a GPU, count everywhere, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the table as JSON")
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--answers", type=int, nargs="+", default=[40, 80, 120])
    parser.add_argument("--sides", type=int, nargs="+", default=[448, 896, 1344], help="pixels, multiples of 448")
    options = parser.parse_args()
    bare = not torch.cuda.is_available()
    rows = [
        counted(side, answers) | ({} if bare else measured(side, answers, options.repeat))
        for side in options.sides
        for answers in options.answers
    ]
    machine = "no GPU: nothing is timed" if bare else torch.cuda.get_device_name()
    print(f"{machine}, torch {torch.__version__}\n\n{table(rows)}")
    write_json(options.out, {"machine": machine, "torch": torch.__version__, "rows": rows})


if __name__ == "__main__":
    main()
