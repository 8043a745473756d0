"""Run a protocol by generation, never teacher-forced: ask, decode, understand, score.

    results = evaluate(model, Protocol.load("scenes_rec"), limit=100)   # {"test": {"Acc@0.5": ..., "n": ...}}
    results = evaluate_checkpoint("runs/x", "scenes_rec,scenes_res:test", out=Path("runs/x/eval"))

Whole batches are dealt to processes, without padding, and metrics merge by sample: 1 and N processes give equal numbers
and equal files. Killed at any point, the same command goes on: no answer that was written is asked for again.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env
from torch import nn
from tqdm.auto import tqdm

from ufo_tune import __version__, outputs, plugins
from ufo_tune.config import Protocol
from ufo_tune.core.types import Samples
from ufo_tune.data.open import open_dataset
from ufo_tune.engine import predictions, report
from ufo_tune.engine.analysis import analyse
from ufo_tune.engine.answering import Answering, batched, grouped
from ufo_tune.engine.check import check_protocol
from ufo_tune.engine.load import load
from ufo_tune.engine.predictions import PredictionLog, claim, fingerprint
from ufo_tune.engine.sanity import Line
from ufo_tune.engine.sources import Asked, ask_protocol
from ufo_tune.engine.suites import parse_suites
from ufo_tune.errors import ConfigError, EvalError

Results = dict[str, dict[str, float]]
"""Split -> metric -> value; always with ``n``, ``invalid`` and ``seconds`` (wall time of this run)."""
Sanity = dict[str, list[Line]]
"""Split -> what was looked at; empty where no files were asked for."""


def evaluate(
    model: Any, protocol: Protocol, *, limit: int = 0, out: str | Path | None = None, progress: bool = True
) -> Results:
    """Score a model on every split of a protocol.

    Args:
        model: a ``GroundingModel``, on its device.
        protocol: what to ask and how to score it.
        limit: the first so many samples of each split; 0 means all.
        out: folder for ``metrics.json`` and, per split, ``predictions.jsonl`` and pictures; what died is gone on with.
        progress: show a bar.
    Raises:
        ConfigError: a name or option of the protocol does not resolve, or ``out`` cannot be a folder.
        DataError: the data cannot be read.
        EvalError: predictions cannot be scored, or ``out`` holds those of other weights or another protocol.
    """
    out = None if out is None else outputs.folder(out)
    results = _evaluate(model, protocol, limit, out, progress)
    _release({out: protocol} if out else {})
    return results


def evaluate_checkpoint(
    path: str | Path,
    suites: str | Sequence[str],
    *,
    limit: int = 0,
    out: str | Path | None = None,
    progress: bool = True,
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
        ConfigError: no such protocol or split, or ``out`` cannot be a folder.
        ModelError: no such model, or a damaged one.
    """
    protocols = parse_suites(suites)
    out = None if out is None else Path(out)
    if out is not None and not Path(path).is_file():  # which is refused below, and not the folder in it
        outputs.folder(out)
    state = _processes()
    model = load(path).to(state.device)
    for name, protocol in protocols.items():  # what the last one lacks is told before the first one is asked
        check_protocol(protocol, model.codec, f"eval {name}", model)
    results = {n: _evaluate(model, p, limit, out and out / n, progress) for n, p in protocols.items()}
    if out is not None and state.is_main_process:
        origin = {"checkpoint": str(path), "weights": fingerprint(model), "limit": limit}
        scored = {n: _before(out / n) for n in protocols}  # with splits of earlier calls
        found = {"protocols": {n: d["splits"] for n, d in scored.items()}}
        found |= {"sanity": {n: d["sanity"] for n, d in scored.items()}}
        document = _added(_before(out), origin, found)
        _write(out, document)
        report.write_evaluation(out, str(path), {n: out / n for n in document["protocols"]})
    # Only now: killed in the last protocol, it must not ask the first one again.
    _release({out / n: p for n, p in protocols.items()} if out else {})
    return results


def _evaluate(model: Any, protocol: Protocol, limit: int, out: Path | None, progress: bool) -> Results:
    """``evaluate`` without the last word: a later call with the same ``out`` goes on with what is there."""
    asked = ask_protocol(protocol, model)
    metric = plugins.find("metrics", protocol.metric).Metric
    plugins.check_options(f"metrics/{protocol.metric}", metric, protocol.metric_options)
    if protocol.pack > 1 and asked.template.image_position != "before":
        raise ConfigError(
            f"protocol: pack needs a template with image_position: before (got {asked.template.name}); set pack: 1"
        )
    state = _processes()
    run = _Run(model, protocol, asked, state, fingerprint(model) if out else "", progress and state.is_main_process)
    training = isinstance(model, nn.Module) and model.training
    if training:
        model.eval()
    try:
        results = {s: run.split(s, limit, out and out / s) for s in protocol.splits}
    finally:
        if training:
            model.train()
    if out is not None and state.is_main_process:
        _write(out, run.document(out, limit, results))
    return results


@dataclass(slots=True)
class _Run:
    """What the splits of one protocol share."""

    model: Any
    protocol: Protocol
    asked: Asked
    state: PartialState
    weights: str
    progress: bool
    sanity: Sanity = field(default_factory=dict)

    def origin(self) -> dict[str, Any]:
        """Whose predictions these are; the splits are no part of it, so that one can be added."""
        document = self.protocol.model_dump(mode="json", exclude={"splits", "reference", "description"})
        template = self.asked.template.name
        codec = self.model.codec.to_dict()
        made_by = {"weights": self.weights, "codec": codec, "ufo_tune": __version__}
        return {"protocol": document, "template": template, **made_by}

    def document(self, out: Path, limit: int, results: Results) -> dict[str, Any]:
        """``metrics.json``: these splits, and those that were scored there before in the same way."""
        origin = {**self.origin(), "limit": limit}
        before = _before(out)
        before["protocol"] = {k: v for k, v in before.get("protocol", {}).items() if k in origin["protocol"]}
        document = _added(before, origin, {"splits": results, "sanity": _plain(self.sanity)})
        document["protocol"] = self.protocol.model_dump(mode="json") | {"splits": list(document["splits"])}
        return document

    def split(self, split: str, limit: int, folder: Path | None) -> dict[str, float]:
        """Predict and score one split; every process returns the same values but ``seconds``."""
        started = time.monotonic()
        p = self.protocol
        samples = open_dataset(p.dataset, p.root, split, p.task, p.options)
        batches = batched(grouped(samples, limit, p.pack), p.decode.batch_size)
        groups = [g for some in batches[self.state.process_index :: self.state.num_processes] for g in some]
        answering = Answering(self.model, self.asked, p.decode, p.tiling)
        metric = self._metric()
        sources: list[str] = []
        with ExitStack() as stack:
            log = stack.enter_context(self._log(folder)) if folder is not None else None
            bar = stack.enter_context(
                tqdm(total=sum(map(len, groups)), desc=f"eval {split}", disable=not self.progress, unit="sample")
            )
            for sample, prediction in answering.predictions(samples, groups, log):
                metric.update(sample, prediction)
                sources.append(sample.source)
                bar.update()
        metric, *others = gather_object([metric])
        for other in others:
            metric.merge(other)
        sources = gather_object(sources)
        source, times = Counter(sources).most_common(1)[0] if sources else ("", 0)
        if times > 1:
            raise EvalError(f"{source}: {times} samples have this source; the dataset must tell its samples apart")
        if folder is not None:
            self._look_behind(samples, len(sources), split, folder)
        return {**metric.compute(), "seconds": round(time.monotonic() - started, 3)}

    def _look_behind(self, samples: Samples, count: int, split: str, folder: Path) -> None:
        """Files of a split that was predicted; every process helps, the first one writes."""
        analysis = analyse(samples, folder, range(count), self.model.codec, self._metric, self.state)
        self.sanity[split] = analysis.sanity
        if self.state.is_main_process:
            predictions.join(folder, [source for source, _ in analysis.samples])
            analysis.write(folder)
            shown = {k: list(predictions.cases(samples, folder, which)) for k, which in analysis.pictures.items()}
            report.draw_gallery(folder, shown, self._metric)

    def _metric(self) -> Any:
        return plugins.find("metrics", self.protocol.metric).Metric(**self.protocol.metric_options)

    def _log(self, folder: Path) -> PredictionLog:
        """The split's log: claimed by the first process, read by all, before any of them writes."""
        if self.state.is_main_process:
            claim(folder, self.origin())
        self.state.wait_for_everyone()
        log = PredictionLog(folder, self.state.process_index)
        self.state.wait_for_everyone()
        return log


def _processes() -> PartialState:
    """Who runs with us; accelerate finds no partners on CPUs unless it is told that it is on one."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())


def _release(done: Mapping[Path, Protocol]) -> None:
    """Say that nothing is missing, when all files are there."""
    state = _processes()
    state.wait_for_everyone()  # no process reads them any more
    if state.is_main_process:
        for folder, protocol in done.items():
            for split in protocol.splits:
                predictions.release(folder / split)


def _plain(sanity: Any) -> Any:
    """Lines as plain values, however deep they lie."""
    if isinstance(sanity, Line):
        return sanity.to_json()
    if isinstance(sanity, list):
        return [_plain(value) for value in sanity]
    return {key: _plain(value) for key, value in sanity.items()}


def _added(before: Mapping[str, Any], origin: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """What was found, beside what a document of the same origin already holds."""
    same = all(before.get(k) == v for k, v in origin.items())
    return {**origin, **{k: {**before[k], **v} if same else v for k, v in found.items()}}


def _before(out: Path) -> dict[str, Any]:
    """``metrics.json`` of an earlier call, or nothing."""
    path = out / "metrics.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise EvalError(f"{path}: cannot be read ({error}); delete it, predictions beside it stay") from error
    return found


def _write(out: Path, document: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
