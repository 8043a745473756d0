"""A machine that is taken away says so with SIGTERM: the run then saves and ends well, at the same step everywhere."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Notice:
    """Whether this process was told to stop."""

    def __init__(self) -> None:
        self.given = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal's handler: it only takes note, so that no step is cut in two."""
        self.given = True


@contextmanager
def noticed() -> Iterator[Notice]:
    """Take note of SIGTERM instead of dying of it; the former handler is back afterwards.

    Only the main thread may set handlers; in another one a SIGTERM ends the process as ever.
    """
    notice = Notice()
    if threading.current_thread() is not threading.main_thread():
        yield notice
        return
    before = signal.signal(signal.SIGTERM, notice)
    try:
        yield notice
    finally:
        signal.signal(signal.SIGTERM, before)
