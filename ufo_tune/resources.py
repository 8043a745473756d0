"""Find the three YAML folders, in a checkout beside the package first, then in the wheel; and read a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

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


class _UniqueKeys(yaml.SafeLoader):
    """YAML lets the last of two equal keys win in silence; here the second is an error with its line."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping.

    Raises:
        ConfigError: not YAML, a key twice in one section, or not a mapping.
    """
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())  # its message has lines of its own
        raise ConfigError(f"{path}: not valid YAML ({said}); mend the file") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: must be a mapping (got {type(data).__name__}); start with 'model:'")
    return data
