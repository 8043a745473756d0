"""The loader against a plain loop: samples a second, where the time goes, start-up and memory, side by side.

    python scripts/bench/data.py [--out data.json] [--batches 60] [--images 200] [--annotations 1270000]

Both sides read the same synthetic files (``_data_files.py``) and make the same batches from the same random numbers, or
the run fails: equal tokens, labels, segments and positions, pixels within rounding, masks alike but for how their edges
are interpolated. The plain side is ``_data_plain.py``; of its masks those that the task has no use for are a stage of
their own, and the ratio is given without them, too. The image is stretched to the tower's square on both, as UFO does.
Batches of 4 alternate between the sides, in one process and one thread; time is that process's own, so samples a second
are *per core*.

``--annotations`` objects, 12.7 an image as in LVIS, stand for a large file: each side opens it in a fresh process, and
a forked worker of that process then reads 2,000 samples at random. Private memory is what ``smaps_rollup`` calls
private and dirty: what nobody shares and cannot be dropped. Ours is measured on a tenth of the file, too. All of it
takes about eight minutes; without the large file (``--annotations 0``) one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from _data_files import CLASSES, PHRASE, write, write_table
from _data_plain import FLIP, UNASKED, Plain
from _measure import markdown, write_json
from torch import Tensor

from ufo_tune.config import Recipe
from ufo_tune.core.codec import Codec
from ufo_tune.core.types import Batch, Samples
from ufo_tune.data import collate
from ufo_tune.engine.sources import Sources
from ufo_tune.models import llava, processor, tiny

CODEC = Codec()
ROWS = 4
"""Samples in a batch."""
SIDES = {"detection": 448, "res": 896}
"""Pixels of the square that the tower sees."""
AUGMENT: dict[str, dict[str, Any]] = {"detection": {"flip": FLIP}, "res": {}}
"""As UFO has it: phrases are not mirrored."""
OBJECTS = 12.7
"""On an image of the large file: as LVIS has them."""
READ = 2000
"""Samples of it that a worker reads."""


class Stages:
    """CPU seconds by stage; what is inside another stage is not counted there."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open = ["rest"]
        self._since = time.process_time()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time what is done inside."""
        self._switch()
        self._open.append(name)
        try:
            yield
        finally:
            self._switch()
            self._open.pop()

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call as a stage."""

        def inside(*args: Any, **kwargs: Any) -> Any:
            with self(name):
                return call(*args, **kwargs)

        return inside

    def _switch(self) -> None:
        now = time.process_time()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now


class Watched:
    """Samples whose reading is a stage."""

    def __init__(self, samples: Samples, stages: Stages) -> None:
        self.samples, self.stages = samples, stages

    def __getitem__(self, index: int) -> Any:
        """One sample."""
        with self.stages("annotations"):
            return self.samples[index]


def sources(folder: Path, task: str, base: Path) -> Sources:
    """The real path, as training has it."""
    words = [*CLASSES, *PHRASE.split(), "background"]
    tiny.build("llava", base, image_size=SIDES[task], patch=14, words=words, integers=CODEC.num_bins)
    built = llava.build(str(base), CODEC, aspect="warp", dtype=torch.float32)
    dataset = {"dataset": "refcoco" if task == "res" else "coco", "root": str(folder), "split": "train"}
    recipe = {
        "model": {"base": str(base)},
        "data": {"mixture": [{"task": task, **dataset}], "augment": AUGMENT[task], "max_length": 16384},
        "train": {"per_device_train_batch_size": ROWS},
    }
    return Sources(Recipe.from_dict(recipe), built)


def watch(ours: Sources, stages: Stages) -> None:
    """Time the parts of the real path from outside."""
    collator, own = ours.collators[0], ours.collators[0].processor
    ours.samples[0] = Watched(ours.samples[0], stages)  # type: ignore[call-overload]
    collator.task = SimpleNamespace(encode=stages.timed("task", collator.task.encode))  # type: ignore[assignment]
    for name, stage in (("pixels", "pixels"), ("encode", "lay out"), ("stack", "stack")):
        setattr(own, name, stages.timed(stage, getattr(own, name)))
    collator.steps = tuple(stages.timed("augment", step) for step in collator.steps)
    collate.sample_image = stages.timed("decode image", collate.sample_image)
    processor._targets = stages.timed("masks", processor._targets)


def plain_batches(ours: Sources, folder: Path, task: str, stages: Stages) -> Iterator[dict[str, Tensor]]:
    """The plain side's batches of the same draws."""
    collator = ours.collators[0]
    own = collator.processor
    plain = Plain(folder, task, own.hf, collator.template, CODEC, SIDES[task], stages)
    mixture = sources(folder, task, folder / f"base-{task}").mixture  # another one, at its beginning
    for draw in mixture:
        rng = np.random.default_rng((0, 0, draw.entry, draw.number, 0))  # the generator that the loader gives
        yield plain.batch([plain.row(index, rng) for (index,) in draw.groups], own.pad_id)


def compare(got: Batch, expected: dict[str, Tensor]) -> None:
    """Whether both sides made the same batch.

    Raises:
        AssertionError: they did not.
    """
    for name in ("ids", "labels", "segment"):
        assert torch.equal(getattr(got, name), expected[name]), f"{name} differ"
    assert torch.equal(got.positions[0], expected["positions"]), "positions differ"
    levels = (got.pixels["pixel_values"] - expected["pixel_values"]).abs() * 0.26 * 255  # CLIP's standard deviations
    assert levels.max() < 3 and levels.mean() < 0.02, f"pixels differ (by up to {levels.max():.1f} levels)"
    if got.slot_targets:
        difference = (torch.stack(got.slot_targets) - expected["targets"]).abs().mean()
        assert difference < 0.005, f"masks differ (by {difference:.4f} of the pixels)"


def speed(folder: Path, task: str, batches: int) -> dict[str, Any]:
    """CPU milliseconds a sample of both sides, in all and by stage."""
    ours = sources(folder, task, folder / f"base-{task}")
    sides = {"ours": Stages(), "plain": Stages()}
    theirs = plain_batches(ours, folder, task, sides["plain"])
    stream = iter(ours.loader)
    compare(next(stream), next(theirs))
    watch(ours, sides["ours"])
    for stages in sides.values():
        stages.seconds.clear()
    spent = {"ours": 0.0, "plain": 0.0}
    for number in range(batches):
        made: dict[str, Any] = {}
        for name, source in (("ours", stream), ("plain", theirs)):
            start = time.process_time()
            made[name] = next(source)
            spent[name] += time.process_time() - start
        if number < 5:
            compare(made["ours"], made["plain"])
    scale = 1e3 / (batches * ROWS)
    found = {}
    for name, stages in sides.items():
        stages.seconds["rest"] = spent[name] - sum(v for k, v in stages.seconds.items() if k != "rest")
        found[name] = {**{k: v * scale for k, v in stages.seconds.items()}, "ms": spent[name] * scale}
    for name, source in (("ours", stream), ("plain", theirs)):
        found[name]["worker_mb"] = in_fork(lambda source=source: [next(source) is None for _ in range(10)])
    return found


def private_mb() -> float:
    """Megabytes of this process that nobody shares and that are not just cached file pages."""
    rows = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return float(rows["Private_Dirty"].split()[0]) / 1024


def in_fork(call: Callable[[], Any]) -> float:
    """Private megabytes of a forked worker after a call."""
    here, there = os.pipe()
    if not os.fork():
        call()
        os.write(there, str(private_mb()).encode())
        os._exit(0)
    os.wait()
    return float(os.read(here, 64))


def probe(side: str, folder: Path) -> dict[str, float]:
    """Open the large file in this fresh process; then read samples in a worker."""
    before, wall, cpu = private_mb(), time.perf_counter(), time.process_time()
    rng = np.random.default_rng(0)
    if side == "ours":
        from ufo_tune.engine.sources import open_dataset

        samples = open_dataset("coco", str(folder), "train", "instance_segmentation", {})
        numbers = rng.integers(len(samples), size=READ).tolist()
        read = samples.__getitem__
    else:
        from pycocotools.coco import COCO

        data = COCO(str(folder / "annotations" / "instances_train.json"))
        numbers = rng.integers(len(data.imgs), size=READ).tolist()

        def read(image: int) -> Any:
            return [data.annToMask(row) for row in data.loadAnns(data.getAnnIds([image]))]

    found = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    os.sync()  # pages of a file that was just written are "dirty" until they are on the disk
    worker = in_fork(lambda: [None for number in numbers if not read(number)])
    return {**found, "mb": private_mb() - before, "worker_mb": worker, "idle_worker_mb": in_fork(lambda: None)}


def fresh(side: str, folder: Path) -> dict[str, float]:
    """``probe`` in a process of its own."""
    command = [sys.executable, __file__, "--probe", side, "--folder", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def start_up(folder: Path, annotations: int) -> dict[str, dict[str, float]]:
    """First and later opening of the large file, of a tenth of it, and the plain way."""
    whole = write_table(folder / "whole", round(annotations / OBJECTS), annotations)
    tenth = write_table(folder / "tenth", round(annotations / OBJECTS / 10), annotations // 10)
    fresh("ours", tenth)
    return {
        "ours, first time": fresh("ours", whole),
        "ours, prepared": fresh("ours", whole),
        "ours, a tenth of it": fresh("ours", tenth),
        "plain": fresh("plain", whole),
    }


def report(found: dict[str, Any]) -> Iterator[str]:
    """Tables."""
    for task, sides in found["speed"].items():
        ours, plain = sides["ours"], sides["plain"]
        yield f"\n{task} at {SIDES[task]}: CPU milliseconds a sample\n"
        stages = [s for s in dict.fromkeys([*ours, *plain]) if s not in ("ms", "worker_mb")]
        rows = [[s, f"{ours.get(s, 0):.2f}", f"{plain.get(s, 0):.2f}"] for s in stages]
        rows.append(["all", f"{ours['ms']:.2f}", f"{plain['ms']:.2f}"])
        rows.append(["samples a second and core", f"{1e3 / ours['ms']:.1f}", f"{1e3 / plain['ms']:.1f}"])
        rows.append(["private MB of a worker", f"{ours['worker_mb']:.0f}", f"{plain['worker_mb']:.0f}"])
        yield markdown(["stage", "ours", "plain"], rows)
        needed = plain["ms"] - plain.get(UNASKED, 0.0)
        yield f"\nratio: {plain['ms'] / ours['ms']:.2f}x; without the {UNASKED}: {needed / ours['ms']:.2f}x\n"
    if "start_up" in found:
        yield f"\n{found['annotations']:,} annotations, {OBJECTS} an image\n"
        header = ["", "start-up s", "CPU s", "MB of the process", "MB of a worker", "MB of an idle worker"]
        keys = ("seconds", "cpu", "mb", "worker_mb", "idle_worker_mb")
        yield markdown(header, [[n, *(f"{row[k]:.1f}" for k in keys)] for n, row in found["start_up"].items()])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--batches", type=int, default=60, help="of each side and task")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--annotations", type=int, default=1_270_000, help="of the large file; 0: leave it out")
    parser.add_argument("--probe", choices=("ours", "plain"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.probe:
        print(json.dumps(probe(given.probe, given.folder)))
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["UFO_TUNE_CACHE"] = str(folder / "cache")
        write(folder / "files", given.images)
        found: dict[str, Any] = {task: speed(folder / "files", task, given.batches) for task in SIDES}
        found = {"speed": found, "batches": given.batches, "annotations": given.annotations}
        if given.annotations:
            found["start_up"] = start_up(folder, given.annotations)
    print("\n".join(itertools.chain(report(found))))
    write_json(given.out, found)


if __name__ == "__main__":
    main()
