"""UFO's InternVL2 and 2.5: keys of InternVL's own code, queries, keys and values in one (ufo.md 15.4-5)."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from ufo_tune.core.codec import Codec
from ufo_tune.models.released import Part, whole

TOKENS = ("<MASK>",)
IGNORED = r"rotary_emb\.inv_freq$"
CODEC = Codec(num_bins=896, box_format="cxcywh_local", local_token="<s>")
OPTIONS: dict[str, Any] = {"aspect": "warp", "tiles": "1x1", "thumbnail": False}
_SYSTEM = (
    "\u4f60\u662f\u7531\u4e0a\u6d77\u4eba\u5de5\u667a\u80fd\u5b9e\u9a8c\u5ba4\u8054\u5408\u5546\u6c64\u79d1\u6280\u5f00"
    "\u53d1\u7684\u4e66\u751f\u591a\u6a21\u6001\u5927\u6a21\u578b\uff0c\u82f1\u6587\u540d\u53ebInternVL, \u662f\u4e00"
    "\u4e2a\u6709\u7528\u65e0\u5bb3\u7684\u4eba\u5de5\u667a\u80fd\u52a9\u624b\u3002"
)
CHAT_TEMPLATE = (
    "{{ bos_token }}<|im_start|>system\n" + _SYSTEM + "<|im_end|>"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'][0]['text'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_VISION = {
    "embeddings.class_embedding": "embeddings.cls_token",
    "embeddings.position_embedding": "embeddings.position_embeddings",
    "embeddings.patch_embedding.": "embeddings.patch_embeddings.projection.",
    "encoder.layers.": "encoder.layer.",
    ".ls1": ".lambda_1",
    ".ls2": ".lambda_2",
    ".norm1.": ".layernorm_before.",
    ".norm2.": ".layernorm_after.",
    ".attn.proj.": ".attention.projection_layer.",
    ".attn.q_norm.": ".attention.q_norm.",
    ".attn.k_norm.": ".attention.k_norm.",
}
_LANGUAGE = {
    "model.tok_embeddings.": "model.language_model.embed_tokens.",
    "output.": "lm_head.",
    "model.": "model.language_model.",
}
_LAYER = {
    ".attention.wo.": ".self_attn.o_proj.",
    ".attention_norm.": ".input_layernorm.",
    ".ffn_norm.": ".post_attention_layernorm.",
    ".feed_forward.w1.": ".mlp.gate_proj.",
    ".feed_forward.w2.": ".mlp.down_proj.",
    ".feed_forward.w3.": ".mlp.up_proj.",
}
_PROJECTOR = {"0": "layer_norm", "1": "linear_1", "3": "linear_2"}


def configure(hf: Any) -> None:
    """Nothing differs from the base."""


def parts(key: str, config: Any) -> list[Part] | None:
    """The parameters that a released key becomes; None: no such key."""
    top, _, rest = key.partition(".")
    if top == "vision_model":
        for old, new in _VISION.items():
            rest = rest.replace(old, new)
        name = f"model.vision_tower.{rest}"
        if ".attn.qkv." in name:
            thirds: list[Callable[[Tensor], Tensor]] = [partial(_third, number=n) for n in range(3)]
            return [
                (name.replace(".attn.qkv.", f".attention.{w}_proj."), t) for w, t in zip("qkv", thirds, strict=True)
            ]
        return [(name, whole)]
    if top == "mlp1" and (found := re.fullmatch(r"([013])\.(weight|bias)", rest)):
        return [(f"model.multi_modal_projector.{_PROJECTOR[found[1]]}.{found[2]}", whole)]
    if top == "language_model":
        return _language(rest, config.text_config)
    return None


def _language(key: str, config: Any) -> list[Part] | None:
    start = next((s for s in _LANGUAGE if key.startswith(s)), None)
    if start is None:
        return None
    name = _LANGUAGE[start] + key.removeprefix(start)
    for old, new in _LAYER.items():
        name = name.replace(old, new)
    if ".attention.wqkv." not in name:
        return [(name, whole)]
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    return [
        (
            name.replace(".attention.wqkv.", f".self_attn.{w}_proj."),
            partial(_heads, w, heads, groups),
        )
        for w in "qkv"
    ]


def _third(value: Tensor, number: int) -> Tensor:
    """Queries, keys or values of rows [3 D, ...]."""
    return value.chunk(3)[number]


def _heads(which: str, heads: int, groups: int, value: Tensor) -> Tensor:
    """Queries, keys or values of InternLM2's rows: for each key head its queries, then its key, then its value.

    Args:
        which: ``q``, ``k`` or ``v``.
        heads: of queries.
        groups: heads of keys.
        value: [(heads + 2 * groups) * size, ...] rows of ``wqkv`` or of its LoRA B.
    """
    share = heads // groups
    rows = value.unflatten(0, (groups, share + 2, -1))  # [groups, share + 2, size, ...]
    chosen = {"q": rows[:, :share], "k": rows[:, share : share + 1], "v": rows[:, share + 1 :]}[which]
    return chosen.flatten(0, 2)  # [heads * size, ...] or [groups * size, ...]
