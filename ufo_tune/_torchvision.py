"""Make a CUDA-built torchvision importable beside a CPU-only torch; a no-op where it is healthy or absent.

    if not _torchvision.available():
        raise ConfigError("...")

The wheel on PyPI loads its compiled operators at import. Beside a CPU torch that fails with ``operator
torchvision::nms does not exist``, although every transform that is written in Python would work. Declaring the two
operators that the import looks for is enough; they stay unusable (nms, roi_align, decoders), the transforms work.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list[torch.library.Library] = []  # an operator lives as long as the library object that declared it


@functools.cache
def available() -> bool:
    """Whether ``import torchvision`` works, after mending it where that is possible. Imports it."""
    if importlib.util.find_spec("torchvision") is None:
        return False
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return True
    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # half imported
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    _libraries.append(library)
    importlib.import_module("torchvision")
    return True
