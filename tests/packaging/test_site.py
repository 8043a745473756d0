"""The pages of docs/ build to a site in which no link is dead and every name of the reference exists."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(p.stem for p in (ROOT / "docs").glob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if not importlib.util.find_spec("mkdocs"):
        pytest.skip("no mkdocs: pip install 'ufo-tune[docs]'")
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_there_and_in_the_menu(site):
    menu = (site / "index.html").read_text(encoding="utf-8")
    for page in PAGES:
        assert page == "index" or (site / page / "index.html").is_file()
        assert page == "index" or f'href="{page}/"' in menu, page


def test_nothing_is_fetched_from_elsewhere(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?://(?!localhost)[^"]+"', text), page


def test_the_reference_tells_what_the_docstrings_tell(site):
    text = (site / "reference" / "index.html").read_text(encoding="utf-8")
    for name in ("ufo_tune.config.Recipe", "ufo_tune.core.types.Sample", "ufo_tune.api.Model.segment"):
        assert f'id="{name}"' in text, name
