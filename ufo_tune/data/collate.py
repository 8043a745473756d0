"""Samples to a batch: load the image, change it, ``task.encode``, lay out, pad. Runs in loader workers; no weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from ufo_tune.core.codec import Codec
from ufo_tune.core.packing import packs
from ufo_tune.core.types import Batch, Dialogue, Sample, Turn
from ufo_tune.data.images import sample_image
from ufo_tune.errors import ConfigError
from ufo_tune.models.processor import EncodedRow, VLMProcessor
from ufo_tune.models.vision_cache import key_of
from ufo_tune.templates import Template

Step = Callable[[np.ndarray, Sample, np.random.Generator], tuple[np.ndarray, Sample]]
"""What happens to an image [H, W, 3] uint8 and its sample in training, before the task puts it into words."""


class Collator:
    """Turns groups of samples, one group per batch row, into a ``Batch``.

    Samples of one group show the same image and are packed: each keeps its own question, all share the image.
    In training, rows of at most ``pack_tokens`` tokens together share a row of the decoder (``core.packing``), and with
    ``name_images`` the batch says which pixels it shows (``models.vision_cache``).
    """

    def __init__(
        self,
        processor: VLMProcessor,
        task: ModuleType,
        template: Template,
        codec: Codec,
        options: Mapping[str, Any],
        steps: Sequence[Step] = (),
        max_length: int = 1 << 30,
        pack_tokens: int = 0,
        name_images: bool = False,
    ) -> None:
        self.processor = processor
        self.task = task
        self.template = template
        self.codec = codec
        self.options = dict(options)
        self.steps = tuple(steps)
        self.max_length = max_length
        self.pack_tokens = pack_tokens
        self.name_images = name_images

    def rows(self, groups: Sequence[tuple[Sample, ...]], rng: np.random.Generator | None) -> Batch | None:
        """A batch of one row per group.

        Args:
            groups: the samples of each row.
            rng: of wordings, grid points and augmentation; None builds questions only (inference).
        Returns:
            The batch, or None where no row can be used. A row longer than ``max_length`` cannot, and in training
            neither can one without answers: there is nothing to learn from it.
        """
        rows = [self.row(group, rng) for group in groups]
        if rng is not None:
            for row, seed in zip(rows, rng.integers(1 << 62, size=len(rows)).tolist(), strict=True):
                row.seed = seed
        kept = [r for r in rows if len(r.row.ids) <= self.max_length and (rng is None or any(r.answer_counts))]
        return self._stacked(kept, train=rng is not None) if kept else None

    def _stacked(self, rows: list[EncodedRow], *, train: bool) -> Batch:
        """The batch of some rows; in training those that share a row of the decoder stand beside each other."""
        lengths = [len(r.row.ids) for r in rows]
        shared = packs(lengths, self.pack_tokens) if train and self.pack_tokens else []
        if shared:
            rows = [rows[i] for pack in shared for i in pack]
        batch = self.processor.stack(rows)
        if len(shared) < len(rows):  # else none found company
            batch.packs = tuple(tuple(lengths[i] for i in pack) for pack in shared)
        if train and self.name_images:
            batch.image_keys = tuple((key_of(p), self.processor.tower_rows(p)) for r in rows for p in r.pixels)
        return batch

    def row(self, group: tuple[Sample, ...], rng: np.random.Generator | None) -> EncodedRow:
        """One encoded row."""
        image = sample_image(group[0])
        samples = group
        if self.steps and rng is not None and image is not None:
            if len(group) > 1:
                raise ConfigError("data.augment: cannot move samples packed in one row (got pack > 1); use one of them")
            moved = group[0]
            for step in self.steps:
                image, moved = step(image, moved, rng)
            samples = (moved,)
        dialogues = [self.task.encode(s, self.template, self.codec, rng, **self.options) for s in samples]
        counts = tuple(len(d.turns[-1].answers) for d in dialogues)
        return self.processor.encode(pack(dialogues, group[0].source), image, samples, counts, train=rng is not None)


def pack(dialogues: Sequence[Dialogue], source: str) -> Dialogue:
    """Join dialogues about one image into one whose answers carry their own questions.

    Raises:
        ConfigError: a question or an earlier turn stands in the shared prompt, so it cannot differ between answers.
    """
    if len(dialogues) == 1:
        return dialogues[0]
    for d in dialogues:
        if len(d.turns) > 1:
            raise ConfigError(
                f"{source}: a sample with earlier turns cannot share its row (got {len(d.turns)} turns and pack > 1); "
                "set pack: 1, or keep one turn of each conversation"
            )
        if d.crops or d.turns[0].question or any(a.question is None for a in d.turns[0].answers):
            raise ConfigError(
                f"{source}: only single-answer tasks with the image before the question, and no crops, can be packed; "
                "set pack: 1 or use a template with image_position: before"
            )
    first = dialogues[0]
    return Dialogue(
        turns=(Turn("", tuple(a for d in dialogues for a in d.turns[0].answers)),),
        image_attention=first.image_attention,
        image_position=first.image_position,
    )
