"""What a newcomer meets first: a fast ``--help``, and an import that costs nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "pydantic", "numpy", "yaml")


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["recipes", "copy", "--help"]])
def test_help_waits_for_nothing_heavy(arguments):
    run = [sys.executable, "-X", "importtime", "-m", "ufo_tune", *arguments]
    done = subprocess.run(run, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.startswith("usage: ufo-tune")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "ufo_tune.cli" in imported and not imported & set(HEAVY)


def test_every_command_explains_itself():
    from ufo_tune.cli import build_parser

    def leaves(parser):
        groups = [a for a in parser._actions if hasattr(a, "choices") and isinstance(a.choices, dict)]
        for group in groups:
            assert len(group._choices_actions) == len(group.choices)  # each has a line of help
            for sub in group.choices.values():
                yield from leaves(sub)
        if not groups:
            yield parser

    commands = {p.prog.removeprefix("ufo-tune ") for p in leaves(build_parser())}
    assert commands >= set(
        "quickstart,showcase,prepare,train,eval,predict,merge,check,env,data ls,data show,data validate,"
        "data convert,data stats,data audit,"
        "recipes ls,recipes show,recipes copy,recipes check,templates ls,templates show,templates copy".split(",")
    )
    for parser in leaves(build_parser()):
        module, function = parser.get_default("run").split(":")
        assert (ROOT / "ufo_tune" / "commands" / f"{module}.py").is_file()
        source = (ROOT / "ufo_tune" / "commands" / f"{module}.py").read_text()
        assert f"def {function}(args: Namespace)" in source


def test_importing_the_package_imports_nothing_heavy():
    code = f"import sys, ufo_tune, ufo_tune.cli; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_are_importable():
    import ufo_tune

    for name in ufo_tune.__all__:
        assert getattr(ufo_tune, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ufo_tune.nonsense
