"""Commands that tell what there is: recipes, templates, data ls, env."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import os
import platform
from argparse import Namespace
from pathlib import Path

from ufo_tune import __version__, plugins, resources
from ufo_tune.errors import ConfigError, UfoTuneError

_LIBRARIES = (
    "torch torchvision transformers tokenizers peft accelerate numpy pillow pycocotools scipy pydantic "
    "bitsandbytes deepspeed"
).split()


def recipes(args: Namespace) -> None:
    """The recipes, with what they train."""
    _table(args, [_row("recipes", n, "description", "expected") for n in resources.names("recipes")])


def check(args: Namespace) -> None:
    """Resolve every name in recipes; all are looked at before the first failure is reported."""
    from ufo_tune.config import Recipe
    from ufo_tune.engine.check import resolve

    chosen = resources.names("recipes") if args.all else args.names
    if not chosen:
        raise ConfigError("recipes check: names no recipe (got nothing); give names, or --all")
    problems = []
    for name in chosen:
        try:
            print(f"{name}: {resolve(Recipe.load(name, keep_unset=True))[0]}")
        except UfoTuneError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))


def templates(args: Namespace) -> None:
    """The templates, with their task."""
    _table(args, [_row("data_templates", n, "task", "description") for n in resources.names("data_templates")])


def datasets(args: Namespace) -> None:
    """The datasets, with the tasks they serve."""
    rows = []
    for name in plugins.names("datasets"):
        module = plugins.find("datasets", name)
        first = (inspect.getdoc(module) or "").partition("\n")[0].removeprefix(f"``{name}``: ")
        rows.append({"name": name, "tasks": ", ".join(module.TASKS), "description": first})
    _table(args, rows)


def show(args: Namespace) -> None:
    """One YAML as it is, comments included."""
    print(resources.locate(args.kind, args.name).read_text(encoding="utf-8"), end="")


def copy(args: Namespace) -> None:
    """One YAML as a file of the user's own."""
    source = resources.locate(args.kind, args.name)
    target = args.file or Path(f"{source.stem}.yaml")
    if target.exists():
        raise ConfigError(f"copy: the file exists (got {str(target)!r}); give another name")
    if not target.parent.is_dir():
        raise ConfigError(f"copy: no such folder (got {str(target.parent)!r}); make it first")
    target.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    print(f"written: {target}")


def env(args: Namespace) -> None:
    """Versions and devices."""
    import torch

    facts: dict[str, object] = {
        "ufo-tune": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "threads": torch.get_num_threads(),
    }
    facts |= {name: _version(name) for name in _LIBRARIES}
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        print("\n".join(f"{k:14} {', '.join(v) or 'none' if isinstance(v, list) else v}" for k, v in facts.items()))


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _row(kind: str, name: str, *keys: str) -> dict[str, str]:
    """Read as plain YAML: a list must not fail because a path variable is unset."""
    data = resources.read_yaml(resources.locate(kind, name))
    return {"name": name, **{k: " ".join(str(data.get(k, "")).split()) for k in keys}}


def _table(args: Namespace, rows: list[dict[str, str]]) -> None:
    if args.json:
        print(json.dumps(rows, indent=2))
        return
    columns = list(rows[0])[:-1] if rows else []
    widths = {c: max(len(r[c]) for r in rows) for c in columns}
    for row in rows:
        *cells, last = row.values()
        print("  ".join([*(cell.ljust(widths[c]) for c, cell in zip(columns, cells, strict=True)), last]).rstrip())
