"""``tiny:<family>``: small models from config, with a word-level tokenizer; random weights, no download.

They prove plumbing, and the pretrained base of the quickstart starts from one. Integers are one token each, and
integer rows start as sines and cosines of their value, so that neighbours are alike from the first step.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

from ufo_tune import plugins
from ufo_tune.errors import ConfigError

SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<image>", "USER:", "ASSISTANT:")
_WORDS = ("the", "a", "what", "is", "where", "detect", "segment", "box", "of", "background", "red", "circle", "square")


CHAT = (
    "{% for m in messages %}{{ 'USER:' if m['role'] == 'user' else 'ASSISTANT:' }} "
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{{ '<image>' if c['type'] == 'image' else c['text'] }} {% endfor %}{% endif %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""A plain dialogue, for whichever family."""


def tokenizer(words: Sequence[str], integers: int, special: Mapping[str, str] | None = None) -> PreTrainedTokenizerFast:
    """A word-level tokenizer over ``words``, punctuation, and the integers 0..``integers``, one token each.

    ``special`` are a family's own special tokens, by the attribute that its Hugging Face processor reads.
    """
    special = special or {}
    tokens = [*SPECIAL, ",", ".", "?", "-", *words, *map(str, range(integers + 1)), *special.values()]
    vocab = {t: i for i, t in enumerate(dict.fromkeys(tokens))}
    core = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[,.?]"), "isolated")]
    )
    core.add_special_tokens([*SPECIAL[:5], *special.values()])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=dict(special),
    )


Text = Callable[..., PreTrainedTokenizerFast]
"""Makes the tokenizer; takes the family's own special tokens by attribute."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How small a tiny model is."""

    width: int = 64  # D of tower and decoder
    layers: int = 2  # of the decoder
    vision_layers: int = 2
    heads: int = 4  # of both
    kv_heads: int = 4  # of the decoder
    mlp: int = 192  # hidden width of the feed-forward parts
    image_size: int = 48  # side in pixels
    patch: int = 8  # side in pixels


def build(
    family: str,
    out: Path,
    *,
    seed: int = 0,
    width: int = 64,
    layers: int = 2,
    vision_layers: int = 2,
    heads: int = 4,
    kv_heads: int = 0,
    mlp: int = 0,
    image_size: int = 48,
    patch: int = 8,
    words: Sequence[str] = _WORDS,
    integers: int = 100,
) -> Path:
    """Write a random model of a family as a Hugging Face folder, by the family's ``tiny``.

    Args:
        family: file of ``models/``, or ``family/kind``: see ``kinds``.
        out: folder to write.
        seed: of the weights.
        width: D of tower and decoder.
        layers: decoder layers.
        vision_layers: tower layers.
        heads: attention heads of both.
        kv_heads: key/value heads of the decoder; 0: as many as heads.
        mlp: hidden width of the feed-forward parts; 0: 8/3 of ``width``, rounded to 64.
        image_size: side in pixels.
        patch: side of a patch in pixels.
        words: the tokenizer's vocabulary.
        integers: the tokenizer owns 0..integers.
    Raises:
        ConfigError: no such family, or it has no tiny builder.
    """
    name, _, kind = family.partition("/")
    module = plugins.find("models", name)
    if not hasattr(module, "tiny"):
        raise ConfigError(f"tiny: the family has no tiny builder (got {name!r}); add `tiny` to its file")
    if kind not in ("", *getattr(module, "TINY_KINDS", ())):
        raise ConfigError(f"tiny:{name}: no such kind (got {kind!r}); {plugins.did_you_mean(kind, kinds(name))}")
    torch.manual_seed(seed)
    mlp = mlp or max(64, round(width * 8 / 3 / 64) * 64)
    sizes = Sizes(width, layers, vision_layers, heads, kv_heads or heads, mlp, image_size, patch)
    module.tiny(lambda **special: tokenizer(words, integers, special), sizes, out, **({"kind": kind} if kind else {}))
    return out


def split(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of a tiny base: those of ``build``, and the family's own."""
    mine = {k: v for k, v in options.items() if k in inspect.signature(build).parameters}
    return mine, {k: v for k, v in options.items() if k not in mine}


def kinds(family: str) -> tuple[str, ...]:
    """What ``build`` can make of a family: its name, or ``family/kind`` where it wraps several architectures."""
    return tuple(f"{family}/{kind}" for kind in getattr(plugins.find("models", family), "TINY_KINDS", ())) or (family,)


def decoder(text: PreTrainedTokenizerFast, sizes: Sizes) -> dict[str, Any]:
    """Options that the decoders' configs have in common."""
    return {
        "vocab_size": len(text),
        "hidden_size": sizes.width,
        "intermediate_size": sizes.mlp,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "max_position_embeddings": 8192,
        "initializer_range": sizes.width**-0.5,  # the usual 0.02 learns slower at these widths (measured)
        "bos_token_id": text.bos_token_id,
        "eos_token_id": text.eos_token_id,
        "pad_token_id": text.pad_token_id,
    }


def write(model: PreTrainedModel, processor: ProcessorMixin, positions: Tensor | None, out: Path) -> None:
    """Write a random model as a folder, its numbers and places made alike where they are near.

    Args:
        model: built from config.
        processor: with a tokenizer of ``tokenizer``.
        positions: the tower's table of position embeddings [side * side, D], where it has one: neighbours start alike.
        out: folder.
    """
    text: Any = processor.tokenizer  # type: ignore[attr-defined]
    with torch.no_grad():
        if positions is not None:
            positions.copy_(0.1 * _waves_2d(math.isqrt(len(positions)), positions.shape[1]))
        numbers = [t for t in range(len(text)) if text.convert_ids_to_tokens(t).isdigit()]
        values = torch.tensor([int(text.convert_ids_to_tokens(t)) for t in numbers], dtype=torch.float32)
        tables = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]  # type: ignore[union-attr]
        for table in tables if tables[0] is not tables[1] else tables[:1]:
            table[numbers] = table.std() * waves(values / max(1.0, float(values.max())), table.shape[1])
    model.config.save_pretrained(out)  # not the model's own: among several processes only the first one would write
    model.generation_config.save_pretrained(out)  # type: ignore[union-attr]
    save_file(_state(model), out / "model.safetensors", {"format": "pt"})
    processor.save_pretrained(out)


def _state(model: PreTrainedModel) -> dict[str, Tensor]:
    """Parameters without tied copies."""
    tied = set(model.all_tied_weights_keys)
    return {n: t.contiguous() for n, t in model.state_dict().items() if n not in tied}


def waves(values: Tensor, width: int, longest: float = 4.0) -> Tensor:
    """Sines and cosines [N, width] of values [N] in [0, 1]; unit variance, neighbours alike."""
    frequencies = longest**-1 * math.tau * torch.logspace(0, 2, width // 2, base=10)
    phase = values[:, None] * frequencies  # [N, width / 2]
    return torch.cat([phase.sin(), phase.cos()], dim=1) * math.sqrt(2)


def _waves_2d(side: int, width: int) -> Tensor:
    """Position embeddings [side * side, width], half of it for each axis, raster order."""
    at = (torch.arange(side) + 0.5) / side
    axis = waves(at, width // 2)  # [side, width / 2]
    rows = axis[:, None].expand(side, side, -1)
    cols = axis[None].expand(side, side, -1)
    return torch.cat([rows, cols], dim=-1).flatten(0, 1)  # [side * side, width]
