"""What data and engine see of a model (``GroundingModel``), and a decoder family's half that has weights (``VLM``).

The other half, ``models.processor.VLMProcessor``, is how an image becomes views and tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from ufo_tune.config import DecodeSection
from ufo_tune.core.codec import Codec
from ufo_tune.core.packing import Packing
from ufo_tune.core.types import Batch, EmbedTransform, Generation, ModelOutput, Prediction
from ufo_tune.errors import ModelError
from ufo_tune.models.processor import VLMProcessor


class GroundingModel(Protocol):
    """What evaluation and prediction see. Training also asks for what ``UfoModel`` has besides: ``vlm``, ``settings``.

    A one-tower model is a subclass of it whose ``predict`` gives ``Prediction``s.
    """

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


class VLM(nn.Module):
    """The half with weights: an unmodified Hugging Face model. Defaults fit HF's shared layout."""

    parts: ClassVar[dict[str, str]] = {
        "vision": r"^model\.(vision_tower|visual)\.",
        "projector": r"^model\.multi_modal_projector\.",
        "language": r"^model\.language_model\.",
    }
    """Regular expressions on parameter names; what none matches is "tokens" (embeddings and head are matched first)."""
    lora_targets: str = r"model\.language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"

    tower_reads: ClassVar[tuple[str, ...]] = ("last_hidden_state",)
    """Fields of the vision tower's output that HF reads; of ``hidden_states`` the layers that the config names."""

    def __init__(self, hf: nn.Module) -> None:
        super().__init__()
        self.hf = hf

    @property
    def text_model(self) -> nn.Module:
        """The decoder: takes embeddings, gives states after the final norm."""
        model: nn.Module = self.hf.model.language_model  # type: ignore[union-attr, assignment]
        return model

    @property
    def width(self) -> int:
        """D of the decoder's states."""
        return int(self.hf.config.get_text_config().hidden_size)  # type: ignore[union-attr, operator, arg-type]

    @property
    def layers(self) -> Sequence[nn.Module]:
        """Decoder layers in order."""
        layers: Sequence[nn.Module] = self.text_model.layers  # type: ignore[assignment]
        return layers

    def image_features(self, pixels: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        """[sum K, D] features of all images of the batch in token order, by HF's own feature selection.

        The second are further inputs of the decoder that come from the images; none unless the family has some.
        """
        out = self.hf.model.get_image_features(**pixels)  # type: ignore[union-attr, operator]
        features = out.pooler_output
        return features.flatten(0, -2) if isinstance(features, Tensor) else torch.cat(list(features)), {}

    def embed(self, ids: Tensor, pixels: dict[str, Tensor], is_image: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Input embeddings [B, T, D] with image features in their places, and what else ``decode`` takes.

        Raises:
            ModelError: the number of features differs from the number of placeholders.
        """
        embeds: Tensor = self.hf.get_input_embeddings()(ids)  # type: ignore[operator]
        if not pixels:  # text only
            return embeds, {}
        features, extra = self.image_features(pixels)
        if len(features) != int(is_image.sum()):
            raise ModelError(
                f"{type(self).__name__}: {len(features)} image features for {int(is_image.sum())} placeholders; "
                "processor and vision tower disagree about the image size"
            )
        return embeds.masked_scatter(is_image[..., None], features.to(embeds.dtype)), extra

    def packed(self, further: dict[str, Any], packing: Packing) -> dict[str, Any]:
        """What ``embed`` gave besides embeddings, for rows of the decoder that hold several batch rows.

        Raises:
            ModelError: the family has such inputs and does not say how they are packed.
        """
        if further:
            raise ModelError(
                f"{type(self).__name__}: cannot pack its further inputs (got {sorted(further)}); set "
                "train.pack_tokens: 0, or write the family's ``packed``"
            )
        return further

    def decode(self, embeds: Tensor, mask: Tensor, positions: Tensor, cache: Any = None, **kwargs: Any) -> Tensor:
        """States [B, T, D] after the final norm.

        Args:
            embeds: [B, T, D].
            mask: [B, 1, T, T'] bool, or a block mask of that shape (``models.flex``).
            positions: [A, B, T].
            cache: a ``transformers`` cache, or None.
            kwargs: what ``embed`` gave besides embeddings; the rest goes through to the attention function.
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

    def attend_by(self, function: str, asked: str) -> None:
        """Let the decoder take one of transformers' attention functions; the vision tower stays as it is.

        Args:
            function: its name there.
            asked: its name in ``model.attention``.
        Raises:
            ModelError: the decoder does not choose its attention by name.
        """
        model: Any = self.text_model
        # Not ``_supports_flex_attn``: Qwen-VL says no for its tower, and its decoder can.
        if not getattr(model, "_supports_attention_backend", False):
            raise ModelError(
                f"model.attention: this decoder does not take attention functions by name (got {asked} for "
                f"{type(model).__name__}); set model.attention: sdpa"
            )
        model.config._attn_implementation = function

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
