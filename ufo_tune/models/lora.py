"""Which parameters train: LoRA on the language model, whole parts, and the rows of the new tokens.

LoRA targets are a regular expression on the language model only: ``all-linear`` would reach the vision tower too.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, TrainableTokensConfig, get_peft_model

from ufo_tune.config import ModelSection
from ufo_tune.errors import ConfigError
from ufo_tune.models.new_tokens import beside_tables
from ufo_tune.models.ufo import UfoModel


def is_full(section: ModelSection) -> bool:
    """Whether the recipe trains whole parts only, so that checkpoints are complete models without an adapter."""
    return section.language != "lora" and section.train_tokens == "full"


def apply(model: UfoModel, section: ModelSection) -> PeftModel | None:
    """Set ``requires_grad`` everywhere as the recipe says; wrap the HF model in PEFT where it asks for adapters.

    The PEFT wrap injects its layers in place, so ``model.vlm.hf`` stays the same object and every path through the
    model sees the adapters.

    Returns:
        The PEFT model that saves the adapter, or None for full fine-tuning.
    Raises:
        ConfigError: nothing would train.
    """
    hf: Any = model.vlm.hf
    adapter: PeftModel | None = None
    if not is_full(section):
        adapter = get_peft_model(hf, _adapter_config(model, section))
        beside_tables(hf)
    whole = {"vision": section.vision, "projector": section.projector, "language": section.language}
    for name, parameter in hf.named_parameters():
        if _is_adapter(name):
            continue
        part = model.vlm.part_of(name.replace(".base_layer", ""))
        if part == "tokens":
            parameter.requires_grad_(section.train_tokens == "full")
        else:
            parameter.requires_grad_(whole[part] == "full")
    if section.train_tokens == "full":
        model.vlm.text_model.norm.requires_grad_(True)  # type: ignore[union-attr, operator]
    if not any(p.requires_grad for p in hf.parameters()):
        raise ConfigError("model: nothing would train; set language, vision, projector or train_tokens")
    model.adapter = adapter
    return adapter


def precise(model: UfoModel, section: ModelSection) -> None:
    """Make what trains float32, and what does not as the recipe says; after ``apply``."""
    hf: Any = model.vlm.hf
    frozen = None if section.dtype == "auto" else getattr(torch, section.dtype)
    for parameter in hf.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else frozen or parameter.dtype)


def _is_adapter(name: str) -> bool:
    return "lora_" in name or "trainable_tokens_" in name


def _adapter_config(model: UfoModel, section: ModelSection) -> PeftConfig:
    """LoRA on the language model, and the new tokens' rows in embeddings and (untied) head."""
    hf: Any = model.vlm.hf
    ids = model.new_token_ids() if section.train_tokens == "new" else []
    tables = ["embed_tokens"]
    if hf.get_output_embeddings().weight is not hf.get_input_embeddings().weight:
        tables.append("lm_head")  # with the embedding alone the head's rows would stay untrained
    if section.language != "lora":
        return TrainableTokensConfig(token_indices=ids, target_modules=tables)
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=section.lora.r,
        lora_alpha=section.lora.alpha,
        lora_dropout=section.lora.dropout,
        target_modules=model.vlm.lora_targets,
        trainable_token_indices=dict.fromkeys(tables, ids) if ids else None,
    )
