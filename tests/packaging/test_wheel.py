"""The wheel holds what the checkout does: every YAML, the embedded base, and finds them without the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
YAML_FOLDERS = ("recipes", "data_templates", "eval")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


def files_of(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts}


def test_wheel_has_every_file_of_the_package_and_the_yaml_folders(wheel):
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    expected = {f"ufo_tune/{f}" for f in files_of(ROOT / "ufo_tune")}
    expected |= {f"ufo_tune/_resources/{k}/{f}" for k in YAML_FOLDERS for f in files_of(ROOT / k)}
    assert sum(f.endswith(".yaml") for f in expected) >= 10
    assert any(f.startswith("ufo_tune/assets/") and f.endswith(".safetensors") for f in expected)
    assert {f for f in inside if not f.split("/")[0].endswith(".dist-info")} == expected


def test_wheel_stays_small(wheel):
    assert wheel.stat().st_size < 12 * 2**20  # the embedded base is at most 8 MB


def test_unpacked_wheel_finds_its_yaml_and_its_command(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
        (entry_points,) = [n for n in archive.namelist() if n.endswith("entry_points.txt")]
        assert "ufo-tune = ufo_tune.cli:main" in archive.read(entry_points).decode()
    code = (
        "import ufo_tune; from ufo_tune import resources; print(ufo_tune.__file__);"
        f"print(*[f'{{k}}/{{n}}.yaml' for k in {YAML_FOLDERS} for n in resources.names(k)])"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    where, names = done.stdout.splitlines()
    assert where == str(tmp_path / "ufo_tune" / "__init__.py")
    assert set(names.split()) == {f"{k}/{p.name}" for k in YAML_FOLDERS for p in (ROOT / k).glob("*.yaml")}
