"""The training loop, on accelerate. One mixture entry a step for all ranks, losses exact over ranks and accumulation.

    run = train(Recipe.load("quickstart"), Path("runs/quickstart"))

``ufo-tune train`` and ``accelerate launch -m ufo_tune train`` both come here.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from tqdm.auto import tqdm

from ufo_tune import outputs
from ufo_tune.config import Recipe
from ufo_tune.core.types import Batch, LossTerm
from ufo_tune.engine import checkpoint, load, sharding, speed
from ufo_tune.engine.check import check_best, check_protocol
from ufo_tune.engine.evaluate import evaluate
from ufo_tune.engine.optim import factor, optimizer, set_lr
from ufo_tune.engine.preemption import Notice, noticed
from ufo_tune.engine.room import before_training
from ufo_tune.engine.sources import Sources
from ufo_tune.engine.suites import parse_suites
from ufo_tune.engine.trainable import Trainable, check_objectives
from ufo_tune.errors import ConfigError
from ufo_tune.models import lora
from ufo_tune.models.ufo import UfoModel
from ufo_tune.models.vision_cache import VisionCache
from ufo_tune.plugins import did_you_mean


@dataclass(slots=True)
class _Run:
    """What one run holds on to."""

    recipe: Recipe
    out: Path
    accelerator: Accelerator
    model: UfoModel
    module: Any  # Trainable, maybe wrapped by accelerate
    optimizer: Any
    sources: Sources
    step: int = 0
    started: float = 0.0
    seconds: float = 0.0  # since then, as the main process counts
    notice: Notice = field(default_factory=Notice)  # that this process is to stop
    stopping: bool = False  # some process is
    best: float | None = None  # highest value of eval.best so far, negated where the lowest is best


def train(recipe: Recipe, out: str | Path, *, resume: bool = False, progress: bool = True) -> Path:
    """Train as the recipe says.

    Args:
        recipe: what to do.
        out: run folder: ``recipe.yaml``, ``log.jsonl``, ``checkpoint-N/``, ``last``.
        resume: continue from ``last`` if there is one.
        progress: show a bar with losses, time left and tokens a second.
    Returns:
        The last checkpoint, a folder that ``load``, ``eval``, ``predict`` and ``merge`` read.
    Raises:
        ConfigError: the run folder holds another run or cannot be a folder, or a name does not resolve.
    """
    out = outputs.folder(out)
    run = _start(recipe, out, resume, told=progress or torch.accelerator.is_available())
    bar = tqdm(
        total=recipe.train.max_steps,
        initial=run.step,
        disable=not progress or not run.accelerator.is_main_process,
        desc="train",
        unit="step",
    )
    for line in run.sources.left_out if run.accelerator.is_main_process else ():
        bar.write(line, file=sys.stderr)
    log = _Log(run, bar)
    with noticed() as run.notice:
        _loop(run, log, bar)
    if run.stopping and run.accelerator.is_main_process:
        bar.write(f"told to stop (SIGTERM): saved at step {run.step}; go on with --resume", file=sys.stderr)
    if not bar.disable:
        bar.write(run.sources.summary())
        if run.model.vision_cache is not None:
            bar.write(run.model.vision_cache.summary())
    bar.close()
    run.accelerator.end_training()
    return (out / checkpoint.LAST).resolve()


def _loop(run: _Run, log: _Log, bar: tqdm[Any]) -> None:
    """Steps until the end of the schedule, of the time or of the machine; the last one is always saved."""
    section, every = run.recipe.train, run.recipe.eval.every
    batches = iter(run.sources.loader)
    run.started = time.monotonic()
    saved = run.step or -1  # a run that is resumed has its step on disk
    while run.step < section.max_steps and not run.stopping and not _out_of_time(run):
        window = [next(batches).to(run.accelerator.device) for _ in range(section.gradient_accumulation_steps)]
        terms = _step(run, window)
        run.step += 1
        log.add(terms, window)
        bar.update()
        # A machine that is taken away does not wait for an evaluation.
        better = _due(run.step, every) and not run.stopping and _evaluate(run, log)
        if better or _due(run.step, section.save_steps):
            saved = _save(run, better)
    log.flush()
    if saved != run.step:
        _save(run)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _out_of_time(run: _Run) -> bool:
    """Look at the clock of the main process: all ranks must stop at the same step and take the same learning rate."""
    limit = run.recipe.train.max_seconds
    if not limit:
        return False
    told = [time.monotonic() - run.started]
    broadcast_object_list(told)
    run.seconds = told[0]
    return run.seconds > limit


def _start(recipe: Recipe, out: Path, resume: bool, *, told: bool) -> _Run:
    """Everything before the first step; ``told``: say what it will take, which costs a few seconds."""
    section = recipe.train
    if (out / "last").exists() and not resume:
        raise ConfigError(f"{out}: holds a run already; add --resume to continue it, or choose another --out")
    check_objectives(recipe.objectives, (entry.task for entry in recipe.data.mixture))  # before weights are loaded
    check_best(recipe)
    accelerator = sharding.start(section, out)
    set_seed(section.seed)
    m = recipe.model
    speed.refuse(recipe, accelerator)
    if m.quantization and sharding.is_sharded(accelerator):
        raise ConfigError(
            f"model.quantization: packed matrices cannot be sharded (got {m.quantization} under "
            f"{accelerator.distributed_type.value}); take the profile ddp, zero1 or zero2"
        )
    last = (out / "last").resolve()
    resuming = resume and last.exists()
    _agreed(out, last.name if resuming else "nothing")
    if resuming and lora.is_full(m):
        model = load.load(last, dtype="float32" if sharding.trains_in_float32(accelerator) else m.dtype)
    else:
        model = load.base(m.base, m.family, m.codec, m.options, dtype=m.dtype, quantization=m.quantization)
    model.settings |= {"base": m.base, "base_options": m.options, "quantization": m.quantization}
    lora.apply(model, m)
    if sharding.trains_in_float32(accelerator):  # before weights of a checkpoint come in, which are float32 too
        lora.precise(model, m)
    speed.apply(model, recipe)
    if section.vision_cache:
        model.vision_cache = _vision_cache(model, section.vision_cache, accelerator)
    if section.gradient_checkpointing:
        model.recompute_activations()
    module = Trainable(model, recipe.objectives, in_step=sharding.in_step(accelerator))
    sources = Sources(recipe, model, accelerator.process_index, accelerator.num_processes)
    if told and accelerator.is_main_process:
        tqdm.write(before_training(recipe, accelerator, sources), file=sys.stderr)
    model.settings["templates"] = {**model.templates, **sources.templates()}
    model.settings["dataset_templates"] = {**model.dataset_templates, **sources.dataset_templates()}
    model.settings["task_options"] = {**model.task_options, **recipe.tasks}
    if recipe.eval.every:  # what cannot be evaluated is told now, not after hours
        for name, protocol in parse_suites(recipe.eval.protocols).items():
            check_protocol(protocol, model.codec, f"eval {name}", model)
    opt = optimizer(model, module.objectives, section)
    state: dict[str, Any] = checkpoint.resume(last, model, module.objectives) if resuming else {"step": 0}
    module, opt = sharding.prepare(accelerator, section, module, opt)
    if resuming:
        sharding.resume(accelerator, module, opt, state["optimizer"], last)
        sources.loader.load_state_dict(state["loader"])
        _set_random(state["random"], accelerator.process_index)
    module.train()
    if accelerator.is_main_process:
        out.mkdir(parents=True, exist_ok=True)
        recipe.save(out / "recipe.yaml")
        if section.report_to:
            accelerator.init_trackers("tensorboard")
    return _Run(recipe, out, accelerator, model, module, opt, sources, state["step"], best=state.get("best"))


def _agreed(out: Path, start: str) -> None:
    """Refuse processes that would go on from different checkpoints: they train as one only from the same step.

    Raises:
        ConfigError: the run folder is not the same one on every machine.
    """
    starts = gather_object([start])
    if len(set(starts)) > 1:
        raise ConfigError(
            f"{out}: processes find different checkpoints to resume from (got {', '.join(starts)}); put --out on a "
            "folder that all machines share"
        )


def _vision_cache(model: UfoModel, gigabytes: float, accelerator: Accelerator) -> VisionCache:
    """Memory for what the tower says.

    Raises:
        ConfigError: the tower's output is no constant, or processes wait for each other in it.
    """
    if sharding.in_step(accelerator) is not None:
        raise ConfigError(
            "train.vision_cache: a process that knows its images would leave the tower out and let the others wait "
            f"(got {accelerator.distributed_type.value}); take the profile ddp, or set train.vision_cache: 0"
        )
    return VisionCache(model.vlm, gigabytes)


def _step(run: _Run, window: list[Batch]) -> dict[str, LossTerm]:
    """One optimizer step over the micro-batches of a window; the loss is a mean over all ranks' and all of these.

    Returns:
        Each term's sum over the window (this rank) and its count over window and ranks.
    """
    accelerator, section = run.accelerator, run.recipe.train
    plain: Trainable = accelerator.unwrap_model(run.module)
    counted = [plain.counts(b) for b in window]
    names = sorted(counted[0])
    notice = torch.tensor(float(run.notice.given), device=accelerator.device)  # goes along: a step has one reduction
    local = torch.stack([*(torch.stack([c[n].float() for c in counted]).sum() for n in names), notice])  # [terms + 1]
    *told, notices = accelerator.reduce(local, "sum")
    counts = dict(zip(names, told, strict=True))
    run.stopping = bool(notices)
    # accelerate divides by the accumulation steps and DDP by the ranks; both means are undone here, counts did it.
    undo = section.gradient_accumulation_steps * accelerator.num_processes
    set_lr(run.optimizer.param_groups, factor(section, run.step, run.seconds))
    totals = {n: torch.zeros((), device=accelerator.device) for n in names}
    for batch in window:
        with accelerator.accumulate(run.module):
            terms = run.module(batch)
            accelerator.backward(sum(terms[n].total / counts[n].clamp_min(1.0) for n in names) * undo)
            for n in names:
                totals[n] += terms[n].total.detach()
            if accelerator.sync_gradients:
                sharding.complete_gradients(accelerator, run.optimizer)
                accelerator.clip_grad_norm_(run.module.parameters(), section.max_grad_norm)
            run.optimizer.step()
            run.optimizer.zero_grad()
    return {n: LossTerm(totals[n], counts[n]) for n in names}


def _save(run: _Run, best: bool = False) -> int:
    """Write a checkpoint: whole weights from the main process, and whatever each process has for itself.

    Args:
        run: what is saved.
        best: link it as the best so far; it then stays however many come after.
    """
    accelerator = run.accelerator
    accelerator.wait_for_everyone()
    state = {
        "step": run.step,
        "optimizer": sharding.optimizer_state(accelerator, run.optimizer),
        "loader": run.sources.loader.state_dict(),
        "random": gather_object([_random()]),
        "best": run.best,
    }
    part = checkpoint.part(run.out, run.step)
    with sharding.state_dict(accelerator, run.module) as weights:
        if accelerator.is_main_process:
            checkpoint.write(part, run.model, weights, run.recipe, state)
        accelerator.wait_for_everyone()
    sharding.save_shards(accelerator, run.module, part)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        checkpoint.complete(part, run.out, run.step, run.recipe.train.save_total_limit, best)
    accelerator.wait_for_everyone()
    return run.step


def _random() -> dict[str, torch.Tensor]:
    """The states of this process's generators."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _set_random(states: list[dict[str, torch.Tensor]], process: int) -> None:
    """Go on with the generators of a checkpoint; of another number of processes, with those of one of them."""
    own = states[process % len(states)]
    torch.set_rng_state(own["cpu"])
    if "cuda" in own and torch.cuda.is_available():
        torch.cuda.set_rng_state(own["cuda"])


def _evaluate(run: _Run, log: _Log) -> bool:
    """Score the protocols of the recipe; whether ``eval.best`` names a value that is better than before."""
    run.module.eval()
    scores: dict[str, float] = {}
    with sharding.whole(run.accelerator, run.module):
        for name, protocol in parse_suites(run.recipe.eval.protocols).items():
            results = evaluate(run.model, protocol, limit=run.recipe.eval.limit, progress=False)
            scores |= {f"{name}/{split}/{k}": v for split, values in results.items() for k, v in values.items()}
        run.accelerator.wait_for_everyone()
    log.write(scores)
    run.module.train()
    return _is_best(run, scores)


def _is_best(run: _Run, scores: Mapping[str, float]) -> bool:
    """Whether the value that ``eval.best`` names is better than all before; it is the same on every process.

    Raises:
        ConfigError: there is no such value.
    """
    asked = run.recipe.eval.best
    if not asked:
        return False
    name = asked.removeprefix("-")
    if name not in scores:
        raise ConfigError(f"eval.best: no such value (got {asked!r}); {did_you_mean(name, list(scores))}")
    value = -scores[name] if asked.startswith("-") else scores[name]
    if math.isnan(value) or (run.best is not None and value <= run.best):
        return False
    run.best = value
    return True


class _Log:
    """Means since the last line: to the bar, the trackers and ``log.jsonl``."""

    def __init__(self, run: _Run, bar: tqdm[Any]) -> None:
        self.run = run
        self.bar = bar
        self.sums: dict[str, LossTerm] = {}  # totals of this rank, counts of all
        self.tokens = 0
        self.since = time.monotonic()

    def add(self, terms: dict[str, LossTerm], window: list[Batch]) -> None:
        """Take in one step."""
        self.tokens += sum(int((b.segment != -2).sum()) for b in window)
        for name, term in terms.items():
            old = self.sums.get(name)
            self.sums[name] = LossTerm(old.total + term.total, old.count + term.count) if old else term
        if _due(self.run.step, self.run.recipe.train.logging_steps):
            self.flush()

    def flush(self) -> None:
        """Write what has gathered, over all ranks."""
        if not self.sums:
            return
        device = self.run.accelerator.device
        loader = self.run.sources.loader
        numbers = [float(n) for n in (self.tokens, sum(loader.skipped), sum(loader.dropped))]
        own = [*(t.total for t in self.sums.values()), *torch.tensor(numbers, device=device)]
        *totals, tokens, skipped, dropped = self.run.accelerator.reduce(torch.stack(own), "sum").tolist()
        terms = zip(self.sums.items(), totals, strict=True)
        values = {f"loss/{n}": total / float(t.count) for (n, t), total in terms if float(t.count)}
        values["lr"] = float(self.run.optimizer.param_groups[0]["lr"])
        values["tokens_per_second"] = tokens / max(1e-9, time.monotonic() - self.since)
        values |= {f"mixture/{name}": share for name, share in self.run.sources.shares().items()}
        # Since the start, and only where there are any: rows with a bad sample, and those too long or without answers.
        values |= {f"rows/{n}": count for n, count in (("skipped", skipped), ("dropped", dropped)) if count}
        shown = {k.removeprefix("loss/"): f"{v:.3f}" for k, v in values.items() if k.startswith("loss/")}
        self.bar.set_postfix({**shown, "tok/s": f"{values['tokens_per_second']:.0f}"}, refresh=False)
        self.write(values)
        self.sums, self.tokens, self.since = {}, 0, time.monotonic()

    def write(self, values: dict[str, float]) -> None:
        """One line of ``log.jsonl`` and one record of every tracker."""
        self.run.accelerator.log(values, step=self.run.step)
        if not self.run.accelerator.is_main_process:
            return
        line = {"step": self.run.step, "seconds": round(time.monotonic() - self.run.started, 2), **values}
        with (self.run.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
