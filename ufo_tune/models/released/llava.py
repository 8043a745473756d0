"""UFO's LLaVA-1.5: keys of transformers 4.37 and PEFT, the last CLIP layer, five added tokens (ufo.md 1, 2, 15.3)."""

from __future__ import annotations

from typing import Any

from ufo_tune.core.codec import Codec
from ufo_tune.models.released import Part, whole

TOKENS = ("<MASK>", "<box>", "</box>", "<im_start>", "<im_end>")
IGNORED = r"(\.position_ids|rotary_emb\.inv_freq)$"
CODEC = Codec(num_bins=672, box_format="cxcywh_local", local_token="<s>")
OPTIONS: dict[str, Any] = {"aspect": "warp", "wrap": True}
CHAT_TEMPLATE = (
    "{{ bos_token }}A chat between a curious human and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the human's questions."
    "{% for m in messages %}{% if m['role'] == 'user' %} User: {{ m['content'][0]['text'] }}"
    "{% else %} ASSISTANT: {{ m['content'][0]['text'] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT: {% endif %}"
)


def configure(hf: Any) -> None:
    """UFO takes the tower's last layer; LLaVA-1.5 itself the one before."""
    hf.config.vision_feature_layer = -1


def parts(key: str, config: Any) -> list[Part] | None:
    """The parameters that a released key becomes; None: no such key."""
    if key.startswith(("vision_tower.", "multi_modal_projector.")):
        return [(f"model.{key.replace('vision_tower.vision_model.', 'vision_tower.')}", whole)]
    if key == "language_model.lm_head.weight":
        return [("lm_head.weight", whole)]
    if key.startswith("language_model.model."):
        return [(f"model.language_model.{key.removeprefix('language_model.model.')}", whole)]
    return None
