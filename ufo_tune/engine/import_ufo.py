"""``import-ufo``: weights that UFO released, as a Hugging Face folder of ours or as a PEFT adapter on one.

The files hold what was trained (LoRA factors, embeddings, head, norms, sometimes the projector) or the whole model;
the base gives the rest. Every key is accounted for, and nothing but tensors is read.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from ufo_tune import outputs, plugins
from ufo_tune.core import tokens
from ufo_tune.core.codec import Codec
from ufo_tune.engine import checkpoint, remote
from ufo_tune.engine.load import load
from ufo_tune.engine.whole_folder import whole_or_nothing
from ufo_tune.errors import ConfigError, ModelError
from ufo_tune.models import released

TEMPLATES = {
    task: f"ufo_{task}"
    for task in ("rec", "res", "detection", "instance_segmentation", "semantic_segmentation", "caption")
}
"""Task -> the wording that the weights were trained with."""
DATASET_TEMPLATES = {"res/reason_seg": "ufo_reason_seg"}
"""The same on one dataset."""
_LORA = re.compile(r"\.lora_([AB])(?:\.default)?\.weight$")
_INNER = ("state_dict", "module", "model")
"""Where mmengine and DeepSpeed keep the weights."""
_SHOWN = 8


def import_ufo(
    file: Path,
    base: str,
    out: Path,
    *,
    family: str,
    adapter: bool = False,
    alpha: float = 16,
    codec: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, int]:
    """Write ``out``, a model that ``load`` reads.

    Args:
        file: a file (bare weights, mmengine, DeepSpeed, safetensors) or a folder of shards.
        base: Hub id or folder of the Hugging Face model that UFO started from.
        out: folder to write; must not exist yet.
        family: of ``models/released``.
        adapter: keep LoRA factors apart: ``out`` is an adapter, and its base is ``out/base``.
        alpha: of LoRA; the files do not tell.
        codec: fields that differ from the family's release (``num_bins`` of another resolution).
        options: of the family's ``build`` that differ (``tiles`` of another resolution).
    Returns:
        ``{"keys", "lora", "ignored", "from_base"}``: how many keys were read, were LoRA factors, were no weights, and
        how many parameters came from the base.
    Raises:
        ConfigError: ``out`` exists or cannot be a folder, or no weights of the family were released.
        ModelError: no such base, an unreadable file, keys that fit nothing (all are listed), shapes that differ,
            another vocabulary.
    """
    if outputs.folder(out).exists():
        raise ConfigError(f"{out}: exists already; choose another --out")
    remote.refuse(base, right="give the folder or Hub id of the Hugging Face model that UFO started from", single=True)
    layout = _layout(family)
    state = {strip(key): value for key, value in read(file).items()}
    ignored = [k for k in state if re.search(layout.IGNORED, k)]
    try:
        hf = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
        processor = AutoProcessor.from_pretrained(base)
    except (OSError, ValueError) as error:
        raise remote.unreadable(base, error) from error
    parts = sort({k: v for k, v in state.items() if k not in ignored}, layout, hf.config)
    _add_tokens(hf, processor, parts, layout)
    if not adapter:
        parts.merge(dict(hf.named_parameters()), alpha)
    _fill(hf, parts)
    layout.configure(hf)
    processor.chat_template = layout.CHAT_TEMPLATE
    with whole_or_nothing(out) as part:
        _write(part / "base" if adapter else part, hf, processor, layout, family, codec or {}, options or {})
        if adapter:
            _write_adapter(part, out, parts, alpha)
    return {
        "keys": len(state),
        "lora": 2 * len(parts.factors),
        "ignored": len(ignored),
        "from_base": len(list(hf.parameters())) - len(parts.weights),
    }


def read(path: Path) -> dict[str, Tensor]:
    """All tensors of a file or a folder of shards, by their released names.

    Raises:
        ModelError: no weights there, something else than tensors in a file, or a key in two shards.
    """
    found: dict[str, Tensor] = {}
    for file in _files(path):
        for key, value in _load(file).items():
            if key in found:
                raise ModelError(f"{file}: has a key that another shard has too (got {key}); remove one of the files")
            found[key] = value
    return found


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    for pattern in ("*.safetensors", "pytorch_model*.bin", "**/mp_rank_*_model_states.pt", "*.pth", "*.pt", "*.bin"):
        if files := sorted(path.glob(pattern)):
            return files
    raise ModelError(f"{path}: no weights there; give a .pth, .pt, .bin or .safetensors file, or a folder of them")


def _load(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        return load_file(file)
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises a different class for every way a file can be bad
        line = str(error).strip().splitlines()[0]
        raise ModelError(
            f"{file}: cannot be read as tensors alone ({line}); a file with other objects in it is never unpickled: "
            "save its 'state_dict' again where you trust it"
        ) from error
    while isinstance(content, Mapping) and (inner := next((k for k in _INNER if k in content), None)):
        content = content[inner]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ModelError(f"{file}: holds no weights (got {type(content).__name__}); give a state dict")
    return dict(content)


def strip(key: str) -> str:
    """A key without the wrappers of detector, DDP and PEFT."""
    key = key.removeprefix("module.").removeprefix("backbone.")
    return key.replace("language_model.base_model.model.", "language_model.").replace(".base_layer.", ".")


@dataclass(slots=True)
class Parts:
    """Released weights under the names of the Hugging Face model."""

    weights: dict[str, Tensor] = field(default_factory=dict)
    factors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """Parameter -> LoRA's A [r, in] and B [out, r]."""

    def merge(self, parameters: Mapping[str, Tensor], alpha: float) -> None:
        """Put W + alpha / r * B A in the place of the factors; W is the file's own, or the base's."""
        for name, pair in self.factors.items():
            weight = self.weights.get(name, parameters[name].detach()).float()
            delta = pair["B"].float() @ pair["A"].float()
            self.weights[name] = weight + alpha / len(pair["A"]) * delta


def sort(state: Mapping[str, Tensor], layout: ModuleType, config: Any) -> Parts:
    """Released tensors by the parameters that they become.

    Raises:
        ModelError: keys that fit nothing, or one LoRA factor without the other; all are listed.
    """
    sorted_, unknown = Parts(), []
    for key, value in state.items():
        lora = _LORA.search(key)
        found = layout.parts(_LORA.sub(".weight", key), config)
        if found is None:
            unknown.append(key)
            continue
        for name, rows in found:
            if lora is None:
                sorted_.weights[name] = rows(value).contiguous()
            else:
                factor = value if lora[1] == "A" else rows(value)  # the rows of W are those of B
                sorted_.factors.setdefault(name, {})[lora[1]] = factor.contiguous()
    unknown += [f"{n} (LoRA {', '.join(p)} alone)" for n, p in sorted_.factors.items() if len(p) != 2]
    if unknown:
        raise ModelError(f"import-ufo: {len(unknown)} keys fit nothing in this family: {_listed(unknown)}")
    return sorted_


def _layout(family: str) -> ModuleType:
    known = plugins.modules(released)
    if family not in known:
        raise ConfigError(
            f"import-ufo: UFO released no such family (got {family!r}); {plugins.did_you_mean(family, known)}"
        )
    return importlib.import_module(f"ufo_tune.models.released.{family}")


def _add_tokens(hf: Any, processor: Any, parts: Parts, layout: ModuleType) -> None:
    """UFO's tokens in its order, the matrices cut or grown to the file's rows; then a row for our ``<DEPTH>``."""
    tokenizer = processor.tokenizer
    tokenizer.add_tokens([t for t in layout.TOKENS if t not in tokenizer.get_vocab()], special_tokens=False)
    rows = {n: len(w) for n, w in parts.weights.items() if n.endswith(("embed_tokens.weight", "lm_head.weight"))}
    if rows and set(rows.values()) != {len(tokenizer)}:
        raise ModelError(
            f"import-ufo: the file has {rows} rows for a vocabulary of {len(tokenizer)}; give the base that UFO "
            "started from"
        )
    hf.resize_token_embeddings(len(tokenizer), mean_resizing=False)


def _fill(hf: Any, parts: Parts) -> None:
    """Copy the weights in."""
    parameters = dict(hf.named_parameters())
    wrong = [n for n in (*parts.weights, *parts.factors) if n not in parameters]
    wrong += [
        f"{n} {tuple(w.shape)}, the base has {tuple(parameters[n].shape)}"
        for n, w in parts.weights.items()
        if n in parameters and parameters[n].shape != w.shape
    ]
    if wrong:
        raise ModelError(f"import-ufo: {len(wrong)} weights do not fit the base: {_listed(wrong)}")
    with torch.no_grad():
        for name, value in parts.weights.items():
            parameters[name].copy_(value)


def _write(
    folder: Path,
    hf: Any,
    processor: Any,
    layout: ModuleType,
    family: str,
    codec: Mapping[str, Any],
    options: Mapping[str, Any],
) -> None:
    """A folder of ours: the family opens it once, which adds what is still missing and checks all tokens."""
    chosen = Codec.from_dict({**layout.CODEC.to_dict(), **codec})
    new = tokens.add_tokens(processor.tokenizer, chosen)  # <DEPTH>, which UFO's code has not
    hf.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
    for table in (hf.get_input_embeddings().weight, hf.get_output_embeddings().weight):
        tokens.initialise_rows(table, new)
    folder.mkdir(parents=True)
    hf.save_pretrained(folder)
    processor.save_pretrained(folder)
    build = plugins.find("models", family).build
    given = {**layout.OPTIONS, **options}
    plugins.check_options(f"models/{family}", build, given)
    model = build(str(folder), chosen, **given)
    model.settings |= {"templates": TEMPLATES, "dataset_templates": DATASET_TEMPLATES}
    model.save_settings(folder)


def _write_adapter(part: Path, out: Path, parts: Parts, alpha: float) -> None:
    """A PEFT adapter in ``part`` on ``part/base``, in the form of a checkpoint of ours."""
    if not parts.factors:
        raise ModelError("import-ufo: the file has no LoRA factors (got a full fine-tune); leave out --adapter")
    model = load(part / "base", dtype="float32")
    rank = len(next(iter(parts.factors.values()))["A"])
    targets = sorted(n.removesuffix(".weight") for n in parts.factors)
    config = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=alpha, target_modules=targets)
    model.adapter = get_peft_model(model.vlm.hf, config)  # type: ignore[arg-type]
    parameters = dict(model.vlm.hf.named_parameters())
    with torch.no_grad():
        for name, pair in parts.factors.items():
            for letter, value in pair.items():
                parameters[name.replace(".weight", f".lora_{letter}.default.weight")].copy_(value)
    model.adapter.save_pretrained(part)
    trained = {n: p.detach().contiguous() for n, p in parameters.items() if p.requires_grad}
    save_file(trained, part / checkpoint.TRAINED)
    model.processor.save(part)
    model.settings |= {"base": str((out / "base").absolute()), "base_options": {}}
    model.save_settings(part)


def _listed(names: list[str]) -> str:
    shown: Iterator[str] = iter(names[:_SHOWN])
    return "; ".join(shown) + (f"; and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
