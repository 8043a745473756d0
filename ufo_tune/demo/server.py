"""The demo's server: loopback unless told otherwise, nothing fetched from elsewhere, nothing kept when it ends."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image as Pillow

from ufo_tune.core.images import FORMATS
from ufo_tune.data.open import open_dataset
from ufo_tune.demo import HOST, MAX_PIXELS, PORT, QUEUE
from ufo_tune.errors import ConfigError

_FILE = "64mb"
"""Largest upload."""
_SCENES = 6
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'"
)
"""Browsers refuse whatever would come from elsewhere, even should a new gradio ask for it."""


def serve(
    path: str | Path,
    *,
    host: str = HOST,
    port: int = PORT,
    max_pixels: int = MAX_PIXELS,
    queue: int = QUEUE,
    examples: Path | None = None,
    open_browser: bool = False,
    title: str = "",
    ready: Callable[[str], None] | None = None,
) -> None:
    """Show a model on a web page until interrupted.

    Args:
        path: a run, merged model or prepared base.
        host: address to listen at; any but a loopback one lets others in.
        port: 0 takes a free one.
        max_pixels: larger pictures are refused before they are decoded.
        queue: questions that wait at most; one is answered at a time.
        examples: folder of pictures to pick from; default: synthetic scenes.
        open_browser: open the page in the browser of this machine.
        title: what the model is called; default: its folder.
        ready: is told the page's address when it can be opened.
    Raises:
        ConfigError: gradio is not there, an option is out of range, or the port is taken.
        ModelError: no such model, or a damaged one.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ConfigError("demo: needs gradio (got no such package); pip install 'ufo-tune[demo]'")
    if queue < 1:
        raise ConfigError(f"demo: --queue must be at least 1 (got {queue}); {QUEUE} suits one model")
    port = _free(host, port)
    given = None if examples is None else _pictures(examples)
    with tempfile.TemporaryDirectory(prefix="ufo-tune-demo-") as temporary:
        # Read when gradio is imported, or at the first upload: no word home, and uploads go when the demo ends.
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
        os.environ["GRADIO_TEMP_DIR"] = str(Path(temporary, "uploads"))
        from ufo_tune.demo.asking import Desk
        from ufo_tune.demo.page import page, style

        desk = Desk(path, max_pixels=max_pixels)
        downloads = Path(temporary, "downloads")
        downloads.mkdir()
        shown = _scenes(Path(temporary)) if given is None else given
        blocks = page(desk, title or _name(Path(path)), shown, queue, downloads)
        address = _launched(blocks, host, port, open_browser, allowed_paths=[temporary], **style())
        if ready is not None:
            ready(address)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:  # how it ends
            pass
        finally:
            blocks.close(verbose=False)


def _launched(blocks: Any, host: str, port: int, open_browser: bool, **further: Any) -> str:
    """Start gradio's server beside this thread, with nothing of it that others could use; the page's address."""
    _, address, _ = blocks.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        inbrowser=open_browser,
        ssr_mode=False,
        prevent_thread_lock=True,
        max_file_size=_FILE,
        footer_links=[],
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        app_kwargs={"middleware": [(_Headers, (), {})], "docs_url": None, "redoc_url": None},
        **further,
    )
    return str(address)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Headers:
    """Sends ``_POLICY`` with every HTTP answer (ASGI; given to starlette as class, arguments and keywords)."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = [(b"content-security-policy", _POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                message["headers"] = [*message["headers"], *own]
            await send(message)

        await self.app(scope, receive, sent)


def _free(host: str, port: int) -> int:
    """The port, or a free one for 0; known before a large model is loaded.

    Raises:
        ConfigError: it is taken, out of range, or the address is none of this machine.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"demo: --port is out of range (got {port}); give 1 to 65535, or 0 for a free one")
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            return int(probe.getsockname()[1])
    except OSError as error:
        raise ConfigError(
            f"demo: cannot listen at {host}:{port} (got: {error.strerror or error}); give another --port, 0 for a free "
            "one, or another --host"
        ) from error


def _pictures(folder: Path) -> list[Path]:
    """The pictures of a folder, by name.

    Raises:
        ConfigError: there are none.
    """
    endings = {ending for ending, kind in Pillow.registered_extensions().items() if kind in FORMATS}
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in endings) if folder.is_dir() else []
    if not found:
        raise ConfigError(f"demo: --examples has no pictures (got {folder}); give a folder of JPEG or PNG files")
    return found


def _scenes(folder: Path) -> list[Path]:
    """Synthetic scenes as files: there is always something to ask about."""
    samples: Sequence[Any] = open_dataset("scenes", "", "test", "detection", {"size": _SCENES})
    files = [folder / f"scene-{number + 1}.png" for number in range(len(samples))]
    for file, sample in zip(files, samples, strict=True):
        Pillow.fromarray(sample.image).save(file)
    return files


def _name(path: Path) -> str:
    """What a model's folder is called; ``merged`` alone would say little."""
    parts = path.resolve().parts
    return "/".join(parts[-2:]) if parts[-1] in ("merged", "last", "base", "model") else parts[-1]
