"""``UfoModel``: any decoder family taught UFO's way. One forward, one decode loop, one folder format.

``forward`` is embed, transforms of the embeddings (``<LOCAL>`` first), decode under the attention rule, stitch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ufo_tune import __version__
from ufo_tune.config import DecodeSection
from ufo_tune.core import tokens
from ufo_tune.core.codec import Codec
from ufo_tune.core.packing import Packing
from ufo_tune.core.types import PAD, Batch, EmbedTransform, Generation, ModelOutput, View
from ufo_tune.core.views import stitch
from ufo_tune.errors import ModelError
from ufo_tune.models import flex, stretches
from ufo_tune.models.base import VLM
from ufo_tune.models.local import LocalSampler
from ufo_tune.models.processor import VLMProcessor
from ufo_tune.models.vision_cache import VisionCache
from ufo_tune.templates import Wording

CONFIG_NAME = "ufo_config.json"
_SCHEMA = 1


@dataclass(slots=True)
class Inputs:
    """What the decoder is given for a whole batch; mask, sampler and further inputs are those of its own rows."""

    embeds: Tensor  # [B, T, D]
    mask: Any  # [B, 1, T, T] bool, or a block mask of that shape; [P, 1, L, L] with packing
    local: LocalSampler | None
    further: dict[str, Any]  # the family's own
    packing: Packing | None = None  # where batch rows share rows of the decoder


class UfoModel(nn.Module):
    """A family's weights and processor behind the ``GroundingModel`` protocol.

    ``settings`` travels in ``ufo_config.json``: family, codec, view options, templates and
    task options the run was trained with.
    """

    def __init__(self, vlm: VLM, processor: VLMProcessor, settings: dict[str, Any]) -> None:
        super().__init__()
        self.vlm = vlm
        self.processor = processor
        self.settings = settings
        self.re_add_local = True  # this and the next: only ablations change them; they travel with the weights
        self.retrieve_from: Literal["output", "input"] = "output"  # of the language model: image features for masks
        self.vision_cache: VisionCache | None = None  # of a frozen tower; used in training only
        self.adapter: Any = None  # the PEFT model that wraps ``vlm.hf``, where there is one

    @classmethod
    def assemble(
        cls,
        vlm: VLM,
        hf_processor: Any,
        processor_class: Callable[..., VLMProcessor],
        codec: Codec | None,
        options: dict[str, Any],
    ) -> UfoModel:
        """Join the halves; a base without codec gets our tokens, its matrices resized and the new rows initialised."""
        new: list[int] = []
        if codec is None:
            codec = Codec()
        if not set(codec.special_tokens) <= set(hf_processor.tokenizer.get_vocab()):
            new = tokens.add_tokens(hf_processor.tokenizer, codec)
        hf: Any = vlm.hf
        rows = hf.get_input_embeddings().weight.shape[0]
        if new:
            if len(hf_processor.tokenizer) > rows:  # bases often pad their matrices: never shrink them
                hf.resize_token_embeddings(len(hf_processor.tokenizer), mean_resizing=False)
            tokens.initialise_rows(hf.get_input_embeddings().weight, new)
            tokens.initialise_rows(hf.get_output_embeddings().weight, new)
        elif len(hf_processor.tokenizer) > rows:
            raise ModelError(f"embeddings have {rows} rows for {len(hf_processor.tokenizer)} tokens; run prepare again")
        processor = processor_class(hf_processor, codec, **options)
        family = type(vlm).__module__.removeprefix("ufo_tune.models.")
        known: dict[str, Any] = {"templates": {}, "dataset_templates": {}, "task_options": {}}
        return cls(vlm, processor, {"family": family, "options": options, **known})

    @property
    def codec(self) -> Codec:
        """The only way from pixels to text and back."""
        return self.processor.codec

    @property
    def templates(self) -> dict[str, Wording]:
        """Task name -> template the weights were mostly trained with."""
        found: dict[str, Wording] = self.settings["templates"]
        return found

    @property
    def dataset_templates(self) -> dict[str, Wording]:
        """``task/dataset`` -> template that the weights were trained with on this dataset."""
        found: dict[str, Wording] = self.settings["dataset_templates"]
        return found

    @property
    def task_options(self) -> dict[str, dict[str, Any]]:
        """Task name -> options the weights were trained with, such as the rows and columns of grid points."""
        found: dict[str, dict[str, Any]] = self.settings["task_options"]
        return found

    def recompute_activations(self) -> None:
        """Keep no activations inside layers; backward computes them again (``gradient_checkpointing`` of a recipe)."""
        hf: Any = self.vlm.hf
        # The second is the older name, which transformers 6 will not have.
        enable = getattr(hf, "activation_checkpointing_enable", None) or hf.gradient_checkpointing_enable
        enable({"use_reentrant": False})

    @property
    def device(self) -> torch.device:
        """Where the embeddings live."""
        weight: Tensor = next(self.vlm.hf.get_input_embeddings().parameters())  # type: ignore[operator]
        return weight.device

    def new_token_ids(self) -> list[int]:
        """Ids of our tokens, wherever they came from."""
        return [tokens.token_id(self.processor.tokenizer, t) for t in self.codec.special_tokens]

    def embed(self, batch: Batch, extra: Sequence[EmbedTransform] = ()) -> Inputs:
        """What the decoder is given for a whole batch."""
        is_image = _marked(batch.image_index, batch.ids.shape)
        cache = self.vision_cache if self.training and batch.image_keys else None
        with cache.serving(batch.image_keys) if cache else nullcontext():
            embeds, further = self.vlm.embed(batch.ids, batch.pixels, is_image)
        local = LocalSampler.of(batch)
        for transform in [*([local.fill] if local else []), *extra]:
            embeds = transform(embeds, batch)
        visible = flex.rule(self.vlm.text_model)
        if not batch.packs:
            mask = visible(batch.segment, is_image, batch.causal_image)
            return Inputs(embeds, mask, local, further | stretches.further(self.vlm.text_model, batch.segment, mask))
        packing = Packing.of(batch.packs, batch.ids.shape[1], batch.ids.device)
        segment, image = packing.put(batch.segment, PAD), packing.put(is_image & ~batch.causal_image[:, None], False)
        mask = visible(segment, image, image.new_zeros(len(image)), packing.document)  # causal rows are dealt with
        return Inputs(embeds, mask, local and local.packed(packing), self.vlm.packed(further, packing), packing)

    def decode(self, inputs: Inputs, batch: Batch, cache: Any = None) -> Tensor:
        """Final states [B, T, D] of a whole batch."""
        again: AbstractContextManager[None] = nullcontext()
        if inputs.local is not None and self.re_add_local:
            again = inputs.local.added_to(self.vlm.layers)
        with again:
            if inputs.packing is None:
                return self.vlm.decode(inputs.embeds, inputs.mask, batch.positions, cache, **inputs.further)
            put = inputs.packing.put
            positions = torch.stack([put(axis) for axis in batch.positions])  # [A, P, L]
            return inputs.packing.take(
                self.vlm.decode(put(inputs.embeds), inputs.mask, positions, cache, **inputs.further)
            )

    def retrieved(self, embeds: Tensor, hidden: Tensor) -> Tensor:
        """The states [B, T, D] whose image tokens dense maps are retrieved from."""
        return hidden if self.retrieve_from == "output" else embeds

    def forward(self, batch: Batch, extra: Sequence[EmbedTransform] = ()) -> ModelOutput:
        """One teacher-forced pass; ``extra`` edits the embeddings after ``<LOCAL>`` is filled."""
        inputs = self.embed(batch, extra)
        hidden = self.decode(inputs, batch)
        return ModelOutput(
            hidden=hidden,
            image_features=maps(self.retrieved(inputs.embeds, hidden), batch.image_index, batch.views),
            image_inputs=maps(inputs.embeds, batch.image_index, batch.views),
            logits=self.vlm.logits,
            depth_range=self.codec.depth_range,
        )

    @torch.inference_mode()
    def predict(self, batch: Batch, decode: DecodeSection, grammars: Sequence[Any]) -> list[Generation]:
        """Greedy answers to every sample, in row order; see ``models.generate``."""
        from ufo_tune.models.generate import generate

        return generate(self, batch, decode, grammars)

    def adopt(self, settings: dict[str, Any]) -> None:
        """Take over what a folder's ``ufo_config.json`` says about its training."""
        for name in ("templates", "dataset_templates", "task_options"):
            self.settings[name] = settings.get(name, {})
        if "origin" in settings:  # the base that all began with, and its licence
            self.settings["origin"] = settings["origin"]
        self.re_add_local = settings.get("re_add_local", True)
        self.retrieve_from = settings.get("retrieve_from", "output")

    def save(self, path: Path) -> None:
        """Write a plain Hugging Face folder plus ``ufo_config.json``; the latter last, as the sign of completeness."""
        path.mkdir(parents=True, exist_ok=True)
        self.vlm.hf.save_pretrained(path)  # type: ignore[operator]
        self.processor.save(path)
        self.save_settings(path)

    def save_settings(self, path: Path) -> None:
        """Write ``ufo_config.json``."""
        content = {
            "schema": _SCHEMA,
            "ufo_tune": __version__,
            **self.settings,
            "re_add_local": self.re_add_local,
            "retrieve_from": self.retrieve_from,
            "codec": self.codec.to_dict(),
        }
        (path / CONFIG_NAME).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def read_settings(path: Path) -> dict[str, Any]:
    """``ufo_config.json`` of a folder.

    Raises:
        ModelError: absent, unreadable or of another schema.
    """
    file = path / CONFIG_NAME
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ModelError(
            f"{file}: not a complete ufo-tune model ({error}); make one with `ufo-tune prepare` or `merge`"
        ) from error
    if content.get("schema") != _SCHEMA:
        raise ModelError(f"{file}: schema is not {_SCHEMA} (got {content.get('schema')}); prepare the base again")
    return content


def maps(states: Tensor, image_index: Tensor, views: Sequence[Sequence[View]]) -> tuple[Tensor, ...]:
    """Image states of every row, stitched: B x [h, w, D] from [B, T, D]."""
    return tuple(
        stitch(states[row, index[index >= 0]], row_views)
        for row, (index, row_views) in enumerate(zip(image_index, views, strict=True))
    )


def _marked(index: Tensor, shape: torch.Size) -> Tensor:
    """[B, T] bool, True at the positions in ``index`` [B, K] (-1 is padding)."""
    mask = torch.zeros(shape[0], shape[1] + 1, dtype=torch.bool, device=index.device)
    return mask.scatter(1, index.where(index >= 0, shape[1]), True)[:, :-1]
