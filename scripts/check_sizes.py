"""The house's proportions: file and function sizes, file names, and who may import whom.

    python scripts/check_sizes.py [ROOT]

Prints one line per fault, ``path:line: what is wrong``, and exits 1; the rules are those of CONTRIBUTING.md.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

MAX_FILE_LINES = 400
MAX_BODY_LINES = 60
FOLDERS = ("ufo_tune", "scripts", "tests")
BANNED_NAMES = frozenset({"utils", "misc", "common", "helpers"})
KINDS = ("datasets", "tasks", "models", "objectives", "metrics")
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("core",),
    ("plugins", "templates", "config", "resources", "outputs", "_torchvision"),
    KINDS,
    ("data", "show"),
    ("engine",),
    ("api",),
    ("quickstart", "demo"),
    ("commands",),
    ("cli",),
    ("__init__", "__main__"),
)
"""From the bottom up; a part imports its own layer and those below it."""
CORE_LIBRARIES = frozenset({"torch", "numpy", "scipy", "PIL", "pycocotools"})
"""What the pure part may import besides the standard library."""
DOCUMENTS = frozenset({"Recipe", "Protocol"})
"""Read by the engine only: the layers below it take plain arguments."""

_RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}
_ENGINE = _RANK["engine"]
Import = tuple[int, str, tuple[str, ...]]
"""Line, module, and the names taken from it."""


def check(root: Path) -> list[str]:
    """All faults under ``root``, sorted by place."""
    faults: list[str] = []
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            where = path.relative_to(root)
            text = path.read_text(encoding="utf-8")
            tree = ast.parse(text, filename=str(where))
            faults += size_faults(where, text, tree)
            if folder == "ufo_tune":
                faults += import_faults(where, tree)
    return faults


def size_faults(where: Path, text: str, tree: ast.Module) -> list[str]:
    """Names that say nothing, files that are too long, functions whose body is."""
    faults = []
    if where.stem in BANNED_NAMES:
        faults.append(f"{where}:1: the name {where.name} says nothing; name the file after what it does")
    lines = len(text.splitlines())
    if lines > MAX_FILE_LINES:
        faults.append(f"{where}:1: {lines} lines (at most {MAX_FILE_LINES}); split it in two")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = _body_lines(node)
            if length > MAX_BODY_LINES:
                faults.append(
                    f"{where}:{node.lineno}: body of {node.name} has {length} lines (at most {MAX_BODY_LINES}); "
                    "take a part out"
                )
    return faults


def import_faults(where: Path, tree: ast.Module) -> list[str]:
    """Imports that go upward, across the plug-in kinds, out of the pure part, or read a recipe too low."""
    part = where.parts[1].removesuffix(".py")
    if part not in _RANK:
        return [f"{where}:1: {part} is in no layer; add it to LAYERS in scripts/check_sizes.py"]
    faults = []
    for line, module, names in _imports(where, tree):
        fault = _fault(part, module, names)
        if fault:
            faults.append(f"{where}:{line}: {fault}")
    return faults


def _fault(part: str, module: str, names: tuple[str, ...]) -> str:
    library, *inner = module.split(".")
    if library != "ufo_tune":
        pure = library in CORE_LIBRARIES or library in sys.stdlib_module_names
        return "" if part != "core" or pure else f"core is pure and must not import {library}"
    other = inner[0] if inner else "__init__"
    if not inner and names == ("__version__",):
        return ""  # a constant, written beside every checkpoint
    if other not in _RANK:
        return f"imports ufo_tune.{other}, which is in no layer; add it to LAYERS in scripts/check_sizes.py"
    if _RANK[other] > _RANK[part]:
        return f"{part} must not import {other}, which lies above it"
    if part in KINDS and other in KINDS and part != other:
        return f"{part} must not import {other}: plug-in kinds meet only through core.types"
    taken = DOCUMENTS & set(names)
    if other == "config" and taken and _RANK[part] < _ENGINE:
        return f"{part} must not read {', '.join(sorted(taken))}: only the engine does; take plain arguments"
    return ""


def _imports(where: Path, tree: ast.Module) -> Iterator[Import]:
    """Every import, inside functions and TYPE_CHECKING too, with relative ones made absolute."""
    package = list(where.parent.parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, ()
        elif isinstance(node, ast.ImportFrom):
            prefix = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*prefix, *([node.module] if node.module else [])])
            if module == "ufo_tune":  # "from ufo_tune import masks" names modules, or what the package exports
                for alias in node.names:
                    yield node.lineno, f"ufo_tune.{alias.name}" if alias.name in _RANK else "ufo_tune", (alias.name,)
            else:
                yield node.lineno, module, tuple(alias.name for alias in node.names)


def _body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = node.body
    if ast.get_docstring(node, clean=False) is not None:
        body = body[1:]
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def main(arguments: list[str]) -> int:
    """Check one checkout and say what is wrong."""
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent
    faults = check(root)
    for fault in faults:
        print(fault)
    files = sum(1 for folder in FOLDERS for _ in (root / folder).rglob("*.py"))
    print(f"check_sizes: {files} files, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
