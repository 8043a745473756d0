"""AdamW for weights in half precision: it steps on copies in float32, as DeepSpeed and FSDP do for theirs.

At a learning rate of 2e-4 a step is far below half a unit in the last place of a bfloat16 near 1, so a norm would stand
still however long it trains, and of larger tables only some rows would move (Micikevicius et al. 2018, arXiv
1710.03740, sec. 3.1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

MASTER = "master"
"""The copy's name in the optimizer's state."""
_HALF = (torch.bfloat16, torch.float16)


class MasterAdamW(torch.optim.AdamW):
    """``torch.optim.AdamW`` whose parameters in half precision are roundings of copies in float32.

    Moments of these are in float32 too; all other parameters are AdamW's own. The copies are part of the state, so that
    a resumed run goes on from them. Gradients of parameters in half precision are gone after a step.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step; see ``torch.optim.AdamW.step``."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        halves: list[tuple[Tensor, Tensor]] = []
        for parameter in self._own():
            if parameter.grad is None or not _is_half(parameter):
                continue
            half, grad = parameter.data, parameter.grad
            master = self.state[parameter].pop(MASTER, None)
            parameter.grad = None
            parameter.data = half.float() if master is None else master
            parameter.grad = grad.float()
            halves.append((parameter, half))
        super().step()
        for parameter, half in halves:
            self.state[parameter][MASTER] = parameter.data
            parameter.grad = None
            parameter.data = half.copy_(parameter.data)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a state; torch would round what belongs to a parameter to its dtype."""
        super().load_state_dict(state_dict)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        for number, parameter in zip(numbers, self._own(), strict=True):
            kept = state_dict["state"].get(number, {})
            if _is_half(parameter):
                whole = {k: v.to(parameter.device, torch.float32) for k, v in kept.items() if k != "step"}
                self.state[parameter] |= whole

    def _own(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]


def _is_half(parameter: Tensor) -> bool:
    """Sharded parameters are left to those who shard: they keep copies of their own."""
    return parameter.dtype in _HALF and not isinstance(parameter, DTensor)
