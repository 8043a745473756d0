"""``nyu_depth``: NYU Depth v2 by index files, as BTS, AdaBins and later work read it; 16-bit PNGs in millimetres.

    samples = load("/data/nyu", "test", task="depth", crop="eigen")  # the official 654

Expected tree below ``root`` (that of the Monocular-Depth-Estimation-Toolbox)::

    nyu_train.txt  nyu_test.txt     lines "scene/rgb_00045.jpg scene/sync_depth_00045.png focal-length"
    bathroom/rgb_00045.jpg  bathroom/sync_depth_00045.png  ...

BTS's own files: ``index: nyudepthv2_{split}_files_with_gt.txt`` and ``images``, ``depths``: ``sync`` or
``official_splits/test``. Official counts: 654 test images; to train on, 24,231 in BTS's list, about 50,000 in
AdaBins'. Options: see ``load``.

Normals are derived from the depth with the camera of NYU's toolbox; they are not the normals of Ladicky et al. 2014
that most published figures are measured on.

Licence: for research; see the site. Source: cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html; index files and crop as
in github.com/cleinc/bts and zhyever/Monocular-Depth-Estimation-Toolbox.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ufo_tune.core.depth_windows import EIGEN_NYU
from ufo_tune.datasets._depth_maps import TASKS, DepthMaps, Encoding, from_index, window_of

__all__ = ["TASKS", "load"]
_CAMERA = (518.85790117450188, 519.46961112127485, 325.58244941119034, 253.73616633400465)
"""Of the colour camera at 640 x 480: NYU Depth v2 toolbox, ``camera_params.m``."""


def load(
    root: str,
    split: str,
    *,
    task: str,
    index: str = "nyu_{split}.txt",
    images: str = "",
    depths: str = "",
    max_depth: float = 10.0,
    crop: Literal["none", "eigen"] = "none",
    intrinsics: Sequence[float] = _CAMERA,
) -> DepthMaps:
    """One sample per line of the index, in its order.

    Args:
        root: folder that all other paths are below; ``{split}`` is replaced in them.
        split: ``train`` or ``test``.
        task: ``depth`` or ``normals``.
        index: the index file.
        images: folder that the index's images are below.
        depths: folder that its depth maps are below.
        max_depth: metres; depth beyond is unknown.
        crop: ``eigen``: what lies outside the usual evaluation window is unknown.
        intrinsics: fx, fy, cx, cy of the camera in pixels, for normals.

    Raises:
        ConfigError: an unknown task or crop.
        DataError: the index is missing or malformed.
    """
    return from_index(
        "nyu_depth",
        root,
        split,
        (index, images, depths),
        task=task,
        encoding=Encoding(scale=0.001, max_depth=max_depth),
        window=window_of("nyu_depth", crop, {"eigen": EIGEN_NYU}),
        intrinsics=intrinsics,
    )
