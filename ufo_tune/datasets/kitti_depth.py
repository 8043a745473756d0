"""``kitti_depth``: KITTI's depth benchmark by Eigen's index files; 16-bit PNGs in 1/256 metre, mostly unknown.

    samples = load("/data/kitti", "test", task="depth", crop="garg")

Expected tree below ``root`` (that of the Monocular-Depth-Estimation-Toolbox)::

    kitti_eigen_train.txt  kitti_eigen_test.txt   lines "image depth focal-length", depth None where there is none
    input/2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0000000069.png  ...
    gt_depth/2011_09_26_drive_0002_sync/proj_depth/groundtruth/image_02/0000000069.png  ...

Official counts: 697 test images, 652 of which have a depth map; 23,158 to train on in BTS's list. Options: see
``load``. Windows of ``crop`` are parts of the whole image, not of the 352 x 1216 that some work cuts out first.

Licence: CC BY-NC-SA 3.0. Source: cvlibs.net/datasets/kitti/eval_depth.php (development kit); index files and crops as
in github.com/cleinc/bts and zhyever/Monocular-Depth-Estimation-Toolbox.
"""

from __future__ import annotations

from typing import Literal

from ufo_tune.core.depth_windows import EIGEN_KITTI, GARG
from ufo_tune.datasets._depth_maps import DepthMaps, Encoding, from_index, window_of

TASKS = ("depth",)
"""No normals: points this far apart lie on no common surface."""
_WINDOWS = {"garg": GARG, "eigen": EIGEN_KITTI}


def load(
    root: str,
    split: str,
    *,
    task: str,
    index: str = "kitti_eigen_{split}.txt",
    images: str = "input",
    depths: str = "gt_depth",
    max_depth: float = 80.0,
    crop: Literal["none", "garg", "eigen"] = "none",
) -> DepthMaps:
    """One sample per line of the index that has a depth map, in its order.

    Args:
        root: folder that all other paths are below; ``{split}`` is replaced in them.
        split: ``train`` or ``test``.
        task: ``depth``.
        index: the index file.
        images: folder that the index's images are below.
        depths: folder that its depth maps are below.
        max_depth: metres; depth beyond is unknown.
        crop: ``garg`` or ``eigen``: depth outside that evaluation window is unknown.

    Raises:
        ConfigError: an unknown task or crop.
        DataError: the index is missing or malformed.
    """
    encoding, window = Encoding(scale=1 / 256, max_depth=max_depth), window_of("kitti_depth", crop, _WINDOWS)
    return from_index("kitti_depth", root, split, (index, images, depths), task=task, encoding=encoding, window=window)
