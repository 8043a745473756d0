"""Images with depth maps: pairs of paths as a memory-mapped table; maps are read on access and come out in metres.

    samples = depth_maps("nyu_depth/test", index_pairs(index), sources=[index], images=root, depths=root,
                         encoding=Encoding(scale=0.001, max_depth=10), window=EVERYWHERE)

Depth is 0 where nothing is known: where the file says so, where a number is negative or none, and beyond the range.
For the task ``normals`` a dataset says what its camera is: normals are derived from the depth (``core.normals``), so
they are as good as that is, and unknown beside edges.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image as pil

from ufo_tune.core.depth_windows import EVERYWHERE, Window, inside
from ufo_tune.core.images import FORMATS, image_size
from ufo_tune.core.lazy import Lazy
from ufo_tune.core.normals import Intrinsics, from_depth
from ufo_tune.core.types import Sample, Targets
from ufo_tune.datasets import _readers as readers
from ufo_tune.datasets import _table
from ufo_tune.errors import ConfigError, DataError
from ufo_tune.plugins import did_you_mean

if TYPE_CHECKING:
    from datasets import Features

TASKS = ("depth", "normals")
Pair = tuple[str, str]
"""Paths of an image and its depth map, below their folders."""
DECODINGS = ("linear", "sun", "kinect")
_BYTE_ORDERS = {"big": ">u2", "little": "<u2"}
_IMAGES = (".jpg", ".jpeg", *(f".{f.lower()}" for f in FORMATS))
_DEPTHS = (".png", ".tif", ".tiff", ".npy", ".pgm")
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I", "F")  # modes of PIL: what holds more than eight
_GAP = rb"(?:\s|#[^\n]*\n)+"  # blanks and comments
_PGM = re.compile(rb"P5" + _GAP + rb"(\d+)" + _GAP + rb"(\d+)" + _GAP + rb"(\d+)\s")


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the numbers of a file become metres.

    Args:
        scale: metres per unit, of ``linear`` and ``sun``.
        max_depth: metres; beyond, depth is unknown. 0: no end.
        decoding: ``linear``: number x scale. ``sun``: 16 bits rotated right by three first, as SUN RGB-D stores them
            (its toolbox, ``read3dPoints.m``). ``kinect``: the raw 11-bit disparity d of NYU Depth v2,
            351.3 / (1092.5 - d) metres (its toolbox, ``camera_params.m``).
        byte_order: of 16-bit PGM: ``big`` by its definition, ``little`` in NYU's raw frames.
    """

    scale: float = 0.001
    max_depth: float = 0.0
    decoding: Literal["linear", "sun", "kinect"] = "linear"
    byte_order: Literal["big", "little"] = "big"


@dataclass(frozen=True, slots=True)
class DepthMaps(Lazy[Sample]):
    """Samples made on access."""

    name: str
    task: str
    table: _table.Table
    images: Path
    depths: Path
    encoding: Encoding
    window: Window
    intrinsics: Intrinsics | None

    @property
    def without_depth(self) -> int:
        """How many images of the index have no depth map and are left out."""
        return int(self.table.meta["without_depth"])

    @property
    def image_ids(self) -> tuple[str, ...]:
        """One per sample."""
        return tuple(self.table.column("image").to_pylist())

    def __len__(self) -> int:
        return len(self.table)

    def _make(self, number: int) -> Sample:
        """One sample; what lies outside ``window`` is unknown.

        Raises:
            DataError: a file is missing or damaged, the map has another size, or nothing of it is known.
        """
        row = self.table[number]
        source = f"{self.name}#{Path(row['image']).with_suffix('')}"
        try:
            size = image_size(self.images / row["image"])
            targets = self._targets(self.depths / row["depth"], size)
        except DataError as error:
            raise DataError(f"{source}: {error}") from error
        return Sample(
            image=self.images / row["image"],
            size=size,
            task=self.task,
            targets=targets,
            source=source,
            image_id=row["image"],
        )

    def _targets(self, path: Path, size: tuple[int, int]) -> Targets:
        depth, kept = read_depth(path, size, self.encoding), inside(size, self.window)  # [H, W] each
        if self.intrinsics is None:
            return Targets(depth=np.where(kept, depth, 0))
        normals = np.where(kept[..., None], from_depth(depth, self.intrinsics), 0)  # [H, W, 3]
        if not normals.any():
            raise DataError(f"{path}: no pixel has a known normal (got too little or too rough depth); drop the image")
        return Targets(normals=normals)


def depth_maps(
    name: str,
    pairs: Callable[[], tuple[list[Pair], int]],
    *,
    task: str,
    sources: Sequence[Path],
    images: Path,
    depths: Path,
    encoding: Encoding,
    window: Window = EVERYWHERE,
    intrinsics: Sequence[float] = (),
) -> DepthMaps:
    """The samples of one split.

    Args:
        name: such as ``nyu_depth/test``, for messages.
        pairs: reads the pairs of paths, and how many images have no depth map.
        task: one of ``TASKS``; ``normals`` need a camera.
        sources: what the pairs are read from.
        images: folder that images lie below.
        depths: folder that depth maps lie below.
        encoding: of the depth maps.
        window: where depth is known.
        intrinsics: fx, fy, cx, cy of the camera in pixels of the images, where it is known.

    Raises:
        ConfigError: an unknown task or value of the encoding; normals without a camera.
        DataError: a source is missing or malformed.
    """
    dataset = name.split("/")[0]
    known = (
        ("task", task, TASKS),
        ("encoding", encoding.decoding, DECODINGS),
        ("byte_order", encoding.byte_order, tuple(_BYTE_ORDERS)),
    )
    for what, got, choices in known:
        if got not in choices:
            raise ConfigError(f"datasets/{dataset}: no such {what} (got {got!r}); {did_you_mean(str(got), choices)}")
    if not encoding.scale > 0 or encoding.max_depth < 0:
        got = f"{encoding.scale}, {encoding.max_depth}"
        raise ConfigError(f"datasets/{dataset}: scale or max_depth out of range (got {got}); give metres")

    camera = _camera(dataset, intrinsics) if task == "normals" else None

    def rows() -> _table.Made:
        found, without = pairs()
        return {"without_depth": without}, ({"image": image, "depth": depth} for image, depth in found)

    table = _table.table(dataset, rows, features=_features, sources=sources, code=[__file__])
    return DepthMaps(name, task, table, images, depths, encoding, window, camera)


def _camera(dataset: str, intrinsics: Sequence[float]) -> Intrinsics:
    if len(intrinsics) != 4 or not all(isinstance(v, int | float) for v in intrinsics) or min(intrinsics[:2]) <= 0:
        got = f"got {list(intrinsics)}" if intrinsics else "got none"
        raise ConfigError(f"datasets/{dataset}.intrinsics: normals need a camera ({got}); give [fx, fy, cx, cy]")
    fx, fy, cx, cy = intrinsics
    return fx, fy, cx, cy


def from_index(
    name: str,
    root: str,
    split: str,
    paths: tuple[str, str, str],
    *,
    task: str,
    encoding: Encoding,
    window: Window,
    intrinsics: Sequence[float] = (),
) -> DepthMaps:
    """The samples of an index file.

    Args:
        name: of the dataset.
        root: folder that all paths are below.
        split: replaces ``{split}`` in them.
        paths: the index file, the folder of its images and that of its depth maps.
        task: one of ``TASKS``.
        encoding: of the depth maps.
        window: where depth is known.
        intrinsics: of the camera; see ``depth_maps``.

    Raises:
        ConfigError: an unknown task or value of the encoding; normals without a camera.
        DataError: the index is missing or malformed.
    """
    index, images, depths = (Path(root) / path.format(split=split) for path in paths)
    return depth_maps(
        f"{name}/{split}",
        lambda: index_pairs(index),
        task=task,
        sources=[index],
        images=images,
        depths=depths,
        encoding=encoding,
        window=window,
        intrinsics=intrinsics,
    )


def index_pairs(index: Path) -> tuple[list[Pair], int]:
    """The pairs of an index file: ``image depth [focal length]`` a line, ``None`` where there is no depth map.

    Blanks separate, or tabs where there are any; a leading slash means nothing; ``#`` starts a comment.

    Raises:
        DataError: a line has not two paths.
    """
    pairs, without = [], 0
    try:
        lines = readers.existing(index, "index file").read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{index}: is not UTF-8 text (got {error}); save it as UTF-8") from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = [p.strip().lstrip("/") for p in (line.split("\t") if "\t" in line else line.split())]
        if len(parts) < 2 or not all(parts[:2]):
            raise DataError(f"{index}:{number}: is not an image and a depth map (got {line!r:.80}); give two paths")
        if parts[1] == "None":
            without += 1
        else:
            pairs.append((parts[0], parts[1]))
    return pairs, without


def folder_pairs(images: Path, depths: Path) -> tuple[list[Pair], int]:
    """Files of two folders that have the same name but for the suffix, sorted.

    Raises:
        DataError: a folder is missing, a name is there twice, or in one of the folders only.
    """
    pictures, maps = _by_stem(images, _IMAGES), _by_stem(depths, _DEPTHS)
    for one, other, what in ((pictures, maps, f"depth map in {depths}"), (maps, pictures, f"image in {images}")):
        if alone := sorted(one.keys() - other.keys()):
            shown = ", ".join(one[a] for a in alone[:3])
            raise DataError(
                f"{images.parent}: {len(alone)} files have no {what} (got {shown}); give pairs, or an index"
            )
    return [(pictures[stem], maps[stem]) for stem in sorted(pictures)], 0


def read_depth(path: Path, size: tuple[int, int], encoding: Encoding) -> np.ndarray:
    """Depth [H, W] f32 in metres of a 16-bit PNG, TIFF or PGM or an NPY file; 0 where it is unknown.

    Raises:
        DataError: missing, damaged, of another size (H, W) or type, or without any known depth.
    """
    readers.existing(path, "depth map")
    if path.suffix == ".npy":
        stored = _npy(path)
    elif path.suffix == ".pgm":
        stored = _pgm(path, encoding.byte_order)
    else:
        stored = _picture(path)
    if stored.shape != tuple(size):
        raise DataError(
            f"{path}: depth map is {stored.shape} but the image is {tuple(size)}; check that they are a pair"
        )
    depth = _metres(stored, encoding)  # [H, W]
    known = np.isfinite(depth) & (depth > 0)
    deepest = float(depth[known].max()) if known.any() else 0.0
    if encoding.max_depth:
        known &= depth <= encoding.max_depth
    if not known.any():
        raise DataError(
            f"{path}: no pixel has a known depth (got at most {deepest:g} m at scale {encoding.scale:g}, max_depth "
            f"{encoding.max_depth:g}); check scale, encoding and max_depth"
        )
    return np.where(known, depth, 0).astype(np.float32)  # [H, W]


def _metres(stored: np.ndarray, encoding: Encoding) -> np.ndarray:
    """[H, W] f64 of what a file holds [H, W]; numbers that mean nothing come out negative, infinite or NaN."""
    if encoding.decoding == "kinect":
        with np.errstate(divide="ignore"):
            return np.asarray(351.3 / (1092.5 - stored.astype(np.float64)))
    if encoding.decoding == "sun":
        bits = stored.astype(np.uint32)
        stored = ((bits >> 3) | (bits << 13)) & 0xFFFF
    return stored.astype(np.float64) * encoding.scale


def _picture(path: Path) -> np.ndarray:
    try:
        with pil.open(path, formats=("PNG", "TIFF")) as opened:
            if opened.mode not in _SIXTEEN_BITS:
                raise DataError(f"{path}: holds no 16-bit depth (got mode {opened.mode}); is it a picture of depth?")
            return np.asarray(opened)
    except (OSError, SyntaxError, ValueError, pil.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot read the depth map (got {error}); give a 16-bit PNG, NPY or PGM") from error


def _npy(path: Path) -> np.ndarray:
    try:
        stored = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot read the depth map (got {error}); save one array of numbers") from error
    if not isinstance(stored, np.ndarray) or stored.ndim != 2 or stored.dtype.kind not in "uif":
        got = f"{stored.dtype} {list(stored.shape)}" if isinstance(stored, np.ndarray) else type(stored).__name__
        raise DataError(f"{path}: is no depth map (got {got}); save numbers [H, W]")
    return stored


def _pgm(path: Path, byte_order: str) -> np.ndarray:
    """Read by hand: PIL takes every file as big-endian, and stretches those whose greatest value is not 65535."""
    data = path.read_bytes()
    header = _PGM.match(data)
    if header is None:
        raise DataError(f"{path}: is no binary PGM (got {data[:8]!r}...); give a 16-bit PNG, NPY or PGM")
    width, height, most = (int(part) for part in header.groups())
    if not 255 < most < 65536 or len(data) - header.end() != 2 * width * height:
        got = f"{width}x{height}, values up to {most}, {len(data) - header.end()} bytes"
        raise DataError(f"{path}: holds no whole 16-bit map (got {got}); give two bytes a pixel")
    stored: np.ndarray = np.frombuffer(data, dtype=_BYTE_ORDERS[byte_order], offset=header.end())
    return stored.reshape(height, width)  # [H, W]


def _by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, str]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder (got nothing); check root, split, images and depths")
    names = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in suffixes)
    found = {Path(name).stem: name for name in names}
    if len(found) != len(names):
        twice = next(n for n in names if found[Path(n).stem] != n)
        raise DataError(f"{folder}: two files have one name (got {twice} and {found[Path(twice).stem]}); rename one")
    return found


def _features() -> Features:
    from datasets import Features, Value

    return Features({"image": Value("string"), "depth": Value("string")})


def window_of(dataset: str, crop: Any, windows: dict[str, Window]) -> Window:
    """The window that a name stands for; ``none`` is everywhere.

    Raises:
        ConfigError: no such name.
    """
    known = {"none": EVERYWHERE, **windows}
    if crop not in known:
        raise ConfigError(f"datasets/{dataset}.crop: unknown (got {crop!r}); {did_you_mean(str(crop), known)}")
    return known[crop]
