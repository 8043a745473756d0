"""The licence of a base travels with what is made of it: its texts as files, its name in ``ufo_config.json``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from ufo_tune.engine import remote

TEXTS = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*", "USE_POLICY*")
"""Names of files with a licence's text."""
_CARD = "README.md"
OWN = "apache-2.0"
"""Of ufo-tune's own bases: ``embedded`` and the random ``tiny:`` ones."""


def keep(source: str, out: Path) -> None:
    """Copy the texts that lie with a base into a folder.

    Args:
        source: folder or Hub id.
        out: an existing folder; its own texts stay.
    """
    folder = _folder(source)
    for pattern in TEXTS if folder else ():
        for text in sorted(folder.glob(pattern)):  # type: ignore[union-attr]
            if text.is_file() and not (out / text.name).exists():
                shutil.copy(text, out / text.name)


def origin(source: str) -> dict[str, Any]:
    """What a model's ``ufo_config.json`` says of the base it started from.

    Args:
        source: Hub id, folder, ``embedded`` or ``tiny:<family>``.
    Returns:
        ``base``: its public name (of a folder the last part, which tells nothing of this machine), and ``licence``,
        ``licence_name`` and ``licence_link`` of its model card where they are known.
    """
    if source == "embedded" or source.startswith("tiny:"):
        return {"base": source, "licence": OWN}
    folder = _folder(source)
    card = _front_matter(folder / _CARD) if folder else {}
    named = {ours: card[theirs] for ours, theirs in _FIELDS.items() if isinstance(card.get(theirs), str)}
    return {"base": Path(source).name if Path(source).exists() else source, **named}


_FIELDS = {"licence": "license", "licence_name": "license_name", "licence_link": "license_link"}


def _folder(source: str) -> Path | None:
    """Where card and texts lie; None where they cannot be had, which leaves the licence unknown and says so."""
    if Path(source).is_dir():
        return (Path(source) / "last") if (Path(source) / "last").is_dir() else Path(source)
    if not remote.is_repo(source):
        return None
    try:
        return Path(snapshot_download(source, allow_patterns=[*TEXTS, _CARD]))
    except (HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled):
        return None


def _front_matter(card: Path) -> dict[str, Any]:
    """The YAML between the first two ``---`` of a model card; empty where there is none that can be read."""
    if not card.is_file():
        return {}
    parts = card.read_text(encoding="utf-8", errors="replace").split("---\n", 2)
    try:
        found = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else {}
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}
