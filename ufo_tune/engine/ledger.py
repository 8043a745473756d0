"""What a training step takes, from running it on tensors that have shapes and no bytes.

    trace = traced(module, batch, bf16=True)   # ``module`` on fake weights, ``batch`` as the loader gives it
    trace.peak()["activations"]

Every operation of forward and backward is met on its way, every storage that comes or goes is entered in a ledger: what
autograd keeps, what gradient checkpointing throws away and makes again, and what lives for a moment are counted and not
modelled. It is torch's work on a CPU; a GPU's kernels keep a little less (masks of dropout in one byte).
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count
from torch.utils.weak import WeakIdKeyDictionary

from ufo_tune.core.types import Batch
from ufo_tune.engine.trainable import Trainable

KINDS = ("activations", "logits", "working", "gradients")
"""What the forward pass makes; of it, what is as wide as the vocabulary; what backward makes; and what it leaves."""
_ACTIVATIONS, _LOGITS, _WORKING, _GRADIENTS = range(4)


@dataclass(frozen=True, slots=True)
class Trace:
    """One forward and backward pass.

    ``changes`` are bytes that came (positive) or went, in order; ``kinds`` an index into ``KINDS`` for each of them.
    """

    changes: np.ndarray  # [E] i64
    kinds: np.ndarray  # [E] i64
    flops: int

    def peak(self, gradient_share: float = 1.0, *, standing: bool = False) -> dict[str, int]:
        """Bytes of each kind at the moment when their sum is largest.

        Args:
            gradient_share: the part of the gradients that this process keeps.
            standing: gradients are there from the start, as in all but the first pass of an accumulation.
        """
        held = np.zeros((len(KINDS), len(self.changes) + 1))
        for kind in range(len(KINDS)):
            held[kind, 1:] = np.where(self.kinds == kind, self.changes, 0).cumsum()
        held[_GRADIENTS] *= gradient_share
        if standing:
            held[_GRADIENTS] = held[_GRADIENTS, -1]
        at = int(held.sum(0).argmax())
        return {name: round(held[kind, at]) for kind, name in enumerate(KINDS)}


def traced(module: Trainable, batch: Batch, *, bf16: bool = False) -> Trace:
    """Run one forward and backward pass on fake weights.

    Args:
        module: whose parameters are fake tensors (``torch._subclasses.FakeTensorMode``) on the CPU.
        batch: real; indices decide shapes, so they must be.
        bf16: under autocast, as ``train.bf16`` says.
    """
    module.zero_grad(set_to_none=True)
    ledger = _Ledger(vocabulary=module.model.vlm.hf.get_output_embeddings().weight.shape[0])  # type: ignore[operator, union-attr]
    for tensor in (*module.parameters(), *module.buffers(), *_tensors(batch)):
        ledger.leave_out(tensor)
    with ledger:
        with torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else nullcontext():
            terms = module(batch)
            loss = torch.stack([t.total for t in terms.values()]).sum()
        ledger.in_backward = True
        del terms
        loss.backward()
    trace = ledger.trace([p.grad for p in module.parameters() if p.grad is not None])
    module.zero_grad(set_to_none=True)
    return trace


def size_of(batch: Batch) -> int:
    """Bytes of a batch's tensors."""
    return sum(t.untyped_storage().nbytes() for t in _tensors(batch))


def _tensors(batch: Batch) -> list[Tensor]:
    values = [getattr(batch, name) for name in batch.__slots__ if name not in ("samples", "views")]
    distinct = {id(v): v for v in tree_leaves(values) if isinstance(v, Tensor)}
    return list(distinct.values())


class _Ledger(TorchDispatchMode):
    """Enters every storage that an operation makes, and when it goes."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.in_backward = False
        self._vocabulary = vocabulary
        self._known = WeakIdKeyDictionary(ref_type=weakref.ref)  # storage -> its number; -1: was there before
        self._watches: dict[int, Any] = {}
        self._entries: list[tuple[int, int]] = []  # (number, bytes)
        self._kinds: list[int] = []  # of each number
        self._flops = 0

    def leave_out(self, tensor: Tensor) -> None:
        """Do not count what is there anyway."""
        self._known[tensor.untyped_storage()] = -1

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket in _INDEXING:
            args = (args[0], [part for index in args[1] for part in _counted(index)], *args[2:])
        out = func(*args, **(kwargs or {}))
        count = _FLOPS.get(func.overloadpacket)
        if count is not None:
            self._flops += int(count(*args, **(kwargs or {}), out_val=out))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage() not in self._known:
                self._enter(tensor)
        return out

    def _enter(self, tensor: Tensor) -> None:
        storage, number = tensor.untyped_storage(), len(self._kinds)
        size = storage.nbytes()
        wide = tensor.ndim > 1 and tensor.shape[-1] == self._vocabulary
        self._kinds.append(_LOGITS if wide else _WORKING if self.in_backward else _ACTIVATIONS)
        self._entries.append((number, size))
        self._known[storage] = number

        def gone(_: Any) -> None:
            self._entries.append((number, -size))
            del self._watches[number]

        self._watches[number] = weakref.ref(storage, gone)

    def trace(self, gradients: list[Tensor]) -> Trace:
        """The ledger so far; ``gradients`` are those that stay."""
        for gradient in gradients:
            number = self._known.get(gradient.untyped_storage(), -1)
            if number >= 0:
                self._kinds[number] = _GRADIENTS
        numbers, sizes = np.array(self._entries, dtype=np.int64).reshape(-1, 2).T  # [E], [E]
        return Trace(sizes, np.array(self._kinds, dtype=np.int64)[numbers], self._flops)


_INDEXING = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)


def _counted(index: Tensor | None) -> tuple[Tensor | None, ...]:
    """A real mask as the places it marks, one index for each of its axes: with a fake tensor nobody counts them."""
    marks = index is not None and index.dtype == torch.bool and not isinstance(index, FakeTensor)
    return index.nonzero().unbind(1) if marks else (index,)  # type: ignore[union-attr]


def _cpu_attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _cpu_attention_backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape))


_FLOPS: dict[Any, Any] = {
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention,  # torch's table has the GPUs' only
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _cpu_attention_backward,
}
