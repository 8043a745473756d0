"""Load a model from wherever it is: Hub id, Hugging Face folder, prepared base, run, ``embedded``, ``tiny:``."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoConfig

from ufo_tune import plugins
from ufo_tune.core.codec import Codec
from ufo_tune.engine import checkpoint, quantized, remote
from ufo_tune.errors import ConfigError, ModelError
from ufo_tune.models import tiny
from ufo_tune.models.ufo import CONFIG_NAME, UfoModel, read_settings

EMBEDDED = Path(__file__).parent.parent / "assets" / "tiny_base"
"""The pretrained base of the quickstart, shipped in the wheel."""
DTYPES = ("auto", "float32", "bfloat16", "float16")
ADAPTER = "adapter_config.json"


def load(
    path: str | Path, *, dtype: str = "auto", quantization: str | None = None, revision: str | None = None
) -> UfoModel:
    """A model that ufo-tune wrote: a prepared base, a merged model, or a run (its last complete checkpoint).

    Args:
        path: its folder; or a published model, ``ORG/NAME``, where there is no such folder.
        dtype: ``auto`` keeps the dtype on disk, except that CPUs get float32.
        quantization: ``nf4`` or ``int8``, or an empty string for none; default: as the run was trained.
        revision: branch, tag or commit of a published model.
    Raises:
        ConfigError: no such dtype or quantization.
        ModelError: not such a folder, or a truncated one; no such repository, or it cannot be reached.
    """
    if dtype not in DTYPES and not isinstance(dtype, torch.dtype):
        raise ConfigError(f"load: no such dtype (got {dtype!r}); give one of {', '.join(DTYPES)}")
    quantized.check(quantization or "")
    folder = Path(path)
    remote.refuse(str(path), right="give a model made by `ufo-tune prepare`, `train` or `merge`")
    if not folder.is_dir():
        folder = remote.snapshot(str(path), revision)
    elif revision is not None:
        raise ModelError(f"{path}: a folder has no revisions (got {revision!r}); leave revision out")
    if (folder / "last").exists():
        folder = (folder / "last").resolve()
    settings = read_settings(folder)
    if (folder / ADAPTER).exists():
        return _with_adapter(folder, settings, dtype, quantization)
    return _checked(folder, lambda: _build(str(folder), settings, dtype, quantization or ""))


def base(
    name: str,
    family: str,
    codec: dict[str, Any],
    options: dict[str, Any],
    *,
    dtype: str = "auto",
    quantization: str = "",
) -> UfoModel:
    """A base to train: anything ``load`` takes, ``embedded``, ``tiny:<family>``, or a plain Hugging Face model.

    Args:
        name: which one.
        family: file of ``models/``; ignored where the folder says it.
        codec: fields that differ from the base's own codec, or from the defaults where it has none yet.
        options: of the family's ``build`` that differ from its own (a tiny family: of ``models.tiny.build`` too).
        dtype: ``auto`` keeps the dtype on disk, except that CPUs get float32, and others bfloat16 for float16: training
            has no loss scaling, which the range of float16 would need.
        quantization: of the language model's matrices: ``nf4``, ``int8`` or none.
    Raises:
        ConfigError: an option that the family does not know.
        ModelError: no such folder or repository, files that are damaged, an adapter, or a codec that cannot be.
    """
    refuse_base(name)
    if name == "embedded":
        name = str(EMBEDDED)
    if name.startswith("tiny:"):
        with tempfile.TemporaryDirectory() as temporary:
            kind = name.removeprefix("tiny:")
            sizes, rest = tiny.split(options)
            made = tiny.build(kind, Path(temporary), **sizes)
            return base(str(made), kind.partition("/")[0], codec, rest, dtype=dtype, quantization=quantization)
    if dtype == "auto" and torch.cuda.is_available() and _checked(Path(name), lambda: precision(name)) == torch.float16:
        dtype = "bfloat16"
    last = Path(name) / "last"
    folder = last.resolve() if last.exists() else Path(name)
    if not folder.exists() and remote.is_published(name):
        folder = remote.snapshot(name)
    if (folder / CONFIG_NAME).exists():
        if (folder / ADAPTER).exists():
            raise ModelError(f"{name}: is an adapter, no base (got {ADAPTER}); first run `ufo-tune merge {name}`")
        settings = changed(read_settings(folder), codec, options)
        return _checked(folder, lambda: _build(str(folder), settings, dtype, quantization))
    plugins.check_options(f"models/{family}", plugins.find("models", family).build, options)
    settings = {"family": family, "codec": {**Codec().to_dict(), **codec}, "options": options}
    return _checked(Path(name), lambda: _build(name, settings, dtype, quantization))


def changed(settings: dict[str, Any], codec: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Settings of a base as a recipe wants them: what it says goes before what the base has, the rest stays.

    Raises:
        ConfigError: an option that the family does not know.
    """
    plugins.check_options(f"models/{settings['family']}", plugins.find("models", settings["family"]).build, options)
    return settings | {"codec": settings["codec"] | codec, "options": settings["options"] | options}


def refuse_base(name: str) -> None:
    """Refuse what can be no base, without opening it.

    Raises:
        ModelError: a file, a folder without a model, or a path that is not there and is no repository's name.
    """
    if name == "embedded" or name.startswith("tiny:"):
        return
    right = "give a folder (`ufo-tune prepare` makes one), ORG/NAME of the Hub, embedded, or tiny:FAMILY"
    remote.refuse(name, right=right, single=True)
    folder = Path(name)
    if folder.is_dir() and not any((folder / part).exists() for part in ("config.json", CONFIG_NAME, "last")):
        raise ModelError(f"{name}: holds no model (got no config.json); {right}")


def precision(name: str) -> torch.dtype | None:
    """The precision that a base has on disk; None where it has no files (``tiny:<family>``), or its config is silent.

    Args:
        name: as ``base`` takes it.
    """
    if name.startswith("tiny:"):
        return None
    folder = EMBEDDED if name == "embedded" else Path(name)
    found = (folder / "last") if (folder / "last").exists() else folder
    dtype: torch.dtype | None = AutoConfig.from_pretrained(str(found)).dtype
    return dtype


def _build(path: str, settings: dict[str, Any], dtype: str, quantization: str) -> UfoModel:
    build = plugins.find("models", settings["family"]).build
    kept = _weights(dtype, quantization)
    model: UfoModel = build(path, Codec.from_dict(settings["codec"]), **settings["options"], **kept)
    model.settings["family"] = settings["family"]  # a family of one's own may be made of another's classes
    model.adopt(settings)
    return model


def _weights(dtype: str, quantization: str) -> dict[str, Any]:
    """How ``from_pretrained`` is to keep weights; CPUs compute bfloat16 several times slower than float32."""
    kept = torch.float32 if dtype == "auto" and not torch.cuda.is_available() else dtype
    return {"dtype": kept, **quantized.weights(quantization, kept)}


def _with_adapter(folder: Path, settings: dict[str, Any], dtype: str, quantization: str | None) -> UfoModel:
    """The run's base with the adapter's layers in place and every trained parameter on top."""
    from peft import PeftModel  # here alone: its import takes longer than loading a small model

    from ufo_tune.models.new_tokens import beside_tables

    origin = settings["base"]
    kept = settings.get("quantization", "") if quantization is None else quantization
    options = settings["base_options"] | settings["options"]  # sizes of a tiny base, and what was trained with
    model = base(origin, settings["family"], settings["codec"], options, dtype=dtype, quantization=kept)
    hf: Any = model.vlm.hf
    model.adapter = _checked(folder, lambda: PeftModel.from_pretrained(hf, str(folder)))
    beside_tables(hf)
    checkpoint.restore(model, _checked(folder, lambda: load_file(folder / checkpoint.TRAINED)), folder)
    model.settings |= {k: settings[k] for k in ("base", "base_options", "quantization") if k in settings}
    model.adopt(settings)
    return model


def _checked(folder: Path, call: Any) -> Any:
    """Turn a damaged file into one clear line."""
    try:
        return call()
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise remote.unreadable(str(folder), error) from error
