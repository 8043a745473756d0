"""Documents and declarations that must not fall behind the code."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
IMPORT_NAMES = {"pillow": "pil", "pyyaml": "yaml"}


def tracked(*arguments):
    done = subprocess.run(["git", "ls-files", *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode or not done.stdout:
        pytest.skip("not a git checkout")
    return done.stdout.splitlines()


def canonical(requirement):
    return re.split(r"[<>=\[ ]", requirement)[0].lower().replace("_", "-")


def test_tree_of_the_readme_names_every_file_and_folder():
    tree = README.split("<!-- tree:")[1].split("```")[1]
    top = {line.split()[0].rstrip("/") for line in tree.splitlines() if line and line[0] != " "}
    inner = {line.split()[0].rstrip("/") for line in tree.splitlines() if line.startswith("  ")}
    assert top == {path.split("/")[0] for path in tracked()}
    assert inner == {path.split("/")[1] for path in tracked("ufo_tune")}
    for line in tree.strip().splitlines():
        assert len(line.split(maxsplit=1)) == 2 or line == "ufo_tune/", f"no explanation: {line}"


def test_pictures_and_links_of_the_readme_exist():
    targets = re.findall(r"\]\(([^)]+)\)", README)
    for target in targets:
        assert target.startswith("http") or (ROOT / target).exists(), target
    assert len(targets) >= 3


def test_commands_of_the_readme_parse():
    check_commands(re.findall(r"(?:^\.venv/bin/|`)ufo-tune ([^`\n]+)", README, flags=re.M), 10)


@pytest.mark.parametrize("page", ["evaluate", "refcoco", "publish", "demo", "extending", "faq", "index"])
def test_commands_of_a_page_parse(page):
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    check_commands(re.findall(r"(?:^|`|-m )ufo[-_]tune ([^`#\n]+)", text, flags=re.M), 1)


def check_commands(lines, least):
    from ufo_tune.cli import build_parser

    assert len(lines) >= least
    for line in lines:
        words = [w.strip('"') for w in re.findall(r'"[^"]*"|\S+', line)]
        if ">" in words:  # of the shell
            words = words[: words.index(">")]
        if len(words) == 1 or words[0].isupper() or words[-1] == "--help":
            continue  # named, not given
        args, rest = build_parser().parse_known_args(words)
        assert not rest or (rest[0].startswith("--") and rest[0][2:].split(".")[0] in args.free)


def test_every_import_of_the_package_is_declared():
    declared = {canonical(r) for r in PROJECT["dependencies"]}
    declared |= {canonical(r) for e, needs in PROJECT["optional-dependencies"].items() if e != "dev" for r in needs}
    modules = {IMPORT_NAMES.get(d, d).replace("-", "_") for d in declared} | {"ufo_tune"}
    modules |= {m.lower() for m in sys.stdlib_module_names}
    for path in (ROOT / "ufo_tune").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in names:
                top = name.split(".")[0].lower().replace("-", "_")
                assert top in modules, (
                    f"{path.name}:{node.lineno} imports {name}, which pyproject.toml does not declare"
                )


def test_every_dependency_is_pinned_in_the_constraints():
    lines = [s for s in (ROOT / "constraints.txt").read_text().splitlines() if s and not s.startswith("#")]
    assert all(
        re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", line) for line in lines
    )  # exact, and for no one machine
    pinned = {canonical(line) for line in lines}
    wanted = {canonical(r) for r in PROJECT["dependencies"]}
    extras = [
        r
        for e in ("augment", "quant", "deepspeed", "demo", "supervision", "docs", "fast", "dev")
        for r in PROJECT["optional-dependencies"][e]
    ]
    wanted |= {canonical(r) for r in extras} - {"ufo-tune"}
    assert wanted <= pinned


def test_dependencies_are_floors():
    for requirement in PROJECT["dependencies"]:
        assert re.fullmatch(r"[A-Za-z0-9_-]+>=[0-9.]+", requirement)


def test_nothing_committed_names_a_machine():
    pattern = re.compile(r"/(?:home|root|Users|work)/\w|find-links|index-url|/opt/")
    for name in tracked():
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".sh"} and path != Path(__file__).resolve():
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                assert not pattern.search(line), f"{name}:{number}: {line}"


@pytest.mark.parametrize("script", ["data_docs.py", "eval_docs.py"])
def test_pages_of_datasets_and_benchmarks_are_what_the_code_says(script):
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / script, "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
