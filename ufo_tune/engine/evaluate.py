"""Run a protocol by generation, never teacher-forced: ask, decode, understand, score.

    results = evaluate(model, Protocol.load("scenes_rec"), limit=100)   # {"test": {"Acc@0.5": ..., "n": ...}}
    results = evaluate_checkpoint("runs/x", "scenes_rec,scenes_res:test", out=Path("runs/x/eval"))

Samples are split over processes without padding and metrics merge by sample, so 1 and N processes give equal numbers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from torch import nn
from tqdm.auto import tqdm

import ufo_tune
from ufo_tune import plugins
from ufo_tune.config import Protocol
from ufo_tune.core.types import Prediction, Sample, Samples
from ufo_tune.data.collate import Collator
from ufo_tune.engine import report
from ufo_tune.engine.load import load
from ufo_tune.engine.predictions import PredictionLog, claim, fingerprint, from_row, to_row
from ufo_tune.engine.sources import Asked, ask, open_dataset
from ufo_tune.errors import ConfigError, EvalError

Results = dict[str, dict[str, float]]
"""Split -> metric -> value; always with ``n``, ``invalid`` and ``seconds`` (wall time of this run)."""
_Group = tuple[int, ...]


def evaluate(
    model: Any, protocol: Protocol, *, limit: int = 0, out: Path | None = None, progress: bool = True
) -> Results:
    """Score a model on every split of a protocol.

    Args:
        model: a ``GroundingModel``, on its device.
        protocol: what to ask and how to score it.
        limit: the first so many samples of each split; 0 means all.
        out: folder for ``metrics.json`` and, per split, ``predictions.jsonl`` and pictures; a second run goes on there.
        progress: show a bar.

    Raises:
        ConfigError: a name or option of the protocol does not resolve.
        DataError: the data cannot be read.
        EvalError: predictions cannot be scored, or ``out`` holds those of other weights or another protocol.
    """
    # The wording the weights were trained with, unless the protocol fixes one.
    template = protocol.template or getattr(model, "templates", {}).get(protocol.task, "")
    asked = ask(protocol.task, template, protocol.task_options)
    metric = plugins.find("metrics", protocol.metric).Metric
    plugins.check_options(f"metrics/{protocol.metric}", metric, protocol.metric_options)
    if protocol.pack > 1 and asked.template.image_position != "before":
        raise ConfigError(
            f"protocol: pack needs a template with image_position: before (got {asked.template.name}); set pack: 1"
        )
    state = PartialState()
    weights = fingerprint(model) if out is not None else ""
    run = _Run(model, protocol, asked, state, weights, progress and state.is_main_process)
    training = isinstance(model, nn.Module) and model.training
    if training:
        model.eval()
    try:
        results = {s: run.split(s, limit, None if out is None else out / s) for s in protocol.splits}
    finally:
        if training:
            model.train()
    if out is not None and state.is_main_process:
        _write(out, {**run.origin(), "ufo_tune": ufo_tune.__version__, "limit": limit, "splits": results})
    return results


def evaluate_checkpoint(
    path: str | Path, suites: str | Sequence[str], *, limit: int = 0, out: Path | None = None, progress: bool = True
) -> dict[str, Results]:
    """Load a model and score it on several protocols.

    Args:
        path: a folder that ``engine.load.load`` reads.
        suites: ``name:split,name``; a name of ``eval/`` or a YAML file, with one split or all of the protocol's.
        limit: the first so many samples of each split; 0 means all.
        out: folder for ``metrics.json``, ``report.html`` and one folder for each protocol.
        progress: show a bar.

    Returns:
        Protocol -> split -> metric -> value.

    Raises:
        ConfigError: no such protocol or split.
        ModelError: no such model, or a damaged one.
    """
    protocols = parse_suites(suites)
    state = PartialState()
    model = load(path).to(state.device)
    results = {
        name: evaluate(model, protocol, limit=limit, out=out and out / name, progress=progress)
        for name, protocol in protocols.items()
    }
    if out is not None and state.is_main_process:
        _write(out, {"checkpoint": str(path), "limit": limit, "protocols": results})
        report.write_evaluation(out, str(path), {name: out / name for name in protocols})
    return results


def parse_suites(suites: str | Sequence[str]) -> dict[str, Protocol]:
    """``name:split,name`` as protocols by name, each with the splits asked for.

    Raises:
        ConfigError: no such protocol or split, or none at all.
    """
    parts = suites.split(",") if isinstance(suites, str) else suites
    splits: dict[str, list[str]] = {}
    protocols: dict[str, Protocol] = {}
    for part in filter(None, (p.strip() for p in parts)):
        name, _, split = part.partition(":")
        protocol, key = Protocol.load(name), Path(name).stem
        if split and split not in protocol.splits:
            hint = plugins.did_you_mean(split, protocol.splits)
            raise ConfigError(f"{name}: no such split (got {split!r}); {hint}")
        protocols[key] = protocol
        splits.setdefault(key, []).extend([split] if split else protocol.splits)
    if not protocols:
        raise ConfigError(f"suite: names no protocol (got {suites!r}); give names of eval/ by comma")
    return {k: p.model_copy(update={"splits": tuple(dict.fromkeys(splits[k]))}) for k, p in protocols.items()}


@dataclass(slots=True)
class _Run:
    """What the splits of one protocol share."""

    model: Any
    protocol: Protocol
    asked: Asked
    state: PartialState
    weights: str
    progress: bool

    def origin(self) -> dict[str, Any]:
        """Whose predictions these are; the splits are no part of it, so that one can be added."""
        document = self.protocol.model_dump(mode="json", exclude={"splits", "reference", "description"})
        return {"protocol": document, "template": self.asked.template.name, "weights": self.weights}

    def split(self, split: str, limit: int, folder: Path | None) -> dict[str, float]:
        """Predict and score one split; every process returns the same values but ``seconds``."""
        started = time.monotonic()
        p = self.protocol
        samples = open_dataset(p.dataset, p.root, split, p.task, p.options)
        groups = _groups(samples, limit, p.pack)[self.state.process_index :: self.state.num_processes]
        metric = plugins.find("metrics", p.metric).Metric(**p.metric_options)
        sources: list[str] = []
        shown: list[tuple[Sample, Prediction]] = []
        with ExitStack() as stack:
            log = stack.enter_context(self._log(folder)) if folder is not None else None
            total = sum(map(len, groups))
            bar = stack.enter_context(tqdm(total=total, desc=f"eval {split}", disable=not self.progress, unit="sample"))
            for sample, prediction in self._predictions(samples, groups, log):
                metric.update(sample, prediction)
                sources.append(sample.source)
                bar.update()
                if len(shown) < report.GALLERY:
                    shown.append((sample, prediction))
        for other in gather_object([metric])[1:] if self.state.num_processes > 1 else ():
            metric.merge(other)
        _refuse_doubles(gather_object(sources), split)
        if log is not None and folder is not None and self.state.is_main_process:
            log.collect()
            report.draw_gallery(folder, shown, lambda: plugins.find("metrics", p.metric).Metric(**p.metric_options))
        return {**metric.compute(), "seconds": round(time.monotonic() - started, 3)}

    def _log(self, folder: Path) -> PredictionLog:
        """The split's log: claimed by the first process, read by all, before any of them writes."""
        if self.state.is_main_process:
            claim(folder, self.origin())
        self.state.wait_for_everyone()
        log = PredictionLog(folder, self.state.process_index)
        self.state.wait_for_everyone()
        return log

    def _predictions(
        self, samples: Samples, groups: Sequence[_Group], log: PredictionLog | None
    ) -> Iterator[tuple[Sample, Prediction]]:
        done = {} if log is None else log.done
        collator = Collator(
            self.model.processor, self.asked.task, self.asked.template, self.model.codec, self.asked.encode_options
        )
        size = self.protocol.decode.batch_size
        for start in range(0, len(groups), size):
            rows = [tuple(samples[i] for i in group) for group in groups[start : start + size]]
            yield from ((s, done[s.source]) for row in rows for s in row if s.source in done)
            waiting = [left for row in rows if (left := tuple(s for s in row if s.source not in done))]
            if waiting:
                for sample, written in self._answer(collator, waiting):
                    if log is not None:
                        log.add(written)
                    # Scored as it will be read back: a resumed evaluation gives the same digits.
                    yield sample, from_row(written)

    def _answer(self, collator: Collator, rows: list[tuple[Sample, ...]]) -> Iterator[tuple[Sample, dict[str, Any]]]:
        task, codec = self.asked.task, self.model.codec
        flat = [s for row in rows for s in row]
        batch = collator.rows(rows, None)
        if batch is None:
            raise EvalError(f"{flat[0].source}: no row fits the collator's length (got {len(rows)}); raise max_length")
        grammars = [task.grammar(s, codec) if hasattr(task, "grammar") else None for s in flat]
        answers = self.model.predict(batch.to(self.model.device), self.protocol.decode, grammars)
        if len(answers) != len(flat):
            raise EvalError(f"{flat[0].source}: {len(answers)} answers for {len(flat)} samples; mend model.predict")
        for sample, answer in zip(flat, answers, strict=True):
            if isinstance(answer, Prediction):  # a one-tower model understands itself
                yield sample, to_row(sample, answer)
            else:
                understood = task.decode(answer, sample, codec, **self.asked.decode_options)
                yield sample, to_row(sample, understood, answer.texts)


def _groups(samples: Samples, limit: int, pack: int) -> list[_Group]:
    """Indices of the samples of each row: up to ``pack`` of one image; an image without id stands alone."""
    count = min(limit or len(samples), len(samples))
    if pack == 1:
        return [(i,) for i in range(count)]
    ids = getattr(samples, "image_ids", None) or [samples[i].image_id for i in range(count)]
    images: dict[str, list[int]] = {}
    for i, image in enumerate(ids[:count]):
        images.setdefault(image or f"\0{i}", []).append(i)
    return [tuple(g[s : s + pack]) for g in images.values() for s in range(0, len(g), pack)]


def _refuse_doubles(sources: list[str], split: str) -> None:
    if len(set(sources)) < len(sources):
        double = next(s for s in sources if sources.count(s) > 1)
        raise EvalError(f"{split}: two samples have one source (got {double!r}); the dataset must number its samples")


def _write(out: Path, document: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
