"""Tests keep their cached tables in a folder of their own, and any file of them can be run alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ufo_tune import _torchvision

_torchvision.available()  # before a test imports transformers itself: a torchvision for GPUs beside a CPU's torch


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UFO_TUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
