"""The shape of an objective; see CONTRIBUTING for "how to add one"."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from ufo_tune.core.types import Batch, EmbedTransform, LossTerm, ModelOutput

Rerun = Callable[[Sequence[EmbedTransform]], ModelOutput]
"""A second pass over the same batch with more transforms of its input embeddings, after those of the main pass.

Under DeepSpeed and FSDP all processes must ask for it equally often: whether to may not depend on the batch.
"""

Calls = Callable[[int], int]
"""How often this process would call a module of the model -> how often all do, where they must call equally often.

An objective that calls one a number of times that depends on the batch has it as ``calls``; the loop replaces it.
"""


class ObjectiveProtocol(Protocol):
    """What the loop calls, as ``nn.Module``.

    Parameters and layers of its own train with the run (``train.lr_multipliers.objectives``), are saved in its
    checkpoints and no part of what ``merge`` writes. An ``Objective`` that has some takes the width D of the model's
    states as its one positional argument; its options are keyword-only.
    """

    def before(self, batch: Batch) -> list[EmbedTransform]:
        """Transforms of the main pass; default none."""
        ...

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """What each term will be divided by, before any pass: the loop sums it over ranks and accumulation first.

        An objective that masks at random draws from ``batch.seeds``, so that its passes mask what was counted here.
        """
        ...

    def __call__(self, batch: Batch, output: ModelOutput, rerun: Rerun) -> dict[str, LossTerm]:
        """``forward``: sums and counts of the names in the file's ``TERMS``.

        A batch that has nothing for this objective gives count 0 and a total that is 0 but still reaches the graph,
        so that every rank calls backward through the same parameters.
        """
        ...
