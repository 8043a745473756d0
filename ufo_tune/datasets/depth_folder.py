"""``depth_folder``: your own images with depth maps: two folders, or an index file.

    samples = load("my_data", "train", task="depth", scale=0.001, max_depth=10)

Expected tree below ``root`` (files pair by name; ``{split}`` in an option is replaced)::

    train/rgb/0001.jpg      any image
    train/depth/0001.png    16-bit PNG, TIFF or PGM, or .npy with numbers [H, W]

Or ``index: pairs.txt`` with lines ``image depth``, as NYU's and KITTI's; paths are then below ``images``, ``depths``.
Where depth is unknown the map holds 0 (or, in .npy, NaN, infinity or a negative number).

===================== ====================================================
files of              options
===================== ====================================================
Redwood, RealSense    ``scale: 0.001`` (millimetres; the default)
TUM RGB-D             ``scale: 0.0002`` (1/5000 metre)
SUN RGB-D             ``scale: 0.001, encoding: sun, max_depth: 8``
NYU Depth v2, raw     ``encoding: kinect, byte_order: little, max_depth: 10``
KITTI                 ``scale: 0.00390625`` (1/256 metre)
.npy in metres        ``scale: 1``
===================== ====================================================

Normals (task ``normals``) are derived from the depth and the option ``intrinsics``, [fx, fy, cx, cy] in pixels: for
Redwood and TUM's default [525, 525, 319.5, 239.5].

Licence: that of your data. Sources: redwood-data.org; cvg.cit.tum.de, "RGB-D SLAM dataset, file formats"; SUN RGB-D
toolbox ``read3dPoints.m``; NYU Depth v2 toolbox ``camera_params.m``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ufo_tune.datasets._depth_maps import TASKS, DepthMaps, Encoding, depth_maps, folder_pairs, index_pairs

__all__ = ["TASKS", "load"]


def load(
    root: str,
    split: str,
    *,
    task: str,
    images: str = "",
    depths: str = "",
    index: str = "",
    scale: float = 0.001,
    max_depth: float = 0.0,
    encoding: Literal["linear", "sun", "kinect"] = "linear",
    byte_order: Literal["big", "little"] = "big",
    intrinsics: Sequence[float] = (),
) -> DepthMaps:
    """One sample per pair, sorted by name or in the order of the index.

    Args:
        root: folder that all other paths are below; ``{split}`` is replaced in them.
        split: part of the default paths.
        task: ``depth`` or ``normals``.
        images: folder of the images; default ``{split}/rgb``, with an index ``root`` itself.
        depths: folder of the depth maps; default ``{split}/depth``, with an index ``root`` itself.
        index: an index file instead of pairing by name.
        scale: metres per unit.
        max_depth: metres; depth beyond is unknown. 0: no end.
        encoding: what numbers mean; see the module.
        byte_order: of 16-bit PGM.
        intrinsics: fx, fy, cx, cy of the camera in pixels; for normals.

    Raises:
        ConfigError: an unknown task, encoding or byte order, a scale that is not positive, or normals without a camera.
        DataError: a folder or the index is missing, or files do not pair.
    """
    folder, file = Path(root), Path(root) / index.format(split=split)
    pictures = folder / (images or ("" if index else "{split}/rgb")).format(split=split)
    maps = folder / (depths or ("" if index else "{split}/depth")).format(split=split)
    return depth_maps(
        f"depth_folder/{split}",
        lambda: index_pairs(file) if index else folder_pairs(pictures, maps),
        task=task,
        sources=[file] if index else [pictures, maps],
        images=pictures,
        depths=maps,
        encoding=Encoding(scale, max_depth, encoding, byte_order),
        intrinsics=intrinsics,
    )
