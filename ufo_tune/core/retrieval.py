"""Dense maps by retrieval: the slot tokens' embeddings are dotted with the image features. No parameters.

The embedding of a slot token is the state that *predicts* it (``Batch.slot_index``, ``Generation.hidden``).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ufo_tune.errors import ModelError


def slot_queries(ids: Tensor, hidden: Tensor, slot_id: int, count: int) -> tuple[Tensor, Tensor, int]:
    """The slots in generated answers.

    Of an answer with a wrong number of slot tokens the whole slots are used and the rest is left.

    Args:
        ids: [N, L] generated tokens.
        hidden: [N, L, D] state that predicted each token.
        slot_id: id of the slot token.
        count: tokens of one slot (S).

    Returns:
        Queries [M, S, D] in answer order; the answer [M] each belongs to; and how many answers hold a number of slot
        tokens that is not a multiple of ``count``.
    """
    found = ids == slot_id  # [N, L]
    totals = found.sum(dim=1)  # [N]
    groups = totals // count
    used = found & (found.cumsum(dim=1) <= (groups * count)[:, None])  # [N, L]
    queries = hidden[used].reshape(-1, count, hidden.shape[-1])  # [M * S, D] -> [M, S, D]
    owner = torch.repeat_interleave(torch.arange(len(ids), device=ids.device), groups)  # [M]
    return queries, owner, int((totals % count != 0).sum())


def mask_logits(queries: Tensor, features: Tensor) -> Tensor:
    """Mask logits by dot product of slot embeddings with image features.

    Slot token k gives the logits of sub-row ``k // s`` and sub-column ``k % s`` of every cell, s = sqrt(S).

    Args:
        queries: [M, S, D], S a square (16 = 4x4).
        features: [h, w, D], LLM output states.

    Returns:
        [M, h*s, w*s] float32, before the sigmoid.

    Raises:
        ModelError: S is not a square, or D differs.

    Source:
        UFO (arXiv 2503.01342) sec. 3.2.
    """
    count, width = queries.shape[-2:]
    side = math.isqrt(count)
    if side * side != count:
        raise ModelError(f"retrieval: slot tokens do not fill a square (got {count}); use 1, 4, 9, 16, ...")
    if features.shape[-1] != width:
        raise ModelError(f"retrieval: features are {features.shape[-1]} wide (got queries of {width}); use one model's")
    # Outside autocast: the sum over D in bfloat16 costs visible mask quality and saves little.
    with torch.autocast(queries.device.type, enabled=False):
        scaled = queries.float() / math.sqrt(width)
        scores = torch.einsum("msd,hwd->mshw", scaled, features.float())  # [M, S, h, w]
    return F.pixel_shuffle(scores, side)[:, 0]  # [M, S, h, w] -> [M, 1, h*s, w*s] -> [M, h*s, w*s]


def depth_from_logits(logits: Tensor, depth_range: tuple[float, float]) -> Tensor:
    """Metres from logits of any shape: 0..1 by the sigmoid, then linear from near to far.

    Source:
        UFO (arXiv 2503.01342) sec. 3.2.
    """
    near, far = depth_range
    return near + (far - near) * logits.float().sigmoid()


def normals_from_logits(logits: Tensor) -> Tensor:
    """Components of surface normals, -1 to 1, from logits of any shape; the vectors are not yet of length one.

    Source:
        UFO (arXiv 2503.01342 v3), supplement. It writes the sigmoid itself, which has no negative components.
    """
    return 2 * logits.float().sigmoid() - 1
