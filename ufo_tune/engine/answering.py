"""Ask a model about samples and understand what it says: collate, predict, ``task.decode``.

    answering = Answering(model, ask("rec", "", {}), DecodeSection())
    for sample, prediction in answering.predictions(samples, grouped(samples)): ...

Nothing is scored here: evaluation and prediction share it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ufo_tune.config import DecodeSection, TilingSection
from ufo_tune.core.tiles import Tile
from ufo_tune.core.types import Generation, Prediction, Sample, Samples
from ufo_tune.data.collate import Collator
from ufo_tune.engine.predictions import PredictionLog, from_row, to_row
from ufo_tune.engine.sources import Asked
from ufo_tune.engine.tiling import check_tiling, parts
from ufo_tune.errors import EvalError

Group = tuple[int, ...]
"""Indices of the samples that share a row."""


class Answering:
    """A model, a task and how to decode.

    Args:
        model: a ``GroundingModel``, on its device.
        asked: task, template and options.
        decode: limits of generation, and how many rows (or tiles) make a batch.
        tiling: how pictures are cut; None: they are seen whole.
    Raises:
        ConfigError: the task cannot join tiles.
    """

    def __init__(self, model: Any, asked: Asked, decode: DecodeSection, tiling: TilingSection | None = None) -> None:
        check_tiling(tiling, asked, "tiling")
        self.tiling = tiling
        self.model = model
        self.asked = asked
        self.decode = decode
        self.collator = Collator(model.processor, asked.task, asked.template, model.codec, asked.encode_options)

    def predictions(
        self, samples: Samples, groups: Sequence[Group], log: PredictionLog | None = None
    ) -> Iterator[tuple[Sample, Prediction]]:
        """Every sample of the groups with its prediction; a batch that ``log`` holds already is not asked again.

        One that it holds in part is asked whole, and answers that are written stay: sums of floating point depend on
        who shares a batch, and a resumed evaluation scores to the same digits.
        """
        done: Mapping[str, dict[str, Any]] = {} if log is None else log.done
        for batch in batched(groups, self.decode.batch_size):
            rows = [tuple(samples[i] for i in group) for group in batch]
            yield from ((s, from_row(done[s.source])) for row in rows for s in row if s.source in done)
            if self.tiling is not None:  # every sample is asked by itself
                rows = [left for row in rows if (left := tuple(s for s in row if s.source not in done))]
            waiting = any(s.source not in done for row in rows for s in row)
            for sample, written in self._answer(rows) if waiting else ():
                if sample.source in done:
                    continue
                if log is not None:
                    log.add(written)
                # Given out as it will be read back.
                yield sample, from_row(written)

    def _answer(self, rows: Sequence[tuple[Sample, ...]]) -> Iterator[tuple[Sample, dict[str, Any]]]:
        """One batch: each sample with its prediction as a JSON row."""
        task, codec, options = self.asked.task, self.model.codec, self.asked.decode_options
        flat = [s for row in rows for s in row]
        if self.tiling is not None:
            for sample in flat:
                tiles = parts(sample, self.tiling, lambda some: self._ask([(s,) for s in some]), self.decode.batch_size)
                texts: list[str] = []
                joined = task.join(_noted(tiles, texts), sample, codec, **options)
                yield sample, to_row(sample, joined, texts, codec)
            return
        for sample, answer in zip(flat, self._ask(rows), strict=True):
            if isinstance(answer, Prediction):  # a one-tower model understands itself
                yield sample, to_row(sample, answer)
            else:
                yield sample, to_row(sample, task.decode(answer, sample, codec, **options), answer.texts, codec)

    def _ask(self, rows: Sequence[tuple[Sample, ...]]) -> Sequence[Generation | Prediction]:
        """One batch: what the model says to each sample, in row order."""
        task, template = self.asked.task, self.asked.template
        flat = [s for row in rows for s in row]
        batch = self.collator.rows(rows, None)
        if batch is None:
            raise EvalError(f"{flat[0].source}: the collator dropped all of {len(rows)} rows; raise its max_length")
        grammars = [task.grammar(s, self.model.codec, template) if hasattr(task, "grammar") else None for s in flat]
        answers: Sequence[Generation | Prediction] = self.model.predict(
            batch.to(self.model.device), self.decode, grammars
        )
        if len(answers) != len(flat):
            raise EvalError(f"{flat[0].source}: {len(answers)} answers for {len(flat)} samples; mend model.predict")
        return answers


def _noted(tiles: Iterator[tuple[Tile, Generation]], texts: list[str]) -> Iterator[tuple[Tile, Generation]]:
    """The tiles as they come; of their answers only the words are kept, in ``texts``."""
    for tile, generation in tiles:
        texts += generation.texts
        yield tile, generation


def grouped(samples: Samples, limit: int = 0, pack: int = 1) -> list[Group]:
    """Which samples share a row: up to ``pack`` of one image; an image without id stands alone.

    Args:
        samples: a dataset; its ``image_ids``, where it has them, save opening every sample.
        limit: the first so many samples; 0 means all.
        pack: most samples of a row.
    """
    count = min(limit or len(samples), len(samples))
    if pack == 1:
        return [(i,) for i in range(count)]
    ids = getattr(samples, "image_ids", None) or [samples[i].image_id for i in range(count)]
    images: dict[str, list[int]] = {}
    for i, image in zip(range(count), ids, strict=False):
        images.setdefault(image or f"\0{i}", []).append(i)
    return [tuple(g[s : s + pack]) for g in images.values() for s in range(0, len(g), pack)]


def batched(groups: Sequence[Group], size: int) -> list[Sequence[Group]]:
    """The groups in batches of ``size`` rows: the same ones however many processes answer them."""
    return [groups[start : start + size] for start in range(0, len(groups), size)]
