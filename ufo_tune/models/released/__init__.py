"""Names and layouts of the weights that UFO released (ufo.md 15), one file for each family; used by ``import-ufo``.

A file of this folder defines ``TOKENS`` (added in this order), ``IGNORED`` (keys that are no weights),
``CHAT_TEMPLATE``, ``CODEC``, ``OPTIONS`` (of the family's ``build``), ``configure(hf)`` and ``parts(key, config)``.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Part = tuple[str, Callable[[Tensor], Tensor]]
"""A parameter of the Hugging Face model, and which output rows of the released one become it."""


def whole(value: Tensor) -> Tensor:
    """All rows."""
    return value
