"""Find the three YAML folders: in a checkout beside the package first, then in the wheel."""

from __future__ import annotations

from pathlib import Path

from ufo_tune.errors import ConfigError
from ufo_tune.plugins import did_you_mean

_PACKAGE = Path(__file__).parent


def folder(kind: str) -> Path:
    """``recipes``, ``data_templates`` or ``eval`` (checkout first: an editable install can leave a stale copy)."""
    checkout = _PACKAGE.parent / kind
    in_checkout = (_PACKAGE.parent / "pyproject.toml").exists() and checkout.is_dir()
    return checkout if in_checkout else _PACKAGE / "_resources" / kind


def names(kind: str) -> list[str]:
    """Sorted names (without .yaml) of what is shipped."""
    return sorted(p.stem for p in folder(kind).glob("*.yaml"))


def locate(kind: str, name_or_file: str) -> Path:
    """The path of a shipped YAML by name, or of the user's own file.

    Raises:
        ConfigError: neither exists.
    """
    path = Path(name_or_file)
    if path.suffix in {".yaml", ".yml"}:
        if path.is_file():
            return path
        raise ConfigError(
            f"{kind}: no such file (got {name_or_file!r}); give a path, or a name: {', '.join(names(kind))}"
        )
    path = folder(kind) / f"{name_or_file}.yaml"
    if not path.is_file():
        raise ConfigError(f"{kind}: no such name (got {name_or_file!r}); {did_you_mean(name_or_file, names(kind))}")
    return path
