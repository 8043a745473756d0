"""Muon in float32: momentum, then the nearest orthogonal matrix as the step. For the hidden matrices of small models.

``torch.optim.Muon`` does the same with its Newton-Schulz iteration in bfloat16, which CPUs without such units compute
several times slower than float32; here matrices of one shape are also orthogonalised together.

Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024); the coefficients are theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5


class Muon(torch.optim.AdamW):
    """Orthogonalised momentum for groups with ``muon: True``, AdamW for the others.

    A muon group's ``lr`` is in units of the orthogonal matrix: every singular value of the weight moves by about it.

    Args:
        groups: parameter groups; those with ``muon: True`` hold matrices only.
        momentum: of the Nesterov average.
        options: of AdamW.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, momentum: float = 0.95, **options: Any) -> None:
        super().__init__([{"muon": False, **g} for g in groups], **options)
        self.momentum = momentum

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        groups = self.param_groups
        try:
            self.param_groups = [g for g in groups if not g["muon"]]
            super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["muon"]:
                self._orthogonal_step(group)

    def _orthogonal_step(self, group: dict[str, Any]) -> None:
        shapes: dict[torch.Size, list[Tensor]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                shapes.setdefault(parameter.shape, []).append(parameter)
        for shape, parameters in shapes.items():
            steps = orthogonal(torch.stack([self._average(p) for p in parameters]))  # [N, r, c]
            scale = max(1.0, shape[0] / shape[1]) ** 0.5
            for parameter, step in zip(parameters, steps, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(step, alpha=-group["lr"] * scale)

    def _average(self, parameter: Tensor) -> Tensor:
        gradient: Tensor = parameter.grad  # type: ignore[assignment]
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["step"] = torch.zeros(())  # AdamW looks for it when a state is loaded
            state["momentum_buffer"] = torch.zeros_like(gradient)
        buffer: Tensor = state["momentum_buffer"].mul_(self.momentum).add_(gradient)
        return gradient.add(buffer, alpha=self.momentum)


def orthogonal(matrices: Tensor) -> Tensor:
    """Nearly U V^T of each matrix [N, r, c]: singular values end between about 0.7 and 1.2 (Newton-Schulz)."""
    wide = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    x = wide / (torch.linalg.matrix_norm(wide, keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return x.mT if matrices.shape[1] > matrices.shape[2] else x
