"""The demo in a real browser: upload, ask, read, hover, download; and nothing is asked of any other machine."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
from PIL import Image

from scripts.demo_screenshot import ask, opened, served, upload
from tests import tiny
from ufo_tune.data.open import open_dataset
from ufo_tune.engine.predict import Predictor, to_json, to_sample

pytest.importorskip("gradio", reason="the demo needs gradio")
pytest.importorskip("playwright", reason="the browser test needs playwright")
if shutil.which("chromium") is None:
    pytest.skip("the browser test needs Debian's chromium", allow_module_level=True)

PHRASE = "the red <circle> {{and}} ${more}"
"""A phrase with all that HTML and templates would take for their own."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A random model, and a picture that it sees a mask in."""
    folder = tmp_path_factory.mktemp("demo")
    tiny.model("llava", folder).save(folder / "model")
    (sample,) = open_dataset("scenes", "", "test", "detection", {"size": 1})
    Image.fromarray(sample.image).save(folder / "scene.png")
    return folder / "model", folder / "scene.png"


@pytest.fixture(scope="module")
def page(made: tuple[Path, Path]) -> Iterator[Any]:
    temporary = made[0].parent / "temporary"
    temporary.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        with served(made[0], "--max-pixels", "20000") as address, opened(address) as page:
            yield page
    assert not list(temporary.glob("ufo-tune-demo-*"))  # uploads and downloads went with the demo


def test_a_mask_is_asked_for_drawn_hovered_and_downloaded(page: Any, made: tuple[Path, Path], tmp_path: Path) -> None:
    model, scene = made
    predictor = Predictor(model)
    expected = predictor(scene, "res", text=PHRASE)
    assert expected.masks and expected.boxes[0].sum() > 0, "the random model sees no mask; choose another picture"

    upload(page, scene)
    said = ask(page, "res", PHRASE, "What is it?")
    assert PHRASE in said and "1 mask." in said  # as it was typed: no template, no tag was made of it
    status = page.locator("#ufo-said [role=status]")
    assert status.get_attribute("aria-live") == "polite" and status.locator(".ufo-words").count() == 1
    assert status.get_attribute("aria-busy") == "false"

    shape, closeup = page.locator("#ufo-seen g[data-object='0']"), page.locator("#ufo-seen .ufo-closeup")
    assert shape.count() == closeup.count() == 1
    shape.locator(".ufo-hit").hover(position=_inside(shape), force=True)
    page.wait_for_selector("#ufo-seen g.on[data-object='0']")
    assert closeup.is_visible() and closeup.locator("img").count() == tiny.CODEC.slot_tokens
    assert "Slot token 1 of 4: row 1, column 1" in closeup.locator("img").first.get_attribute("alt")
    page.mouse.move(2, 2)
    page.wait_for_selector("#ufo-seen g:not(.on)[data-object='0']")

    shape.focus()
    page.wait_for_selector("#ufo-seen g.on[data-object='0']")
    page.keyboard.press("Enter")
    page.wait_for_selector("#ufo-seen g[aria-pressed=true]")
    page.keyboard.press("Escape")
    page.wait_for_selector("#ufo-seen g[aria-pressed=false]")

    row = json.loads(_download(page, "#ufo-json", tmp_path).read_text("utf-8"))
    same = json.loads(json.dumps(to_json(to_sample(scene, "res", PHRASE), expected)))
    assert row == same | {"image": scene.name}
    with Image.open(_download(page, "#ufo-png", tmp_path)) as drawn:
        assert drawn.format == "PNG" and drawn.size == (512, 512)  # as `predict` enlarges small pictures

    shots = Path(os.environ.get("UFO_TUNE_SCREENSHOTS", tmp_path))
    page.screenshot(path=str(shots / "demo.png"), full_page=True)
    with Image.open(shots / "demo.png") as shot:
        assert len(shot.convert("RGB").resize((64, 64)).getcolors(4096)) > 50  # something is drawn


def test_the_text_field_follows_the_task(page: Any) -> None:
    page.check("#ufo-task input[value=depth]")
    page.locator("#ufo-text").wait_for(state="hidden")
    page.check("#ufo-task input[value=detection]")
    page.get_by_label("Classes").wait_for()


def test_what_cannot_be_asked_is_the_projects_sentence(page: Any, made: tuple[Path, Path], tmp_path: Path) -> None:
    upload(page, made[1])
    said = ask(page, "res", " ", "What is it?")
    assert said.startswith("scene.png: the phrase is empty") and str(made[1].parent) not in said
    assert page.locator("#ufo-said [role=alert]").count() == 1
    Image.new("RGB", (200, 101)).save(tmp_path / "large.png")
    upload(page, tmp_path / "large.png")
    page.wait_for_function("document.querySelector('#ufo-image img').naturalWidth === 200")
    said = ask(page, "res", "x", "What is it?")
    assert "large.png: image is too large (got 200x101 pixels); shrink it to at most 0.02 megapixels" in said


def test_nothing_left_this_machine_and_nothing_was_refused(page: Any) -> None:
    """Runs last: every request of the tests above."""
    hosts = {urlparse(url).hostname for url in page.requests if urlparse(url).scheme in ("http", "https", "ws", "wss")}
    assert hosts == {"127.0.0.1"} and len(page.requests) > 20
    assert not [text for text in page.said if text.startswith("error:") or "Content Security Policy" in text]


def _inside(shape: Any) -> dict[str, float]:
    """A point well inside what the object's own shape covers, from the corner of its box."""
    found: dict[str, float] = shape.evaluate(
        """g => {
          const hit = g.querySelector('.ufo-hit'), box = hit.getBoundingClientRect(), covered = [];
          const at = g.ownerSVGElement.createSVGPoint(), matrix = hit.getScreenCTM().inverse();
          for (let y = 1; y < box.height; y += 4) for (let x = 1; x < box.width; x += 4) {
            at.x = box.left + x; at.y = box.top + y;
            if (hit.isPointInFill(at.matrixTransform(matrix))) covered.push({x, y});
          }
          return covered[Math.floor(covered.length / 2)];
        }"""
    )
    return found


def _download(page: Any, button: str, folder: Path) -> Path:
    with page.expect_download() as found:
        page.click(button)
    file = folder / found.value.suggested_filename
    found.value.save_as(file)
    return file
