"""Drive the demo in a real browser without a screen, and leave a picture of it.

    python scripts/demo_screenshot.py showcase/merged docs/images/demo.jpg --hover 2
    python scripts/demo_screenshot.py quickstart/merged dark.png --dark --task res --text "the red cross"

Needs the extra ``demo``, the package playwright and Debian's chromium. ``tests/e2e/test_demo.py`` drives it by the same
functions.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE = 120_000
"""Milliseconds: a busy machine may be slow."""
_CLASSES = "circle, square, triangle, star, cross"


@contextmanager
def served(checkpoint: Path, *options: str) -> Iterator[str]:
    """The demo in a process of its own, at a free port; gives its address."""
    command = [sys.executable, "-m", "ufo_tune", "demo", str(checkpoint), "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.match(r"demo: (http://\S+)", line)
        if found is None:
            raise RuntimeError(f"the demo said {line!r} and ended with {process.wait()}")
        yield found[1]
    finally:
        process.terminate()
        process.wait(PATIENCE / 1000)


@contextmanager
def opened(address: str, *, dark: bool = False, size: tuple[int, int] = (1360, 1050)) -> Iterator[Any]:
    """A fresh browser with the page in it, ready for clicks."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(FLAGS))
        width, height = size
        scheme = "dark" if dark else "light"
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.requests = []
        page.said = []
        context.on("request", lambda request: page.requests.append(request.url))
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(f"error: {error}"))
        page.goto(address)
        page.wait_for_selector("#ufo-ask")
        yield page
        browser.close()


def upload(page: Any, picture: Path) -> None:
    """Give the page a picture and wait until it is there."""
    page.set_input_files("#ufo-image input[type=file]", str(picture))
    page.wait_for_selector("#ufo-image img")


def ask(page: Any, task: str, text: str, label: str) -> str:
    """Choose a task, ask, and wait for the whole answer or the sentence that says why there is none.

    Args:
        page: of ``opened``.
        task: its value, such as ``res``.
        text: what goes into the text field.
        label: of the text field once the task is chosen; empty where the task has none.
    Returns:
        What the page said.
    """
    page.check(f"#ufo-task input[value={task}]")
    if label:
        page.get_by_label(label).wait_for()
        page.fill("#ufo-text :is(textarea, input)", text)
    page.evaluate("document.querySelector('#ufo-said :is(.ufo-words, .ufo-fault)')?.setAttribute('data-old', '1')")
    page.click("#ufo-ask")
    page.wait_for_selector("#ufo-said :is(.ufo-words:not([data-busy]), .ufo-fault):not([data-old])")
    said: str = page.inner_text("#ufo-said :is(.ufo-words, .ufo-fault)")
    return said


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--picture", type=Path, help="one of your own (the first example)")
    parser.add_argument("--task", default="instance_segmentation")
    parser.add_argument("--text", default=_CLASSES)
    parser.add_argument("--label", default="", help="of the text field, by task: What is it?, Classes, Your question")
    parser.add_argument("--hover", type=int, default=0, help="the object under the pointer; -1: none (%(default)s)")
    parser.add_argument("--dark", action="store_true")
    args = parser.parse_args()
    label = args.label or ("Classes" if args.text == _CLASSES else "What is it?")
    with served(args.checkpoint) as address, opened(address, dark=args.dark) as page:
        if args.picture:
            upload(page, args.picture)
        else:
            page.locator("button.gallery-item").first.click()
            page.wait_for_selector("#ufo-image img")
        print(ask(page, args.task, args.text, label))
        page.evaluate("window.scrollTo(0, 0)")
        if args.hover >= 0:
            page.hover(f"#ufo-seen button[data-object='{args.hover}']")
            page.wait_for_timeout(500)
        page.screenshot(path=str(args.out))
    print(args.out)


if __name__ == "__main__":
    main()
