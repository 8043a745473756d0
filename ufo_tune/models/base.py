"""What data and engine see of a model (``GroundingModel``), and the two halves of a decoder family.

A family supplies only what differs: a ``VLMProcessor`` (how an image becomes views and tokens; no weights, picklable)
and a ``VLM`` (weights). ``VLMProcessor.batch`` is written once, here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ufo_tune.config import DecodeSection
from ufo_tune.core import sequence, tokens
from ufo_tune.core.codec import Codec
from ufo_tune.core.types import Batch, Dialogue, EmbedTransform, Generation, ModelOutput, Prediction, Sample, View
from ufo_tune.core.views import canvas, grid_of, to_canvas, to_target
from ufo_tune.errors import ModelError

_ANSWER = "\u2983ANSWER\u2984"
_QUESTION = "\u2983QUESTION\u2984"
"""Stand-ins while a chat template renders; no tokenizer sees them."""


class GroundingModel(Protocol):
    """What ``data`` and ``engine`` see. A one-tower model implements this directly."""

    processor: VLMProcessor
    codec: Codec

    def forward(self, batch: Batch, extra: Sequence[EmbedTransform] = ()) -> ModelOutput:
        """States and features of one teacher-forced pass."""
        ...

    def predict(self, batch: Batch, decode: DecodeSection, grammars: Sequence[Any]) -> list[Generation | Prediction]:
        """Answers to every sample of the batch, in row order."""
        ...

    def save(self, path: Path) -> None:
        """Write a folder that ``engine.load`` reads."""
        ...


@dataclass(slots=True)
class EncodedRow:
    """One dialogue before padding."""

    row: sequence.Row
    dialogue: Dialogue
    views: tuple[View, ...]
    pixels: dict[str, Tensor]
    slot_targets: list[Tensor]
    slot_kinds: list[str]
    points: list[tuple[float, float]]  # on the canvas
    samples: tuple[Sample, ...]
    answer_counts: tuple[int, ...]


class VLMProcessor(ABC):
    """A decoder family's half without weights."""

    def __init__(self, tokenizer: Any, chat_template: str, codec: Codec) -> None:
        self.tokenizer = tokenizer
        self.chat_template = chat_template
        self.codec = codec
        self.local_id = tokens.token_id(tokenizer, codec.local_token)
        self.mask_id = tokens.token_id(tokenizer, codec.mask_token)
        self.depth_id = tokens.token_id(tokenizer, codec.depth_token)
        self.end_id = int(tokenizer.eos_token_id)
        self.pad_id = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)

    image_token: str
    """The placeholder that one image token replaces."""

    @abstractmethod
    def plan(self, size: tuple[int, int]) -> tuple[View, ...]:
        """How this family sees an image of (H, W) pixels."""

    @abstractmethod
    def pixels(self, image: np.ndarray, views: Sequence[View]) -> dict[str, Tensor]:
        """The vision tower's inputs for one image [H, W, 3] uint8; concatenated over a batch along dim 0."""

    @abstractmethod
    def target_size(self, views: Sequence[View]) -> tuple[int, int]:
        """(Hc, Wc) at which dense targets are supervised: the canvas in the tower's pixels."""

    def image_text(self, views: Sequence[View]) -> str:
        """The placeholder text of one image."""
        return self.image_token * sum(v.grid[0] * v.grid[1] for v in views)

    def positions(self, row: sequence.Row, views: Sequence[View]) -> Tensor:
        """[A, T] position ids; one axis unless the family says otherwise."""
        return torch.tensor([row.positions], dtype=torch.long)

    @property
    def image_id(self) -> int:
        """Id of the image placeholder."""
        return tokens.token_id(self.tokenizer, self.image_token)

    def _render(self, dialogue: Dialogue, views: Sequence[View]) -> tuple[list[tuple[str, bool]], str]:
        """Text of the prompt as runs (text, supervised), and the header that follows an answer's own question.

        Raises:
            ModelError: the chat template swallowed a part.
        """
        image = self.image_text(views)
        messages: list[dict[str, str]] = []
        for number, turn in enumerate(dialogue.turns):
            own = number == len(dialogue.turns) - 1 and any(a.question is not None for a in turn.answers)
            text = _QUESTION if own else turn.question
            if number == 0:
                text = f"{image}\n{text}" if dialogue.image_position == "before" else f"{text}\n{image}"
            messages.append({"role": "user", "content": text})
            if number < len(dialogue.turns) - 1:
                messages.append({"role": "assistant", "content": _ANSWER})
        text = self.tokenizer.apply_chat_template(
            messages, chat_template=self.chat_template, add_generation_prompt=True, tokenize=False
        )
        text, found, header = text.partition(_QUESTION)
        parts = text.split(_ANSWER)
        if len(parts) != len(dialogue.turns) or image not in text:
            raise ModelError("chat template: it drops a message or the image; give one that renders plain text content")
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
            eos = self.tokenizer.eos_token
            if number > 0 and eos and text.startswith(eos):
                text = text[len(eos) :]  # already there, supervised, as the end of the answer
            first = number == 0 and not (bos and text.startswith(bos))
            out.append((self.tokenizer(text, add_special_tokens=first)["input_ids"], False))
        return out

    def encode(
        self, dialogue: Dialogue, image: np.ndarray, samples: tuple[Sample, ...], counts: tuple[int, ...], train: bool
    ) -> EncodedRow:
        """One dialogue as tokens, pixels and dense targets; not yet padded."""
        size = (image.shape[0], image.shape[1])
        views = self.plan(size)
        runs, header = self._render(dialogue, views)
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
            slot_ids=frozenset((self.mask_id, self.depth_id)),
            slot_tokens=self.codec.slot_tokens,
        )
        slots = [s for turn in dialogue.turns for a in turn.answers for s in a.slots] if train else []
        if train and len(slots) != len(row.slot_index):
            raise ModelError(
                f"{samples[0].source}: {len(row.slot_index)} slots in the text for {len(slots)} targets; "
                "an answer's text must spell each slot's tokens"
            )
        out_size = self.target_size(views)
        points = torch.tensor([a.point for a in dialogue.turns[-1].answers if a.point is not None])
        return EncodedRow(
            row=row,
            dialogue=dialogue,
            views=views,
            pixels=self.pixels(image, views),
            slot_targets=[to_target(torch.from_numpy(s.target).float(), views, out_size) for s in slots],
            slot_kinds=[s.kind for s in slots],
            points=to_canvas(points, size, views).tolist() if len(points) else [],
            samples=samples,
            answer_counts=counts,
        )

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _phrase(self, encoded: EncodedRow) -> list[bool]:
        """Which prompt tokens spell the phrase (first occurrence); False everywhere where there is none."""
        marks = [False] * len(encoded.row.ids)
        phrase = self._ids(encoded.dialogue.phrase) if encoded.dialogue.phrase else []
        ids = encoded.row.ids
        for at in range(len(ids) - len(phrase) + 1 if phrase else 0):
            if ids[at : at + len(phrase)] == phrase:
                marks[at : at + len(phrase)] = [True] * len(phrase)
                break
        return marks

    def stack(self, rows: Sequence[EncodedRow]) -> Batch:
        """Pad and stack encoded rows."""
        pad = sequence.pad
        width = max(len(r.row.ids) for r in rows)
        positions = [self.positions(r.row, r.views) for r in rows]  # B x [A, T]
        image_id = self.image_id
        most = max((len(r.points) for r in rows), default=0)
        points = torch.zeros(len(rows), most, 2)
        for number, r in enumerate(rows):
            points[number, : len(r.points)] = torch.tensor(r.points).reshape(-1, 2)
        return Batch(
            ids=pad([r.row.ids for r in rows], self.pad_id),
            labels=pad([r.row.labels for r in rows], -100),
            segment=pad([r.row.segment for r in rows], -2),
            positions=torch.stack([nn.functional.pad(p, (0, width - p.shape[1])) for p in positions], dim=1),
            image_index=pad([[i for i, t in enumerate(r.row.ids) if t == image_id] for r in rows], -1),
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
            pixels={k: torch.cat([r.pixels[k] for r in rows]) for k in rows[0].pixels},
            samples=tuple(r.samples for r in rows),
            answer_counts=tuple(r.answer_counts for r in rows),
        )

    def batch(
        self,
        dialogues: Sequence[Dialogue],
        images: Sequence[np.ndarray],
        samples: Sequence[tuple[Sample, ...]],
        train: bool,
        counts: Sequence[tuple[int, ...]] | None = None,
    ) -> Batch:
        """Dialogues about images as one padded batch; ``counts`` are the answers of each packed sample."""
        counts = counts or [(len(d.turns[-1].answers),) for d in dialogues]
        return self.stack(
            [self.encode(d, i, s, c, train) for d, i, s, c in zip(dialogues, images, samples, counts, strict=True)]
        )

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write tokenizer and image processor as Hugging Face files."""

    def grid(self, views: Sequence[View]) -> tuple[int, int]:
        """(h, w) of the stitched tokens."""
        return grid_of(views)

    def canvas(self, views: Sequence[View]) -> tuple[float, float, float, float]:
        """xyxy of the views together, original pixels."""
        return canvas(views)


class VLM(nn.Module):
    """The half with weights: an unmodified Hugging Face model. Defaults fit HF's shared layout."""

    parts: ClassVar[dict[str, str]] = {
        "vision": r"^model\.(vision_tower|visual)\.",
        "projector": r"^model\.multi_modal_projector\.",
        "language": r"^model\.language_model\.",
    }
    """Regular expressions on parameter names; what none matches is "tokens" (embeddings and head are matched first)."""
    lora_targets: str = r"model\.language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"

    def __init__(self, hf: nn.Module) -> None:
        super().__init__()
        self.hf = hf

    @property
    def text_model(self) -> nn.Module:
        """The decoder: takes embeddings, gives states after the final norm."""
        model: nn.Module = self.hf.model.language_model  # type: ignore[union-attr, assignment]
        return model

    @property
    def layers(self) -> Sequence[nn.Module]:
        """Decoder layers in order."""
        layers: Sequence[nn.Module] = self.text_model.layers  # type: ignore[assignment]
        return layers

    def image_features(self, pixels: dict[str, Tensor]) -> Tensor:
        """[sum K, D] features of all images of the batch, in token order."""
        raise NotImplementedError

    def embed(self, ids: Tensor, pixels: dict[str, Tensor], is_image: Tensor) -> Tensor:
        """Input embeddings [B, T, D] with image features in their places.

        Raises:
            ModelError: the number of features differs from the number of placeholders.
        """
        embeds: Tensor = self.hf.get_input_embeddings()(ids)  # type: ignore[operator]
        features = self.image_features(pixels)
        if len(features) != int(is_image.sum()):
            raise ModelError(
                f"{type(self).__name__}: {len(features)} image features for {int(is_image.sum())} placeholders; "
                "processor and vision tower disagree about the image size"
            )
        return embeds.masked_scatter(is_image[..., None], features.to(embeds.dtype))

    def decode(self, embeds: Tensor, mask: Tensor, positions: Tensor, cache: Any = None, **kwargs: Any) -> Tensor:
        """States [B, T, D] after the final norm.

        Args:
            embeds: [B, T, D].
            mask: [B, 1, T, T'] bool.
            positions: [A, B, T].
            cache: a ``transformers`` cache, or None.
            kwargs: passed through to the attention function.
        """
        out = self.text_model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions[0] if len(positions) == 1 else positions,
            past_key_values=cache,
            use_cache=cache is not None,
            **kwargs,
        )
        hidden: Tensor = out.last_hidden_state
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., V]."""
        out: Tensor = self.hf.get_output_embeddings()(hidden)  # type: ignore[operator]
        return out

    def embed_text(self, ids: Tensor) -> Tensor:
        """Input embeddings [..., D] of text tokens [...]."""
        out: Tensor = self.hf.get_input_embeddings()(ids)  # type: ignore[operator]
        return out

    def head_rows(self, ids: Tensor) -> tuple[Tensor, Tensor | None] | None:
        """Rows [C, D] and bias [C] of the output head for tokens [C], adapters included.

        None where the head is of a kind that has no plain rows (quantised, an unknown adapter): compute all logits.
        """
        return _rows(self.hf.get_output_embeddings(), ids)  # type: ignore[operator]

    def part_of(self, parameter: str) -> str:
        """The part of a parameter name: "vision", "projector", "language" or "tokens"."""
        import re

        if re.search(r"(embed_tokens|lm_head)", parameter):
            return "tokens"
        for part, pattern in self.parts.items():
            if re.search(pattern, parameter):
                return part
        return "tokens"


def _rows(module: Any, ids: Tensor) -> tuple[Tensor, Tensor | None] | None:
    """Rows of a linear layer, looking through PEFT's wrappers (their ``weight`` copies the whole matrix)."""
    module = getattr(module, "token_adapter", module)  # TrainableTokensWrapper
    if not hasattr(module, "base_layer"):
        if type(module) is not nn.Linear:
            return None
        return module.weight[ids], None if module.bias is None else module.bias[ids]
    base = _rows(module.base_layer, ids)
    if base is None or module.disable_adapters or module.merged:
        return base
    rows, bias = base
    for name in module.active_adapters:
        if name in getattr(module, "trainable_tokens_delta", {}):
            place = torch.full((int(ids.max()) + 1,), -1, device=ids.device)  # token -> trained row
            trained = torch.as_tensor(module.token_indices[name], device=ids.device)
            listed = trained < len(place)
            place[trained[listed]] = listed.nonzero()[:, 0]
            at = place[ids]  # [C]
            rows = torch.where((at >= 0)[:, None], module.trainable_tokens_delta[name][at.clamp_min(0)].to(rows), rows)
        elif name in getattr(module, "lora_A", {}) and not getattr(module, "lora_variant", {}).get(name):
            delta = module.lora_B[name].weight[ids] @ module.lora_A[name].weight * module.scaling[name]
            rows = rows + delta.to(rows)
        else:
            return None
    return rows, bias
