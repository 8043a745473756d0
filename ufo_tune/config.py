"""Recipes (training) and protocols (evaluation): typed, frozen, refused on the first unknown key.

    recipe = Recipe.load("quickstart", {"train.max_steps": "10"})

Defaults live here; a YAML file says only what differs. Key names are those of transformers' ``TrainingArguments``
where the meaning is the same. ``${NAME}`` in a string is an environment variable, and an unset one is an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ufo_tune import resources
from ufo_tune.errors import ConfigError
from ufo_tune.plugins import did_you_mean

Tracker = Literal[
    "tensorboard", "wandb", "trackio", "mlflow", "aim", "comet_ml", "clearml", "dvclive", "swanlab", "all"
]
"""Those that accelerate knows, by its names; all but the first are packages of their own."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True)


class LoraSection(_Section):
    """Low-rank adapters on the language model."""

    r: int = Field(8, ge=1)
    alpha: float = Field(16, gt=0)
    dropout: float = Field(0.05, ge=0, lt=1)


class ModelSection(_Section):
    """Which weights, and which of them train."""

    family: str = "llava"
    """File of ufo_tune/models/."""
    base: str
    """Hub id, folder made by ``ufo-tune prepare``, ``embedded`` (the shipped tiny base) or ``tiny:<family>``."""
    options: dict[str, Any] = {}
    """Options of the family's ``build`` (tiles, ...) that differ from the base's own."""
    codec: dict[str, Any] = {}
    """Fields of core.codec.Codec that differ from the base's own, or from the defaults where it has none yet."""
    language: Literal["lora", "full", "frozen"] = "lora"
    vision: Literal["full", "frozen"] = "frozen"
    projector: Literal["full", "frozen"] = "frozen"
    train_tokens: Literal["new", "full"] = "new"
    """``new``: only the rows of our special tokens train; ``full``: embeddings, head and final norm (UFO's way)."""
    lora: LoraSection = LoraSection()
    dtype: Literal["float32", "bfloat16", "auto"] = "auto"
    """Dtype the weights are loaded in."""
    attention: Literal["sdpa", "flex", "stretches"] = "sdpa"
    """Of training: ``flex`` skips what no answer sees (``models.flex``) and needs a GPU, ``stretches`` most of it
    (``models.stretches``) and is for CPUs. Decoding is the same."""
    quantization: Literal["", "nf4", "int8"] = ""
    """QLoRA: the frozen matrices of the language model in 4 or 8 bits (bitsandbytes)."""

    @model_validator(mode="after")
    def _quantized_weights_are_frozen(self) -> Self:
        # Without an adapter a checkpoint is the whole model, and would hold the packed matrices.
        whole = self.language == "full" or (self.language == "frozen" and self.train_tokens == "full")
        if self.quantization and whole:
            raise ValueError(
                f"{self.quantization} weights stay as they are (got language: {self.language}); set language: lora"
            )
        return self


class MixtureEntry(_Section):
    """One source of samples with its own weight."""

    task: str
    dataset: str
    split: str = "train"
    root: str = ""
    options: dict[str, Any] = {}
    """Keyword options of the dataset's ``load``."""
    template: str = ""
    """Name in data_templates/; default: the task's own."""
    weight: float = Field(1.0, gt=0)
    pack: int = Field(1, ge=1)
    """Up to so many samples of one image share a row (single-answer tasks, template with the image first)."""
    repeat_threshold: float = Field(0, ge=0, lt=1)
    """Samples of classes in a smaller share of all samples come oftener: by sqrt(threshold / share), as in LVIS."""
    copy_paste: float = Field(0, ge=0, le=1)
    """Probability that objects of another sample are pasted in (grid tasks with masks; ``data.copy_paste``)."""
    copy_paste_most: int = Field(100, ge=1)
    """At most so many objects are pasted."""
    from_labels: Literal["", "classes", "components"] = ""
    """Instances out of a dataset of label maps: one per class, or one per connected piece of it."""
    part_names: Literal["", "object_part", "part_of_object", "both"] = ""
    """How classes written ``object:part`` are asked: "object part", "the part of the object", or by a coin."""
    window: int = Field(0, ge=0)
    """Train on random squares of so many pixels at native resolution (``data.windows``); 0: whole pictures."""
    dihedral: bool = False
    """Turn and mirror pictures by the eight symmetries of the square: for pictures without an up or a left."""
    in_memory: bool = False
    """Samples and their pixels stay in memory once read: for small sets that are seen again and again."""
    name: str = ""

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        if self.from_labels and self.task != "instance_segmentation":
            raise ValueError(f"from_labels makes instances (got task {self.task}); set task: instance_segmentation")
        for name in ("repeat_threshold", "copy_paste", "window", "dihedral"):
            if self.pack > 1 and getattr(self, name):
                raise ValueError(f"{name} and pack do not go together (got pack {self.pack}); set pack: 1")
        return self


class DataSection(_Section):
    """Where samples come from and what happens to them on the way."""

    mixture: tuple[MixtureEntry, ...] = Field(min_length=1)
    augment: dict[str, Any] = {}
    """Options of data.augment.Augment; empty means none."""
    max_length: int = Field(4096, ge=16)
    """Longer rows are dropped and counted, never cut."""
    on_bad_sample: Literal["error", "skip"] = "error"
    """Whether a sample that cannot be read or put into words stops the training, or is left out and counted."""
    exclude_eval: bool = True
    """Samples that show an image of ``eval.protocols`` are left out and counted."""
    num_workers: int = Field(0, ge=0)


class TrainSection(_Section):
    """The loop; names as in transformers' TrainingArguments."""

    max_steps: int = Field(1000, ge=1)
    max_seconds: float = Field(0, ge=0)
    """Anneal over this wall time instead of ``max_steps`` and stop there; 0: off. Not resumable bit for bit."""
    per_device_train_batch_size: int = Field(1, ge=1)
    gradient_accumulation_steps: int = Field(1, ge=1)
    learning_rate: float = Field(2e-4, gt=0)
    lr_multipliers: dict[Literal["vision", "projector", "language", "tokens", "objectives"], float] = {}
    optim: Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "muon"] = "adamw"
    """``_8bit`` and ``paged_`` are bitsandbytes': moments in 8 bits, or moved to the CPU when the GPU is full.
    ``muon``: orthogonalised steps for the hidden matrices of small models trained in full, AdamW for the rest."""
    muon_learning_rate: float = Field(0.02, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    adam_beta2: float = Field(0.999, gt=0, lt=1)
    adam_epsilon: float = Field(1e-8, gt=0)
    warmup_steps: int = Field(0, ge=0)
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = "cosine"
    max_grad_norm: float = Field(1.0, gt=0)
    bf16: bool = False
    gradient_checkpointing: bool = False
    compile: bool = False
    """Compile each decoder layer (torch.compile): the first steps take minutes, those after them less."""
    liger: bool = False
    """The decoder's norms, rotations and feed-forward parts by liger's kernels: GPU, pip install 'ufo-tune[liger]'."""
    pack_tokens: int = Field(0, ge=0)
    """Rows of a batch share a row of the decoder, of at most so many tokens, unseen by each other; 0: each its own."""
    vision_cache: float = Field(0, ge=0)
    """Gigabytes of each process's memory for the outputs of a frozen vision tower, by image; 0: none are kept."""
    seed: int = 0
    save_steps: int = Field(0, ge=0)
    """Checkpoint every so many steps; 0: only at the end."""
    save_total_limit: int = Field(2, ge=1)
    logging_steps: int = Field(10, ge=1)
    report_to: tuple[Tracker, ...] = ("tensorboard",)


class EvalSection(_Section):
    """Evaluation by generation during and after training."""

    every: int = Field(0, ge=0)
    """Steps between evaluations; 0: none."""
    protocols: tuple[str, ...] = ()
    limit: int = Field(0, ge=0)
    """Samples of each protocol; 0: all."""
    best: str = ""
    """``protocol/split/metric``: the checkpoint with its highest value is kept, linked as ``best``; with a minus sign
    in front (``-nyu_depth/test/RMSE``), the lowest."""

    @model_validator(mode="after")
    def _best_is_evaluated(self) -> Self:
        protocol = self.best.removeprefix("-").partition("/")[0]
        if self.best and (self.best.count("/") != 2 or not self.every):
            raise ValueError(f"best {self.best!r} needs protocol/split/metric, and every above 0")
        if self.best and protocol not in {Path(p.partition(":")[0]).stem for p in self.protocols}:
            raise ValueError(f"best {self.best!r} names no protocol of this section; use {list(self.protocols)}")
        return self


class _Document(_Section):
    @classmethod
    def load(cls, name_or_file: str, overrides: Mapping[str, Any] | None = None, *, keep_unset: bool = False) -> Self:
        """Read a YAML by name (shipped) or path and apply ``{"a.b": "value"}`` overrides.

        Texts among the overrides are read as YAML, other values are taken as they are.
        ``keep_unset`` leaves environment variables that are not set as they are written, for looking at names only.

        Raises:
            ConfigError: no such file, bad YAML, unknown key, value out of range.
        """
        path = resources.locate(cls._folder(), name_or_file)
        return cls.from_dict(resources.read_yaml(path), overrides, where=path.name, keep_unset=keep_unset)

    @classmethod
    def from_dict(
        cls,
        data: dict[str, Any],
        overrides: Mapping[str, Any] | None = None,
        where: str = "recipe",
        *,
        keep_unset: bool = False,
    ) -> Self:
        """Validate a plain dict; see ``load``."""
        for key, text in (overrides or {}).items():
            _set(data, key, _parse(text, key, where), where)
        try:
            return cls.model_validate(_expand(data, where, keep_unset))
        except ValidationError as error:
            raise ConfigError("\n".join(_explain(where, e, cls) for e in _causes(error))) from error

    def save(self, path: Path) -> None:
        """Write the resolved document, defaults included."""
        path.write_text(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True))

    @classmethod
    def _folder(cls) -> str:
        raise TypeError(cls)


class Recipe(_Document):
    """One training run. ``tasks`` and ``objectives`` map plug-in names to their options."""

    description: str = ""
    expected: str = ""
    """Expected score with its source, or "not measured"."""
    model: ModelSection
    tasks: dict[str, dict[str, Any]] = {}
    data: DataSection
    objectives: dict[str, dict[str, Any]] = {"next_token": {}, "mask_retrieval": {}}
    train: TrainSection = TrainSection()
    eval: EvalSection = EvalSection()

    @classmethod
    def _folder(cls) -> str:
        return "recipes"


class DecodeSection(_Section):
    """How answers are generated."""

    max_new_tokens: int = Field(64, ge=1)
    constrained: bool = False
    """Only tokens that the answer grammar allows."""
    forced_runs: bool = True
    compaction: bool = True
    batch_size: int = Field(8, ge=1)


class TilingSection(_Section):
    """A picture asked about tile by tile at native resolution, the answers joined (``engine.tiling``)."""

    side: int = Field(ge=1)
    """Of a tile, in pixels; best what the model was trained on (``MixtureEntry.window``)."""
    stride: int = Field(0, ge=0)
    """Pixels from one tile to the next; 0: half of the side."""
    turns: bool = False
    """Ask about each tile eight times, turned and mirrored; the answers are turned back and blended."""

    @model_validator(mode="after")
    def _tiles_touch(self) -> Self:
        if self.stride > self.side:
            raise ValueError(f"tiles leave gaps (got side {self.side}, stride {self.stride}); set stride: {self.side}")
        return self


class Protocol(_Document):
    """One evaluation: what to ask, how, how to score it, and what others report."""

    description: str = ""
    task: str
    template: str = ""
    """For models that were not trained on this dataset; those that were are asked as in their training."""
    dataset: str
    root: str = ""
    splits: tuple[str, ...] = Field(min_length=1)
    options: dict[str, Any] = {}
    task_options: dict[str, Any] = {}
    metric: str
    metric_options: dict[str, Any] = {}
    pack: int = Field(1, ge=1)
    decode: DecodeSection = DecodeSection()
    tiling: TilingSection | None = None
    """None: every picture is seen whole."""
    reference: tuple[dict[str, Any], ...] = ()

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        for row in self.reference:
            if not {"model", "split", "source"} <= set(row):
                raise ValueError(f"reference {row} needs model, split and source")
        if self.tiling is not None and self.pack > 1:
            raise ValueError(f"tiling and pack do not go together (got pack {self.pack}); set pack: 1")
        return self

    @classmethod
    def _folder(cls) -> str:
        return "eval"


def _parse(text: Any, key: str, where: str) -> Any:
    """A value of the command line; in Python it may be one already."""
    if not isinstance(text, str):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: --{key}: not a YAML value (got {text!r}); quote it") from error


def _set(data: Any, dotted: str, value: Any, where: str) -> None:
    *parents, last = dotted.split(".")
    node = data
    for key in parents:
        node = node[_index(node, key, where, dotted)] if isinstance(node, list) else node.setdefault(key, {})
        if not isinstance(node, dict | list):
            raise ConfigError(
                f"{where}: --{dotted}: {key} is not a section (got {node!r}); give a key inside a section"
            )
    if isinstance(node, list):
        node[_index(node, last, where, dotted)] = value
    else:
        node[last] = value


def _index(items: list[Any], key: str, where: str, dotted: str) -> int:
    if not key.isdigit() or int(key) >= len(items):
        raise ConfigError(f"{where}: --{dotted}: no such entry (got {key!r}); use 0..{len(items) - 1}")
    return int(key)


def _expand(value: Any, where: str, keep_unset: bool = False) -> Any:
    if isinstance(value, dict):
        return {k: _expand(v, f"{where}.{k}", keep_unset) for k, v in value.items()}
    if isinstance(value, list):
        return [_expand(v, where, keep_unset) for v in value]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        if match[1] not in os.environ and keep_unset:
            return match[0]
        if match[1] not in os.environ:
            raise ConfigError(f"{where}: environment variable is not set (got ${{{match[1]}}}); export {match[1]}=...")
        return os.environ[match[1]]

    return re.sub(r"\$\{(\w+)\}", variable, value)


def _causes(error: ValidationError) -> list[Any]:
    """Without the complaint that a list is too short because one of its entries was refused."""
    faults = error.errors()
    places = [e["loc"] for e in faults]
    return [
        e for e in faults if e["type"] != "too_short" or not any(p[: len(e["loc"])] == e["loc"] != p for p in places)
    ]


def _explain(where: str, error: Any, root: type[BaseModel]) -> str:
    dotted = ".".join(str(p) for p in error["loc"])
    value = error.get("input")
    if error["type"] == "extra_forbidden":
        hint = did_you_mean(str(error["loc"][-1]), _keys(root, error["loc"][:-1]))
        return f"{where}: {dotted}: no such key (got {value!r}); {hint}"
    if error["type"] == "missing":
        return f"{where}: {dotted}: is required (got nothing); add it"
    return f"{where}: {dotted}: {error['msg']} (got {value!r}); see `ufo-tune recipes show` for an example"


def _keys(model: Any, path: tuple[Any, ...]) -> list[str]:
    for part in path:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        inner = [a for a in getattr(annotation, "__args__", ()) if isinstance(a, type)]
        model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else inner[0]
    return list(model.model_fields)
