"""``prepare``: add and initialise the tokens on CPU, before any distributed start, and write the codec.

ZeRO-3 and PEFT break when embeddings are resized later, so a prepared base has its final vocabulary.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ufo_tune import outputs, plugins
from ufo_tune.engine import licence
from ufo_tune.engine.graft import graft
from ufo_tune.engine.load import base
from ufo_tune.errors import ConfigError
from ufo_tune.models.ufo import UfoModel


def prepare(
    source: str,
    out: Path,
    *,
    family: str = "llava",
    codec: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    vision: str = "",
    tower: dict[str, Any] | None = None,
) -> Path:
    """Write a base that ``train`` can start from.

    Args:
        source: Hub id, folder, ``embedded`` or ``tiny:<family>``; with ``vision`` a causal language model or GGUF file.
        out: folder to write; must not hold a model yet.
        family: file of ``models/``.
        codec: fields that differ from the codec's defaults.
        options: of the family's ``build``.
        vision: make a LLaVA out of ``source`` and this vision tower first; see ``engine.graft``.
        tower: sizes of a random tower.
    Returns:
        ``out``.
    Raises:
        ConfigError: ``out`` is not empty, or cannot be a folder.
        ModelError: the base cannot be loaded.
    """
    if outputs.folder(out).exists() and any(out.iterdir()):
        raise ConfigError(f"{out}: is not empty; choose another --out")
    if tower and vision != "random":
        raise ConfigError(f"prepare: sizes are those of a random tower (got {tower}); add --vision random")
    if not vision:
        return _write(base(source, family, codec or {}, options or {}, dtype="auto"), [source], out)
    plugins.check_options("tower", graft, tower or {})
    if family != "llava":
        raise ConfigError(f"prepare --vision: makes a LLaVA (got --family {family}); leave --family out")
    with tempfile.TemporaryDirectory() as folder:
        made = graft(source, vision, Path(folder), **(tower or {}))
        parts = [source, vision] if vision != "random" else [source]
        return _write(base(str(made), family, codec or {}, options or {}, dtype="auto"), parts, out)


def _write(model: UfoModel, sources: list[str], out: Path) -> Path:
    """Save a base with the texts of its licences; what it was made of already stays known."""
    origins = [licence.origin(source) for source in sources]
    model.settings.setdefault("origin", {**origins[0], "base": " + ".join(o["base"] for o in origins)})
    model.save(out)
    for source in sources:
        licence.keep(source, out)
    return out
