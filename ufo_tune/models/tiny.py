"""``tiny:<family>``: small models from config, with a word-level tokenizer; random weights, no download.

They prove plumbing, and the pretrained base of the quickstart starts from one. Integers are one token each, and
integer rows start as sines and cosines of their value, so that neighbours are alike from the first step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from ufo_tune.errors import ConfigError
from ufo_tune.plugins import did_you_mean

SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<image>", "USER:", "ASSISTANT:")
_WORDS = ("the", "a", "what", "is", "where", "detect", "segment", "box", "of", "background", "red", "circle", "square")


def tokenizer(words: Sequence[str], integers: int) -> PreTrainedTokenizerFast:
    """A word-level tokenizer over ``words``, punctuation, and the integers 0..``integers``, one token each."""
    tokens = [*SPECIAL, ",", ".", "?", "-", *words, *map(str, range(integers + 1))]
    vocab = {t: i for i, t in enumerate(dict.fromkeys(tokens))}
    core = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[,.?]"), "isolated")]
    )
    core.add_special_tokens(list(SPECIAL[:5]))
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


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
    """Write a random model of a family as a Hugging Face folder.

    Args:
        family: ``llava``.
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
        ConfigError: no tiny builder for the family.
    """
    if family not in _BUILDERS:
        raise ConfigError(f"tiny: no builder for this family (got {family!r}); {did_you_mean(family, _BUILDERS)}")
    torch.manual_seed(seed)
    mlp = mlp or max(64, round(width * 8 / 3 / 64) * 64)
    text = tokenizer(words, integers)
    vision, language = _configs(text, width, layers, vision_layers, heads, kv_heads or heads, mlp, image_size, patch)
    _BUILDERS[family](vision, language, text, out)
    return out


def _configs(
    text: PreTrainedTokenizerFast,
    width: int,
    layers: int,
    vision_layers: int,
    heads: int,
    kv_heads: int,
    mlp: int,
    image_size: int,
    patch: int,
) -> tuple[CLIPVisionConfig, LlamaConfig]:
    """The tower and the decoder of every family."""
    vision = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=vision_layers,
        num_attention_heads=heads,
        image_size=image_size,
        patch_size=patch,
        projection_dim=width,
    )
    language = LlamaConfig(
        vocab_size=len(text),
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=8192,
        initializer_range=width**-0.5,  # the usual 0.02 learns slower at these widths (measured)
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
        pad_token_id=text.pad_token_id,
        tie_word_embeddings=False,
    )
    return vision, language


def _llava(vision: CLIPVisionConfig, language: LlamaConfig, text: PreTrainedTokenizerFast, out: Path) -> None:
    config = LlavaConfig(
        vision_config=vision,
        text_config=language,
        image_token_index=text.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
    )
    model = LlavaForConditionalGeneration(config)
    side = vision.image_size // vision.patch_size
    with torch.no_grad():
        embeddings = model.model.vision_tower.embeddings
        embeddings.position_embedding.weight[1:] = 0.1 * _waves_2d(side, vision.hidden_size)
        numbers = [t for t in range(len(text)) if text.convert_ids_to_tokens(t).isdigit()]
        values = torch.tensor([int(text.convert_ids_to_tokens(t)) for t in numbers], dtype=torch.float32)
        for table in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            table[numbers] = table.std() * waves(values / max(1.0, float(values.max())), language.hidden_size)
    model.config.save_pretrained(out)  # not the model's own: among several processes only the first one would write
    model.generation_config.save_pretrained(out)
    save_file({n: t.contiguous() for n, t in model.state_dict().items()}, out / "model.safetensors", {"format": "pt"})
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": vision.image_size},
            crop_size={"height": vision.image_size, "width": vision.image_size},
        ),
        tokenizer=text,
        patch_size=vision.patch_size,
        vision_feature_select_strategy="default",
        chat_template=_PLAIN_CHAT,
        num_additional_image_tokens=1,
    )
    processor.save_pretrained(out)


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


_PLAIN_CHAT = (
    "{% for m in messages %}{{ 'USER:' if m['role'] == 'user' else 'ASSISTANT:' }} "
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{{ '<image>' if c['type'] == 'image' else c['text'] }} {% endfor %}{% endif %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
_BUILDERS = {"llava": _llava}
