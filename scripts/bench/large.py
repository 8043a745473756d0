"""Models of 7B and 8B on one accelerator, against the same model run the reference's way.

    python scripts/bench/large.py [--out large.json] [--repeat 2] [--shapes llava internvl] [--nf4]

With a GPU: LLaVA-1.5-7B- and InternVL2.5-8B-shaped random weights in bfloat16. Decoding in images a second, peak memory
over the prefix; LoRA steps in seconds, tokens a second and utilisation (needed operations over what the GPU can do).
Without one: the same on a scaled-down InternVL in float32, one thread, CPU seconds, and ratios only.

The reference's ways are those of ``_large_reference``: keys and values copied for each answer, or one row with a dense
mask. Sides alternate and the fastest of ``--repeat`` counts. They write the same answers, chosen by this project under
a grammar; the states that predict tokens must agree, and on a CPU the grammar must choose every token from the other
sides' states too, or the run fails. Times of decoding are without the prefill, which all sides share; "whole" adds it.
A floor is what operations and bytes take at best, "8B" that of the unscaled model on an H200 by its data sheet.
Goals: detection at 400 answers 4x, 40 % utilisation of a LoRA step, 100 answers in less than 2 GiB over the prefix.
"""

from __future__ import annotations

import argparse
import gc
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import _large_floor as floor
import torch
from _large_models import BOX, INTERNVL, LLAVA, MASK, SMALL, Shape, Weights, asked, spread, states_apart, taught
from _large_reference import WAYS, Way, begin, padded_terms
from _large_tables import gpu_tables, ratio_tables
from _measure import Side, peak_of, write_json
from torch import Tensor
from train_step import prepared

from ufo_tune.config import DecodeSection
from ufo_tune.core.answers import Grammar
from ufo_tune.core.types import Batch, LossTerm
from ufo_tune.engine import load
from ufo_tune.engine.trainable import Trainable
from ufo_tune.models.generate import Chooser, Written, compiler, prefill, write
from ufo_tune.models.ufo import UfoModel

Rung = tuple[int, int, int]
RUNGS: tuple[Rung, ...] = ((1, 40, 100), (2, 120, 400), (3, 108, 576))
"""Tiles to a side; answers of a row in training; answers that are decoded: UFO's own sizes (ufo.md 6.1)."""
POSITIVE = 18
"""Boxes among the answers of a row in training: six objects, three points each."""
DECODE = DecodeSection(max_new_tokens=32, constrained=True)


@dataclass(slots=True)
class Meter:
    """Seconds and bytes of a call on a device."""

    cuda: bool

    @property
    def near(self) -> float:
        """How far apart the same states may be, as a part of their size."""
        return 5e-2 if self.cuda else 1e-4

    def seconds(self, call: Callable[[], object]) -> float:
        """Of the wall's clock on a GPU, of this process's on a CPU."""
        if not self.cuda:
            start = time.process_time()
            call()
            return time.process_time() - start
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        return time.perf_counter() - start

    def peak(self, call: Callable[[], object]) -> int:
        """Most bytes over what was there before."""
        if not self.cuda:
            return peak_of(call)
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return int(torch.cuda.max_memory_allocated() - before)

    def fitting(self, sides: Mapping[str, Callable[[], int]]) -> dict[str, int]:
        """Bytes of each, as it measures them itself, without those that run out of memory."""
        found = {}
        for name, side in sides.items():
            try:
                found[name] = side()
            except torch.OutOfMemoryError:
                gc.collect()
                torch.cuda.empty_cache()
        return found

    def autocast(self) -> AbstractContextManager[Any]:
        """As ``train.bf16`` has it."""
        return torch.autocast("cuda", dtype=torch.bfloat16) if self.cuda else nullcontext()


@dataclass(slots=True)
class Decoding:
    """One batch and what its answers may be; ``ours`` and ``reference`` prefill and give the rest as a call."""

    built: UfoModel
    batch: Batch
    grammars: Sequence[Grammar]
    written: Written | None = None
    passes: list[floor.Pass] = field(default_factory=list)

    @property
    def _automaton(self) -> Any:
        return compiler(self.built.processor).automaton(self.grammars).to(self.built.device)

    def ours(self) -> Callable[[], Written]:
        """This project's way."""
        begun, automaton = prefill(self.built, self.batch), self._automaton
        return lambda: write(self.built.vlm, begun, automaton, automaton.starts, DECODE)

    def reference(self, way: Way) -> Callable[[], Tensor]:
        """Another way to the same tokens."""
        assert self.written is not None  # ours came first
        begun, script = begin(self.built, self.batch), self.written.ids
        return lambda: way(self.built, begun, script, self.built.processor.end_id)

    def observe(self) -> None:
        """Run ours once, and note what its passes had to do."""
        begun, automaton = prefill(self.built, self.batch), self._automaton
        prompts, start_pass, columns = begun.cache.heads.prompt, begun.cache.begin, len(automaton.columns)

        def observed(counts: Tensor, start: int, stop: int) -> Any:
            step = start_pass(counts, start, stop)
            own, rows = begun.cache.lengths[start:stop], begun.cache.row[start:stop].unique()
            prompt, tokens = int(prompts[0]), int(counts.sum())
            keys = int((counts * (prompt + own)).sum())
            read = int(own.sum()) + (prompt * len(rows) if start == 0 else 0)
            if start == 0:
                self.passes.append(floor.Pass(0, 0, 0, 0, columns))
            last = self.passes[-1]  # of a step in pieces: weights and prompt could be read once
            self.passes[-1] = replace(
                last, tokens=last.tokens + tokens, keys=last.keys + keys, read=last.read + read,
                chosen=last.chosen + stop - start,
            )  # fmt: skip
            return step

        begun.cache.begin = observed  # type: ignore[method-assign]
        self.written = write(self.built.vlm, begun, automaton, automaton.starts, DECODE)

    def agree(self, states: Tensor, meter: Meter) -> None:
        """Compare a reference's states with ours.

        Raises:
            SystemExit: they differ, or the grammar's rule chooses other tokens from them.
        """
        assert self.written is not None
        computed = (self.written.ids >= 0) & self.written.hidden.any(-1)  # ours has none before an end that is forced
        apart = states_apart(states[computed], self.written.hidden[computed])
        if apart > meter.near:
            raise SystemExit(f"the sides must compute the same: states are {apart:.2g} of their size apart")
        if meter.cuda:
            return  # bfloat16 turns random weights' near ties over
        automaton = self._automaton
        choose, state = Chooser(self.built.vlm, automaton), automaton.starts
        for step, ids in enumerate(self.written.ids.T):
            chosen, _ = choose(states[:, step], state, ids < 0)
            if not bool(((chosen == ids) | (ids < 0)).all()):
                raise SystemExit(f"the sides must write the same: token {step} differs")
            state = automaton.advance(state, ids.clamp_min(0))


@torch.inference_mode()
def decode_row(s: Shape, what: str, case: Decoding, tiles: int, meter: Meter, repeat: int) -> dict[str, Any]:
    """Time, memory and floors of one workload, each way."""
    case.observe()
    names = list(WAYS) if len(case.batch.ids) == 1 else ["copied"]  # a dense row holds the answers of one image
    sides: dict[str, Callable[[], Callable[[], object]]] = {"ours": case.ours}
    sides |= {n: (lambda way=WAYS[n]: case.reference(way)) for n in names}
    sizes = meter.fitting({n: (lambda n=n: measured_once(case, n, sides[n](), meter)) for n in sides})
    seconds, first = [], []
    for _ in range(repeat):
        calls: list[Callable[[], object]] = []
        first.append(meter.seconds(partial(_append, calls, case.ours)))
        seconds.append({n: meter.seconds(calls.pop() if n == "ours" else sides[n]()) for n in sizes})
    return {
        "what": what, "tiles": tiles, "images": len(case.batch.ids), "answers": len(case.grammars),
        "tokens": case.batch.ids.shape[1], "seconds": {n: min(t[n] for t in seconds) for n in sizes},
        "prefill": min(first), "bytes": sizes,
        "floors": {"here": floors(s, case, tiles, floor.CORE), "H200": floors(large(s), case, tiles, floor.H200)},
    }  # fmt: skip


def _append(found: list[Any], call: Callable[[], object]) -> None:
    found.append(call())


def measured_once(case: Decoding, name: str, call: Callable[[], object], meter: Meter) -> int:
    """Peak bytes of a side, whose states are compared."""
    found: list[Any] = []
    peak = meter.peak(partial(_append, found, call))
    if name != "ours":
        case.agree(found[0], meter)
    return peak


def large(s: Shape) -> Shape:
    """The model of which this one is a scale model."""
    return INTERNVL if s is SMALL else s


def floors(s: Shape, case: Decoding, tiles: int, machine: floor.Machine) -> dict[str, float]:
    """Seconds of each way at best, and of the prefill."""
    assert case.written is not None
    rows, width = case.batch.ids.shape
    answers, longest = case.written.ids.shape
    heads = int((case.batch.local_index[0] >= 0).any())
    prompt = width - heads * (answers // rows)
    found = {
        "ours": floor.decode_seconds(s, machine, case.passes),
        "copied": floor.decode_seconds(
            s, machine, floor.copied_passes(s, answers, prompt, heads, longest), answers * prompt
        ),
        "prefill": floor.prefill_seconds(s, machine, rows, width, tiles**2),
    }
    if rows == 1:
        found["dense"] = floor.decode_seconds(s, machine, floor.dense_passes(s, answers, prompt, heads, longest))
    return found


def decode_rows(weights: Weights, meter: Meter, repeat: int, rungs: Sequence[Rung]) -> list[dict[str, Any]]:
    """RES and REC of eight images, and detection at three sizes, all answers boxes or every tenth."""
    found = []
    for tiles, _, answers in rungs:
        built = weights.seeing(tiles)
        cases = [
            (f"detection, {name}", Decoding(built, asked(built, [None] * answers, tiles), spread(answers, positive)))
            for name, positive in (("all boxes", answers), ("a tenth boxes", answers // 10))
        ]
        if tiles == 1:
            eight = asked(built, [None], tiles, rows=8, points=False)
            cases += [("RES", Decoding(built, eight, [MASK] * 8)), ("REC", Decoding(built, eight, [BOX[2:]] * 8))]
        for what, case in cases:
            found.append(decode_row(weights.shape, what, case, tiles, meter, repeat))
            print(f"  {what}, {tiles} x {tiles} tiles: " + said(found[-1]), flush=True)
    return found


def said(row: Mapping[str, Any]) -> str:
    """Ratios to ours, in a line."""
    ours = row["seconds"].get("ours", math.nan)
    times = ", ".join(f"{n} {row['seconds'][n] / ours:.2f}x" for n in row["seconds"] if n != "ours")
    sizes = ", ".join(f"{n} {row['bytes'][n] / row['bytes']['ours']:.1f}x" for n in row["bytes"] if n != "ours")
    return f"time {times}; memory {sizes}"


def train_rows(weights: Weights, meter: Meter, repeat: int, rungs: Sequence[Rung]) -> list[dict[str, Any]]:
    """A LoRA step of detection at three sizes: ours, and answers padded under a float mask."""
    adapted, made = prepared(weights.seeing(1), "lora")
    found = []
    for recomputed in (False, True) if meter.cuda else (False,):
        if recomputed:
            adapted.recompute_activations()
        for tiles, answers, _ in rungs:
            built = weights.seeing(tiles).train()
            batch, trainable = asked(built, taught(answers, POSITIVE), tiles), Trainable(built, {"next_token": {}})
            row = train_row(built, batch, trainable, made, meter, repeat)
            operations = floor.step_operations(weights.shape, batch)
            found.append({"tiles": tiles, "answers": answers, "recomputed": recomputed, "operations": operations} | row)
            print(f"  LoRA step, {tiles} x {tiles} tiles, {answers} answers: " + said(row), flush=True)
    weights.vlm.eval()
    return found


def train_row(
    built: UfoModel, batch: Batch, trainable: Trainable, made: Callable[[], Any], meter: Meter, repeat: int
) -> dict[str, Any]:
    """Time and memory of a step, both ways.

    Raises:
        SystemExit: losses or gradients differ.
    """

    def ours() -> Mapping[str, LossTerm]:
        with meter.autocast():
            return trainable(batch)  # type: ignore[no-any-return]

    def padded() -> Mapping[str, LossTerm]:
        with meter.autocast():
            return padded_terms(built, batch)

    sides = {"ours": Side(ours, made()), "padded": Side(padded, made())}
    sizes = meter.fitting({n: (lambda side=side: meter.peak(side)) for n, side in sides.items()})
    if len(sizes) == 2:
        whole = [torch.cat([g.flatten() for g in sides[n].gradients if g is not None]) for n in sizes]
        apart, losses = states_apart(*whole), [sides[n].loss for n in sizes]
        if apart > 2 * meter.near or not math.isclose(*losses, rel_tol=meter.near):
            raise SystemExit(f"the sides must compute the same: losses {losses}, gradients {apart:.2g} apart")
    for side in sides.values():
        side.gradients = []
    seconds = [{n: meter.seconds(sides[n]) for n in sizes} for _ in range(repeat)]
    return {
        "tokens": batch.ids.shape[1], "seconds": {n: min(t[n] for t in seconds) for n in sizes}, "bytes": sizes,
    }  # fmt: skip


def measured(weights: Weights, meter: Meter, repeat: int, rungs: Sequence[Rung]) -> dict[str, Any]:
    """Everything about one model."""
    return {
        "shape": weights.shape.name,
        "decode": decode_rows(weights, meter, repeat, rungs),
        "train": train_rows(weights, meter, repeat, rungs),
    }


def nf4(weights: Weights) -> None:
    """Put the same weights in 4 bits, by way of a folder."""
    with tempfile.TemporaryDirectory() as folder:
        weights.seeing(1).save(Path(folder))
        weights.vlm = load.load(folder, dtype="bfloat16", quantization="nf4").vlm.eval()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the tables as JSON")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--shapes", choices=["llava", "internvl"], nargs="+", default=["llava", "internvl"])
    parser.add_argument("--nf4", action="store_true", help="measure 4-bit weights too")
    parser.add_argument("--peak", type=float, default=floor.H200.operations, help="operations a second of the GPU")
    parser.add_argument("--tiles", type=int, choices=[r[0] for r in RUNGS], nargs="+", default=[r[0] for r in RUNGS])
    options = parser.parse_args()
    rungs = [rung for rung in RUNGS if rung[0] in options.tiles]
    meter, result = Meter(torch.cuda.is_available()), []
    if not meter.cuda:
        torch.set_num_threads(1)
        print(f"{SMALL.name}, float32, one thread, torch {torch.__version__}; the reference's ways over ours")
        result.append(measured(Weights(SMALL), meter, options.repeat, rungs))
        print(f"\n{ratio_tables(result[0])}")
    for name in options.shapes if meter.cuda else ():
        for quantised in (False, True) if options.nf4 else (False,):
            weights = Weights({"llava": LLAVA, "internvl": INTERNVL}[name], "cuda", torch.bfloat16)
            if quantised:
                nf4(weights)
            title = f"{weights.shape.name}, {'nf4' if quantised else 'bfloat16'}"
            print(f"{title}, {torch.cuda.get_device_name()}, torch {torch.__version__}")
            result.append(measured(weights, meter, options.repeat, rungs) | {"quantised": quantised})
            print(f"\n{gpu_tables(result[-1], options.peak)}\n")
            del weights
            torch.cuda.empty_cache()
    write_json(options.out, {"cuda": meter.cuda, "torch": torch.__version__, "models": result})


if __name__ == "__main__":
    main()
