"""The half of a decoder family without weights: how an image and a dialogue become views, tokens and pixels; picklable.

A family supplies only what differs; ``batch`` is written once, here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ufo_tune.core import sequence, tokens
from ufo_tune.core.codec import Codec
from ufo_tune.core.types import NO_SIZE, PROMPT, Batch, Dialogue, Sample, Slot, View
from ufo_tune.core.views import Box, beside, canvas, cut, grid_of, to_canvas, to_known_target, to_target, tokens_of
from ufo_tune.errors import DataError, ModelError

_ANSWER = "\u2983ANSWER\u2984"
_QUESTION = "\u2983QUESTION\u2984"
_IMAGE = "\u2983IMAGE\u2984"
"""Stand-ins while a chat template renders; no tokenizer sees them."""


@dataclass(slots=True)
class EncodedRow:
    """One dialogue before padding."""

    row: sequence.Row
    dialogue: Dialogue
    views: tuple[View, ...]
    pixels: list[dict[str, Tensor]]  # of the image and its crops
    slot_targets: list[Tensor]
    slot_kinds: list[str]
    points: list[tuple[float, float]]  # on the canvas
    samples: tuple[Sample, ...]
    answer_counts: tuple[int, ...]
    seed: int = 0


class VLMProcessor(ABC):
    """A decoder family's half without weights.

    Args:
        hf: the Hugging Face processor.
        codec: of the weights.
        chat_template: default: the checkpoint's own. Content is always one text part, the image's tokens in it, so
            that the image stands where the wording says.
    Raises:
        ModelError: no chat template anywhere, or a token is missing.
    """

    image_token: str
    """The placeholder that one image token replaces."""
    end_token: str = ""
    """Ends an answer; default: the tokenizer's end token."""

    def __init__(self, hf: Any, codec: Codec, chat_template: str = "") -> None:
        self.hf = hf
        self.tokenizer = tokenizer = hf.tokenizer
        self.chat_template = chat_template or hf.chat_template or tokenizer.chat_template
        if not self.chat_template:
            raise ModelError(f"{type(self).__name__}: the base has no chat template; add chat_template.jinja to it")
        self.codec = codec
        self.local_id = tokens.token_id(tokenizer, codec.local_token)
        self.mask_id = tokens.token_id(tokenizer, codec.mask_token)
        self.depth_id = tokens.token_id(tokenizer, codec.depth_token)
        self.end_token = self.end_token or tokenizer.eos_token
        self.end_id = tokens.token_id(tokenizer, self.end_token)
        self.pad_id = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)

    @abstractmethod
    def plan(self, size: tuple[int, int]) -> tuple[View, ...]:
        """How this family sees an image of (H, W) pixels."""

    @abstractmethod
    def pixels(self, image: np.ndarray, views: Sequence[View]) -> dict[str, Tensor]:
        """What one image [H, W, 3] uint8 gives to a batch; ``join_pixels`` makes the vision tower's inputs of it."""

    @abstractmethod
    def target_size(self, views: Sequence[View]) -> tuple[int, int]:
        """(Hc, Wc) at which dense targets are supervised: the canvas in the tower's pixels."""

    def image_text(self, views: Sequence[View]) -> str:
        """The placeholder text of one image."""
        return self.image_token * tokens_of(views)

    def positions(self, row: sequence.Row, views: Sequence[View]) -> Tensor:
        """[A, T] position ids; one axis unless the family says otherwise."""
        return sequence.pad([row.positions], 0)

    def join_pixels(self, pixels: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The inputs of several images as those of one pass."""
        if len(pixels) < 2:
            return dict(pixels[0]) if pixels else {}
        return {name: torch.cat([p[name] for p in pixels]) for name in pixels[0]}

    def tower_rows(self, pixels: dict[str, Tensor]) -> int:
        """How many rows one image is of what the vision tower is given: views, or patches."""
        return len(next(iter(pixels.values())))

    @cached_property
    def image_id(self) -> int:
        """Id of the image placeholder."""
        return tokens.token_id(self.tokenizer, self.image_token)

    def _render(self, dialogue: Dialogue, shown: str) -> tuple[list[tuple[str, bool]], str]:
        """Text of the prompt as runs (text, supervised), and the header that follows an answer's own question.

        ``shown`` are the placeholders of all images; empty without one.

        Raises:
            ModelError: the chat template swallowed a part.
        """
        messages: list[dict[str, Any]] = []
        for number, turn in enumerate(dialogue.turns):
            own = number == len(dialogue.turns) - 1 and any(a.question is not None for a in turn.answers)
            text = _QUESTION if own else turn.question
            if number == 0 and shown:
                text = f"{_IMAGE}\n{text}" if dialogue.image_position == "before" else f"{text}\n{_IMAGE}"
            messages.append(_message("user", text))
            if number < len(dialogue.turns) - 1:
                messages.append(_message("assistant", _ANSWER))
        text = self.tokenizer.apply_chat_template(
            messages, chat_template=self.chat_template, add_generation_prompt=True, tokenize=False
        )
        kept = text.count(_IMAGE) == (1 if shown else 0)
        text = text.replace(_IMAGE, shown)
        text, found, header = text.partition(_QUESTION)
        parts = text.split(_ANSWER)
        if len(parts) != len(dialogue.turns) or not kept:
            raise ModelError("chat template: it drops a message or the image; give one that renders text content")
        runs: list[tuple[str, bool]] = [(parts[0], False)]
        for turn, part in zip(dialogue.turns, parts[1:], strict=False):
            runs += [(turn.answers[0].text or "", True), (part, False)]
        return runs, header if found else ""

    def _prompt_ids(self, runs: Sequence[tuple[str, bool]]) -> list[tuple[list[int], bool]]:
        bos = self.tokenizer.bos_token
        out: list[tuple[list[int], bool]] = []
        for number, (text, supervised) in enumerate(runs):
            if supervised:
                out.append(([*tokens.answer_ids(self.tokenizer, text, self.codec), self.end_id], True))
                continue
            if number > 0 and text.startswith(self.end_token):
                text = text[len(self.end_token) :]  # already there, supervised, as the end of the answer
            first = number == 0 and not (bos and text.startswith(bos))
            out.append((list(tokens.prompt_ids(self.tokenizer, text, self.image_token, special=first)), False))
        return out

    def encode(
        self,
        dialogue: Dialogue,
        image: np.ndarray | None,
        samples: tuple[Sample, ...],
        counts: tuple[int, ...],
        train: bool,
    ) -> EncodedRow:
        """One dialogue as tokens, pixels and dense targets; not yet padded. Without an image it is text only.

        Raises:
            DataError: its words spell the image's token, or the one that ends an answer.
            ModelError: points or masks without an image; the chat template drops a message.
        """
        self._refuse_tokens(dialogue, samples[0].source)
        size = NO_SIZE if image is None else (image.shape[0], image.shape[1])
        if image is None and (dialogue.crops or any(a.point or a.slots for t in dialogue.turns for a in t.answers)):
            raise ModelError(
                f"{samples[0].source}: points, masks and crops need an image (got none); give one, or ask in text"
            )
        views, pixels, shown = ((), [], "") if image is None else self._see(image, dialogue.crops)
        runs, header = self._render(dialogue, shown)
        answers = [
            sequence.AnswerIds(
                ids=[*tokens.answer_ids(self.tokenizer, a.text or "", self.codec), self.end_id] if train else [],
                prefix=self._ids(a.question + header) if a.question is not None else [],
                local=a.point is not None,
            )
            for a in dialogue.turns[-1].answers
        ]
        row = sequence.build(
            self._prompt_ids(runs),
            answers,
            local_id=self.local_id,
            # At inference earlier answers hold slots too; they are words there, without targets.
            slot_ids=frozenset((self.mask_id, self.depth_id)) if train else frozenset(),
            slot_tokens=self.codec.slot_tokens,
        )
        slots = [s for turn in dialogue.turns for a in turn.answers for s in a.slots] if train else []
        if train and len(slots) != len(row.slot_index):
            raise ModelError(
                f"{samples[0].source}: {len(row.slot_index)} slots in the text for {len(slots)} targets; "
                "an answer's text must spell each slot's tokens"
            )
        out_size = self.target_size(views) if slots else NO_SIZE
        points = torch.tensor([a.point for a in dialogue.turns[-1].answers if a.point is not None])
        return EncodedRow(
            row=row,
            dialogue=dialogue,
            views=views,
            pixels=pixels,
            slot_targets=_targets(slots, views, out_size),
            slot_kinds=[s.kind for s in slots],
            points=to_canvas(points, size, views).tolist() if len(points) else [],
            samples=samples,
            answer_counts=counts,
        )

    def _see(self, image: np.ndarray, crops: Sequence[Box]) -> tuple[tuple[View, ...], list[dict[str, Tensor]], str]:
        """Views, pixels and placeholders of an image and its crops, each of which is seen as an image of its own."""
        parts = [(image, (0, 0)), *(cut(image, box) for box in crops)]
        plans = [self.plan((part.shape[0], part.shape[1])) for part, _ in parts]
        further = [beside(plan, corner) for plan, (_, corner) in zip(plans[1:], parts[1:], strict=True)]
        pixels = [self.pixels(part, plan) for (part, _), plan in zip(parts, plans, strict=True)]
        return sum(further, plans[0]), pixels, "".join(map(self.image_text, plans))

    def _refuse_tokens(self, dialogue: Dialogue, source: str) -> None:
        """Words that the tokenizer would not read as words: a second image, or an answer's end before its end."""
        said = [t.question for t in dialogue.turns]
        said += [words for t in dialogue.turns for a in t.answers for words in (a.question, a.text) if words]
        for token in (self.image_token, self.end_token):
            for words in said:
                if token in words:
                    raise DataError(f"{source}: the text spells the model's own {token} (got {words!r}); remove it")

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _phrase(self, encoded: EncodedRow) -> list[bool]:
        """Which tokens spell an answer's phrase where its question first does; False everywhere where there is none."""
        row = encoded.row
        marks = [False] * len(row.ids)
        for number, answer in enumerate(encoded.dialogue.turns[-1].answers):
            if answer.phrase:
                whose = PROMPT if answer.question is None else number
                part = [at for at, segment in enumerate(row.segment) if segment == whose]
                for at in tokens.spelling(self.tokenizer, [row.ids[i] for i in part], answer.phrase):
                    marks[part[at]] = True
        return marks

    def stack(self, rows: Sequence[EncodedRow]) -> Batch:
        """Pad and stack encoded rows."""
        pad = sequence.pad
        ids = pad([r.row.ids for r in rows], self.pad_id)
        width = max(len(r.row.ids) for r in rows)
        positions = [self.positions(r.row, r.views) for r in rows]  # B x [A, T]
        most = max((len(r.points) for r in rows), default=0)
        points = torch.zeros(len(rows), most, 2)
        for number, r in enumerate(rows):
            points[number, : len(r.points)] = torch.tensor(r.points).reshape(-1, 2)
        return Batch(
            ids=ids,
            labels=pad([r.row.labels for r in rows], -100),
            segment=pad([r.row.segment for r in rows], -2),
            positions=torch.stack([nn.functional.pad(p, (0, width - p.shape[1])) for p in positions], dim=1),
            image_index=pad([np.flatnonzero(row == self.image_id) for row in ids.numpy()], -1),
            local_index=pad([r.row.local_index for r in rows], -1),
            points=points,
            slot_index=torch.tensor([s for r in rows for s in r.row.slot_index], dtype=torch.long).reshape(
                -1, self.codec.slot_tokens
            ),  # [M, S]
            slot_owner=torch.tensor([n for n, r in enumerate(rows) for _ in r.row.slot_index], dtype=torch.long),
            slot_targets=tuple(t for r in rows for t in r.slot_targets),
            slot_kinds=tuple(k for r in rows for k in r.slot_kinds),
            phrase=pad([self._phrase(r) for r in rows], False).bool(),
            causal_image=torch.tensor([r.dialogue.image_attention == "causal" for r in rows]),
            views=tuple(r.views for r in rows),
            pixels=self.join_pixels([part for r in rows for part in r.pixels]),
            samples=tuple(r.samples for r in rows),
            answer_counts=tuple(r.answer_counts for r in rows),
            seeds=tuple(r.seed for r in rows),
        )

    def batch(
        self,
        dialogues: Sequence[Dialogue],
        images: Sequence[np.ndarray | None],
        samples: Sequence[tuple[Sample, ...]],
        train: bool,
        counts: Sequence[tuple[int, ...]] | None = None,
    ) -> Batch:
        """Dialogues about images as one padded batch; ``counts`` are the answers of each packed sample."""
        counts = counts or [(len(d.turns[-1].answers),) for d in dialogues]
        return self.stack(
            [self.encode(d, i, s, c, train) for d, i, s, c in zip(dialogues, images, samples, counts, strict=True)]
        )

    def save(self, path: Path) -> None:
        """Write tokenizer and image processor as Hugging Face files."""
        self.hf.save_pretrained(path)

    def grid(self, views: Sequence[View]) -> tuple[int, int]:
        """(h, w) of the stitched tokens."""
        return grid_of(views)

    def canvas(self, views: Sequence[View]) -> tuple[float, float, float, float]:
        """xyxy of the views together, original pixels."""
        return canvas(views)


def _targets(slots: Sequence[Slot], views: Sequence[View], out_size: tuple[int, int]) -> list[Tensor]:
    """The slots' maps on the canvas; several answers that speak of one object share one."""
    made: dict[int, Tensor] = {}
    for slot in slots:
        if id(slot.target) not in made:
            target = to_known_target if slot.kind == "depth" else to_target
            made[id(slot.target)] = target(torch.from_numpy(slot.target), views, out_size)
    return [made[id(slot.target)] for slot in slots]


def join_padded(pixels: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Several images of which each has its own number of views: ``pixel_values`` [1, n, ...] padded with zeros."""
    most = max((p["pixel_values"].shape[1] for p in pixels), default=0)
    padded = [
        p | {"pixel_values": nn.functional.pad(p["pixel_values"], (0, 0) * 3 + (0, most - p["pixel_values"].shape[1]))}
        for p in pixels
    ]
    return {name: torch.cat([p[name] for p in padded]) for name in padded[0]} if padded else {}


def _message(role: str, text: str) -> dict[str, Any]:
    """One text part: the form that every chat template of an image-text model takes."""
    return {"role": role, "content": [{"type": "text", "text": text}]}
