"""``prepare``: add and initialise the tokens on CPU, before any distributed start, and write the codec.

ZeRO-3 and PEFT break when embeddings are resized later, so a prepared base has its final vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ufo_tune.engine.load import base
from ufo_tune.errors import ConfigError


def prepare(
    source: str,
    out: Path,
    *,
    family: str = "llava",
    codec: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
) -> Path:
    """Write a base that ``train`` can start from.

    Args:
        source: Hub id, folder, ``embedded`` or ``tiny:<family>``.
        out: folder to write; must not hold a model yet.
        family: file of ``models/``.
        codec: fields that differ from the codec's defaults.
        options: of the family's ``build``.
    Returns:
        ``out``.
    Raises:
        ConfigError: ``out`` is not empty.
        ModelError: the base cannot be loaded.
    """
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out}: is not empty; choose another --out")
    model = base(source, family, codec or {}, options or {}, dtype="auto")
    model.save(out)
    return out
