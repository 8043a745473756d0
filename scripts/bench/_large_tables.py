"""What ``large.py`` has measured, in tables; a side that did not fit is a dash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from _large_reference import WAYS
from _measure import markdown

SIDES = ("ours", *WAYS)


def over(values: Mapping[str, float], measured: Mapping[str, float], extra: float = 0.0) -> list[str]:
    """How many times ours each of the reference's ways is, both with so much on top."""
    return [f"{(values[w] + extra) / (values['ours'] + extra):.1f}x" if w in measured else "-" for w in WAYS]


def ratio_tables(found: Mapping[str, Any]) -> str:
    """What a CPU can say: how much longer and larger the reference's ways are, and would be at best."""
    named = ("tokens", "answers")
    times, floors = [], []
    for row in found["decode"]:
        seconds, what = row["seconds"], (row["what"], *(str(row[k]) for k in named))
        whole = over(seconds, seconds, row["prefill"])
        times.append((*what, *over(seconds, seconds), *whole, *over(row["bytes"], row["bytes"])))
        here, full = row["floors"]["here"], row["floors"]["H200"]
        floors.append((*what, *over(here, seconds), *over(full, seconds), *over(full, seconds, full["prefill"])))
    steps = [
        (*(str(r[k]) for k in named), *(f"{r[k]['padded'] / r[k]['ours']:.2f}x" for k in ("seconds", "bytes")))
        for r in found["train"]
    ]
    tables = [
        markdown(("decoding", *named, *_each("", ", whole", ", memory")), times),
        markdown(("floors", *named, *_each("", ", 8B", ", 8B, whole")), floors),
        markdown(("LoRA step: tokens", "answers", "time", "memory"), steps),
    ]
    return "\n\n".join(tables)


def _each(*what: str) -> Sequence[str]:
    return [f"{way}{w}" for w in what for way in WAYS]


def gpu_tables(found: Mapping[str, Any], peak: float) -> str:
    """Absolute figures; ``peak`` is what the GPU can do in a second."""
    decoding, steps = [], []
    for row in found["decode"]:
        seconds, before, images = row["seconds"], row["prefill"], row["images"]
        rates = [f"{images / (before + seconds[s]):.2f}" if s in seconds else "-" for s in SIDES]
        sizes = [f"{row['bytes'][s] / 2**30:.2f} GiB" if s in seconds else "-" for s in SIDES]
        what = (row["what"], str(row["tokens"]), str(row["answers"]), f"{before:.3f} s")
        decoding.append((*what, *rates, *over(seconds, seconds), *sizes))
    for row in found["train"]:
        for side, taken in row["seconds"].items():
            used = f"{row['operations'] / taken / peak:.1%}"
            what = (str(row["tokens"]), str(row["answers"]), "yes" if row["recomputed"] else "no", side)
            rate, size = f"{row['tokens'] / taken:.0f}", f"{row['bytes'][side] / 2**30:.1f} GiB"
            steps.append((*what, f"{taken:.3f} s", rate, used, size))
    rates, sizes = ([f"{s}{what}" for s in SIDES] for what in (", images/s", ", memory"))
    header = ("decoding", "tokens", "answers", "prefill", *rates, *WAYS, *sizes)
    titles = ("LoRA step: tokens", "answers", "recomputed", "way", "time", "tokens/s", "MFU", "memory")
    return f"{markdown(header, decoding)}\n\n{markdown(titles, steps)}"
