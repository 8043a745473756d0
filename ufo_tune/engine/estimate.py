"""What a recipe needs, before anything is spent: memory of each GPU under each profile, operations, the KV cache.

    found = estimate(Recipe.load("llava15_7b_lora"), gpus=8)
    found.profiles["zero2"]["needed"]

Weights are counted on the model that would train, made from its config (``engine.phantom``). What forward and backward
keep is counted by running them on the largest of a few batches of the recipe's own data (``engine.ledger``): nothing of
it is a rule of thumb. The rest follows from these assumptions:

- Optimizers, bytes for each trained parameter. ``adamw``: two moments of 4, and a copy of 4 of one in half precision.
  ``muon``: moments in its dtype, one for hidden matrices. ``paged_adamw``: 8. ``_8bit``: two bytes and two scales of 4
  bytes for each 256 values (Dettmers et al. 2021, arXiv 2110.02861); 8 for tensors of fewer than 4096.
- ``nf4``: half a byte, one of scale for each 64 values, and four for each 256 of these (Dettmers et al. 2023, arXiv
  2305.14314); ``int8``: one byte, and four for each row. One matrix at a time is whole again.
- ZeRO parts what Rajbhandari et al. 2020 (arXiv 1910.02054) say: stage 1 optimizer, 2 gradients too, 3 weights too.
  DeepSpeed keeps a master copy in float32, moments in float32, weights and gradients in bfloat16 with ``train.bf16``,
  one buffer of 5e8 values for gradients on their way, and in stage 3 up to 1e9 gathered weights: its defaults.
- FSDP2 parts all three; two blocks and what is in no block are gathered. accelerate keeps trained weights in float32
  with ``train.bf16``. DDP on several GPUs holds every gradient twice, the second time in its buckets.
- CUDA's context (half a GiB or so), fragments between allocations and temporaries of the optimizer are not counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ufo_tune.config import Recipe
from ufo_tune.core.types import PAD, Batch
from ufo_tune.engine import ledger, quantized
from ufo_tune.engine.kv_cache import Cache, caches
from ufo_tune.engine.optim import optimizer
from ufo_tune.engine.phantom import faked, phantom
from ufo_tune.engine.sources import Sources
from ufo_tune.engine.trainable import Trainable
from ufo_tune.errors import DataError
from ufo_tune.models.ufo import UfoModel

PARTS = (
    "weights", "gathered", "gradients", "buckets", "optimizer", "activations", "logits", "working", "batch",
)  # fmt: skip
_DRAWS = 4  # batches of each entry that are looked at
_BUCKET, _LIVE = 500_000_000, 1_000_000_000  # values: DeepSpeed's reduce_bucket_size and stage3_max_live_parameters


@dataclass(frozen=True, slots=True)
class Profile:
    """What is spread over the GPUs, and by whom."""

    optimizer: bool = False
    gradients: bool = False
    weights: bool = False
    deepspeed: bool = False
    offload: bool = False


PROFILES = {
    "ddp": Profile(),
    "zero1": Profile(optimizer=True, deepspeed=True),
    "zero2": Profile(optimizer=True, gradients=True, deepspeed=True),
    "zero3": Profile(optimizer=True, gradients=True, weights=True, deepspeed=True),
    "zero3_offload": Profile(optimizer=True, gradients=True, weights=True, deepspeed=True, offload=True),
    "fsdp2": Profile(optimizer=True, gradients=True, weights=True),
}
"""By the names of ``recipes/accelerate/``."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes unless said otherwise; ``profiles`` maps each to its ``PARTS``, their sum ``needed``, and ``host``."""

    parameters: int
    trainable: int
    gpus: int
    rows: int  # of a batch
    row_tokens: int  # of its longest row
    batches: int  # that were looked at
    tokens_per_step: int  # on all GPUs, were all batches like this one
    flops_per_step: int  # on each GPU
    pageable: bool  # the optimizer's moments may go to the host
    caches: tuple[Cache, ...]  # of evaluation
    profiles: dict[str, dict[str, int]]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def estimate(
    recipe: Recipe,
    *,
    gpus: int = 1,
    profiles: Sequence[str] = tuple(PROFILES),
    sources: Sources | None = None,
    quick: bool = False,
) -> Estimate:
    """Count what a recipe needs. Reads the base's config and a few samples; neither weights nor a GPU are touched.

    Args:
        recipe: what would run.
        gpus: that share the work.
        profiles: names in ``PROFILES``.
        sources: the recipe's, where they are open already.
        quick: run the batch with most tokens only, not the one with most pixels of masks too; leave evaluation out.
    Raises:
        ConfigError: a name does not resolve.
        DataError: the data cannot be read.
        ModelError: config or processor of the base are not on this machine and cannot be fetched.
    """
    model = phantom(recipe.model)
    with torch.device("meta"):
        module = Trainable(model, recipe.objectives).train()
    faked(module)
    if recipe.train.gradient_checkpointing:
        model.recompute_activations()
    batches = _batches(recipe, sources or Sources(recipe, model))
    traces = [(ledger.traced(module, b, bf16=recipe.train.bf16), b) for b in _extremes(batches)[: 1 if quick else 2]]
    trace, batch = max(traces, key=lambda found: sum(found[0].peak().values()))
    weights = _weights(recipe, model, module)
    accumulation = recipe.train.gradient_accumulation_steps
    found = {
        name: _profile(PROFILES[name], weights, trace, recipe, gpus) | {"batch": accumulation * ledger.size_of(batch)}
        for name in profiles
    }
    for parts in found.values():
        parts["needed"] = sum(parts[name] for name in PARTS)
    return Estimate(
        parameters=sum(w.numel for w in weights),
        trainable=sum(w.numel for w in weights if w.trains),
        gpus=gpus,
        rows=len(batch.ids),
        row_tokens=batch.ids.shape[1],
        batches=len(batches),
        tokens_per_step=int((batch.segment != PAD).sum()) * accumulation * gpus,
        flops_per_step=trace.flops * accumulation,
        pageable=recipe.train.optim.startswith("paged_"),
        caches=() if quick else caches(recipe, model),
        profiles=found,
    )


def _batches(recipe: Recipe, sources: Sources) -> list[Batch]:
    """A few batches of every entry, as training will see them."""
    rng = np.random.default_rng(recipe.train.seed)
    found: list[Batch] = []
    for entry in range(len(sources.entries)):
        for _ in range(_DRAWS):
            groups = sources.mixture.random_groups(entry, recipe.train.per_device_train_batch_size, rng)
            try:
                batch = sources.collate(entry, groups, rng)
            except DataError:
                if recipe.data.on_bad_sample == "error":
                    raise
                continue
            if batch is not None:
                found.append(batch)
    if not found:
        raise DataError(
            f"data.mixture: no usable row (got none in {_DRAWS} draws of each entry); raise data.max_length "
            "or mend the data"
        )
    return found


def _extremes(batches: Sequence[Batch]) -> list[Batch]:
    """The batch with most tokens and the one with most pixels of masks, often the same."""
    most = max(batches, key=lambda b: b.ids.numel())
    pixels = max(batches, key=lambda b: sum(t.numel() for t in b.slot_targets))
    return [most] if most is pixels else [most, pixels]


@dataclass(frozen=True, slots=True)
class Weight:
    """One parameter; sizes in bytes."""

    numel: int
    value: int  # of one number
    packed: int  # of the whole in fewer bits; 0 where it is not quantised
    trains: bool
    moments: int  # numbers that the optimizer keeps for each of it
    block: int  # number of the block that FSDP gathers as one; -1 for none


def _weights(recipe: Recipe, model: UfoModel, module: Trainable) -> list[Weight]:
    """Every parameter of the run, tied ones once."""
    hf: Any = model.vlm.hf
    optim = recipe.train.optim
    torch_only = recipe.train.model_copy(update={"optim": "muon" if optim == "muon" else "adamw"})
    groups = optimizer(model, module.objectives, torch_only).param_groups
    hidden = {id(p) for g in groups if g.get("muon") for p in g["params"]}
    kind = recipe.model.quantization
    quantised = {
        id(m.weight)
        for n, m in hf.named_modules()
        if kind and isinstance(m, nn.Linear) and "lora_" not in n and re.match(quantized.LAYERS, n)
    }
    blocks: dict[int, int] = {}
    for number, block in enumerate(m for m in hf.modules() if type(m).__name__ in (hf._no_split_modules or ())):
        blocks |= {id(p): number for p in block.parameters()}
    return [
        Weight(
            numel=p.numel(),
            value=p.element_size(),
            packed=quantised_size(kind, p.numel(), p.shape[0]) if id(p) in quantised else 0,
            trains=p.requires_grad,
            moments=1 if id(p) in hidden else 2,
            block=blocks.get(id(p), -1),
        )
        for p in module.parameters()
    ]


def quantised_size(kind: str, numel: int, rows: int) -> int:
    """Bytes of a matrix in ``nf4`` or ``int8``."""
    return numel + 4 * rows if kind == "int8" else round(numel * (1 / 2 + 1 / 64 + 4 / (64 * 256)))


def optimizer_size(optim: str, numel: int, value: int, moments: int = 2) -> int:
    """Bytes of what an optimizer keeps of one tensor of ``value`` bytes a number."""
    if optim == "adamw":
        return numel * (4 * moments + (4 if value < 4 else 0))  # see engine.master_weights
    if optim.endswith("_8bit") and numel >= 4096:
        return moments * (numel + 4 * -(-numel // 256))
    bitsandbytes = optim.startswith("paged_") or optim.endswith("_8bit")
    return moments * numel * (4 if bitsandbytes else value)


def _profile(
    profile: Profile, weights: Sequence[Weight], trace: ledger.Trace, recipe: Recipe, gpus: int
) -> dict[str, int]:
    """Bytes of each part on one GPU, all but the batch's; ``host`` is what one process keeps in the host's memory."""
    bf16, optim = recipe.train.bf16, recipe.train.optim

    def value(w: Weight) -> int:
        """Bytes of one number of a weight and of its gradient."""
        if not bf16:
            return w.value
        return 2 if profile.deepspeed else 4 if profile.weights and w.trains else w.value

    trained = [w for w in weights if w.trains]
    sizes = [w.packed or w.numel * value(w) for w in weights]
    gradients, own = (sum(w.numel * size(w) for w in trained) for size in (value, lambda w: w.value))
    masters = 4 * sum(w.numel for w in trained) if profile.deepspeed else 0
    moments = sum(optimizer_size(optim, w.numel, 4 if profile.deepspeed else value(w), w.moments) for w in trained)
    shares = {k: gpus if getattr(profile, k) else 1 for k in ("weights", "gradients", "optimizer")}
    peak = trace.peak(
        0.0 if profile.offload else gradients / max(1, own) / shares["gradients"],
        standing=recipe.train.gradient_accumulation_steps > 1,
    )
    spread_weights, spread_states = sum(sizes) // shares["weights"], (masters + moments) // shares["optimizer"]
    parts = dict.fromkeys(PARTS, 0) | peak
    parts["weights"] = 0 if profile.offload else spread_weights
    parts["optimizer"] = 0 if profile.offload else spread_states
    if recipe.model.quantization:
        parts["working"] += max((w.numel * w.value for w in weights if w.packed), default=0)
    if profile.deepspeed:
        parts["buckets"] = _BUCKET * (2 if bf16 else 4)
    elif not profile.weights and gpus > 1:
        parts["buckets"] = gradients
    if profile.weights and (gpus > 1 or profile.offload):
        parts["gathered"] = _gathered(profile, weights, sizes)
    parts["host"] = (sum(sizes) + masters + moments + gradients) // gpus if profile.offload else 0
    return parts


def _gathered(profile: Profile, weights: Sequence[Weight], sizes: Sequence[int]) -> int:
    """Bytes of others' weights that are here at a time."""
    if profile.deepspeed:
        return min(sum(sizes), round(_LIVE * sum(sizes) / max(1, sum(w.numel for w in weights))))
    blocks: dict[int, int] = {}
    for weight, size in zip(weights, sizes, strict=True):
        blocks[weight.block] = blocks.get(weight.block, 0) + size
    outside = blocks.pop(-1, 0)
    return outside + sum(sorted(blocks.values())[-2:])


def text(found: Estimate) -> list[str]:
    """Lines for a terminal: a table of the profiles, then tokens, operations and caches."""
    columns = list(found.profiles)
    used = [p for p in (*PARTS, "needed", "host") if any(found.profiles[c][p] for c in columns)]
    cells = [["", *columns], *([p, *(amount(found.profiles[c][p]) for c in columns)] for p in used)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns) + 1)]
    table = ["  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
             for row in cells]  # fmt: skip
    return [
        f"{count(found.parameters)} parameters of which {count(found.trainable)} train; on each of {found.gpus} GPUs:",
        *(line.rstrip() for line in table),
        *step_lines(found),
    ]


def step_lines(found: Estimate) -> list[str]:
    """Rows, tokens and operations of a step, and what evaluation keeps."""
    return [
        f"rows: {found.rows} of at most {found.row_tokens} tokens, the largest of {found.batches} batches drawn",
        f"step: {count(found.tokens_per_step)} tokens; {count(found.flops_per_step)} floating-point operations on each "
        "GPU (divide by what it does in a second)",
        *(
            f"evaluation: {c.protocol} keeps at most {amount(c.size)} of keys and values ({c.rows} rows of {c.tokens} "
            f"tokens, {c.answers} answers of at most {c.new_tokens} more each)"
            for c in found.caches
        ),
    ]


def short(found: Estimate, profile: str) -> str:
    """One line for one profile."""
    parts = found.profiles[profile]
    listed = ", ".join(f"{name} {amount(parts[name])}" for name in PARTS if parts[name])
    return (
        f"memory: {count(found.parameters)} parameters of which {count(found.trainable)} train; "
        f"needs {amount(parts['needed'])} ({profile}, {found.gpus} process(es)): {listed}"
    )


def count(number: int) -> str:
    """``1.23 M``."""
    units = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
    return next((f"{number / unit:.3g} {name}" for unit, name in units if number >= unit), str(number))


def amount(size: int) -> str:
    """``1.23 GiB``."""
    return f"{size / 2**30:.3g} GiB" if size >= 2**30 else f"{size / 2**20:.3g} MiB"
