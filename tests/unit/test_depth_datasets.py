"""Depth maps: metres by hand from every encoding, what is unknown, windows, indexes, and faults with their file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from tests.data_files import SIZE, picture
from tests.data_files import depth_folder as folder_files
from tests.data_files import kitti_depth as kitti_files
from tests.data_files import nyu_depth as nyu_files
from tests.data_files.depth_folder import depth_map, millimetres
from ufo_tune.core.depth_windows import EIGEN_KITTI, EIGEN_NYU, GARG, Window, inside
from ufo_tune.core.types import Sample
from ufo_tune.datasets import depth_folder, kitti_depth, nyu_depth
from ufo_tune.datasets._depth_maps import DepthMaps, Encoding, index_pairs, read_depth
from ufo_tune.errors import ConfigError, DataError

REAL = Path(os.environ.get("UFO_TUNE_REAL_DATA", ""))
OPEN3D = REAL / "open3d_rgbd"
real = pytest.mark.skipif(not OPEN3D.is_dir(), reason="UFO_TUNE_REAL_DATA has no depth maps")


def _depth(sample: Sample) -> np.ndarray:
    assert sample.targets is not None and sample.targets.depth is not None
    depth = sample.targets.depth
    assert depth.dtype == np.float32 and depth.shape == sample.size
    return depth


def test_two_folders(tmp_path: Path) -> None:
    folder_files.make(tmp_path)
    samples = depth_folder.load(str(tmp_path), "train", task="depth")
    assert [s.source for s in samples] == ["depth_folder/train#a", "depth_folder/train#b"]
    assert samples.image_ids == ("a.jpg", "b.jpg") and samples[-1].image == tmp_path / "train/rgb/b.jpg"
    for number, sample in enumerate(samples):
        assert sample.text == "" and sample.classes == () and sample.task == "depth" and sample.size == SIZE
        np.testing.assert_allclose(_depth(sample), millimetres(number) / 1000, rtol=1e-6)
    near = depth_folder.load(str(tmp_path), "train", task="depth", max_depth=4, scale=0.0005)
    half = millimetres() / 2000
    np.testing.assert_allclose(_depth(near[0]), np.where(half <= 4, half, 0), rtol=1e-6)


def test_an_index_of_own_pairs(tmp_path: Path) -> None:
    picture(tmp_path / "left 1.jpg")
    stored = np.full(SIZE, 2.5)
    stored[0, :4] = [np.nan, np.inf, -1, 0]
    depth_map(tmp_path / "maps" / "one.npy", stored)
    (tmp_path / "pairs_val.txt").write_text("# image, depth\nleft 1.jpg\tmaps/one.npy\n\n")
    samples = depth_folder.load(str(tmp_path), "val", task="depth", index="pairs_{split}.txt", scale=1)
    assert len(samples) == 1 and samples[0].source == "depth_folder/val#left 1"
    expected = np.full(SIZE, 2.5)
    expected[0, :4] = 0
    np.testing.assert_array_equal(_depth(samples[0]), expected)


def _rotate_left(values: np.ndarray) -> np.ndarray:
    """What SUN RGB-D does to 16 bits before it stores them."""
    digits = [f"{v:016b}" for v in values.ravel()]
    return np.array([int(d[3:] + d[:3], 2) for d in digits], np.uint16).reshape(values.shape)


def test_encodings(tmp_path: Path) -> None:
    depth = millimetres()
    path = depth_map(tmp_path / "sun.png", _rotate_left(depth))
    np.testing.assert_allclose(read_depth(path, SIZE, Encoding(decoding="sun")), depth / 1000, rtol=1e-6)
    raw = np.full(SIZE, 741, np.uint16)
    raw[0, :3] = 2047, 1092, 1093  # no reading; 702.6 m; behind the camera
    path = depth_map(tmp_path / "kinect.png", raw)
    found = read_depth(path, SIZE, Encoding(decoding="kinect", max_depth=10))
    assert found[0, :3].tolist() == [0, 0, 0]
    np.testing.assert_allclose(found[1], np.full(SIZE[1], 351.3 / 351.5), rtol=1e-6)


@pytest.mark.parametrize("header", [b"P5 60 40 65535\n", b"P5\n# made by hand\n60\n40\n# so\n10000\n"])
def test_pgm_of_both_byte_orders(tmp_path: Path, header: bytes) -> None:
    depth, path = millimetres(), tmp_path / "a.pgm"
    for order, kind in (("big", ">u2"), ("little", "<u2")):
        path.write_bytes(header + depth.astype(kind).tobytes())
        encoding = Encoding(byte_order=order)  # type: ignore[arg-type]
        np.testing.assert_allclose(read_depth(path, SIZE, encoding), depth / 1000, rtol=1e-6)


def test_nyu(tmp_path: Path) -> None:
    nyu_files.make(tmp_path)
    samples = nyu_depth.load(str(tmp_path), "test", task="depth")
    assert [s.source for s in samples] == ["nyu_depth/test#bathroom/rgb_00045", "nyu_depth/test#bathroom/rgb_00046"]
    np.testing.assert_allclose(_depth(samples[1]), millimetres(46) / 1000, rtol=1e-6)
    cropped = _depth(nyu_depth.load(str(tmp_path), "test", task="depth", crop="eigen")[0])
    assert cropped[:3].sum() == cropped[39:].sum() == cropped[:, :3].sum() == cropped[:, 56:].sum() == 0
    np.testing.assert_array_equal(cropped[3:39, 3:56], _depth(samples[0])[3:39, 3:56])


def test_kitti(tmp_path: Path) -> None:
    kitti_files.make(tmp_path)
    samples = kitti_depth.load(str(tmp_path), "test", task="depth")
    assert len(samples) == 1 and samples.without_depth == 1
    stored = kitti_files.sparse() / 256
    np.testing.assert_allclose(_depth(samples[0]), np.where(stored <= 80, stored, 0), rtol=1e-6)
    assert (_depth(samples[0]) > 0).sum() < stored.size / 9 + 20


@pytest.mark.parametrize(
    ("window", "size", "edges"),
    [
        (EIGEN_NYU, (480, 640), (45, 471, 41, 601)),
        (GARG, (375, 1242), (153, 371, 44, 1197)),  # 153.0405, 371.9595, 44.6471, 1197.3529
        (GARG, (370, 1226), (151, 366, 44, 1181)),  # 151.0000007, 366.9999993, 44.0719, 1181.9281
        (EIGEN_KITTI, (375, 1242), (124, 342, 44, 1197)),  # 124.6622, 342.5676, 44.6470, 1197.3529
        (EIGEN_KITTI, (370, 1226), (122, 337, 44, 1181)),  # 122.9999880, 337.9999987, 44.0719, 1181.9281
    ],
)
def test_windows_are_those_of_the_published_code(
    window: Window, size: tuple[int, int], edges: tuple[int, int, int, int]
) -> None:
    """Both sizes that most of KITTI has: products by hand, cut to whole numbers as BTS and Monodepth2 do."""
    top, bottom, left, right = edges
    expected = np.zeros(size, dtype=bool)
    expected[top:bottom, left:right] = True
    np.testing.assert_array_equal(inside(size, window), expected)


@pytest.mark.parametrize(("crop", "edges"), [("garg", (24, 59, 2, 57)), ("eigen", (19, 54, 2, 57))])
def test_kitti_is_known_in_its_window_only(
    tmp_path: Path, crop: Literal["garg", "eigen"], edges: tuple[int, int, int, int]
) -> None:
    """Of 60 x 60: 24.486, 59.514, 2.157, 57.843, and 19.946, 54.811, 2.157, 57.843."""
    depth_map(tmp_path / "gt_depth" / "a.png", np.full((60, 60), 512, np.uint16))
    picture(tmp_path / "input" / "a.png", size=(60, 60))
    (tmp_path / "kitti_eigen_test.txt").write_text("a.png a.png 700\n")
    top, bottom, left, right = edges
    expected = np.zeros((60, 60), np.float32)
    expected[top:bottom, left:right] = 2  # metres
    found = _depth(kitti_depth.load(str(tmp_path), "test", task="depth", crop=crop)[0])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "sunn"}, "no such encoding .got 'sunn'.; did you mean 'sun'"),
        ({"byte_order": "huge"}, "no such byte_order .got 'huge'"),
        ({"scale": 0}, "scale or max_depth out of range .got 0, 0.0"),
        ({"max_depth": -1}, "scale or max_depth out of range"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    folder_files.make(tmp_path)
    with pytest.raises(ConfigError, match=f"datasets/depth_folder: {message}"):
        depth_folder.load(str(tmp_path), "train", task="depth", **options)
    with pytest.raises(ConfigError, match="datasets/nyu_depth.crop: unknown .got 'egen'.; did you mean 'eigen'"):
        nyu_depth.load(str(tmp_path), "test", task="depth", crop="egen")  # type: ignore[arg-type]


def test_files_that_do_not_pair(tmp_path: Path) -> None:
    folder_files.make(tmp_path)
    alone = picture(tmp_path / "train" / "rgb" / "c.png")
    with pytest.raises(DataError, match=r"1 files have no depth map in .*train/depth \(got c.png\)"):
        depth_folder.load(str(tmp_path), "train", task="depth")
    alone.rename(alone.with_name("a.png"))
    with pytest.raises(DataError, match=r"rgb: two files have one name \(got a.jpg and a.png\)"):
        depth_folder.load(str(tmp_path), "train", task="depth")
    (tmp_path / "bad.txt").write_text("a.jpg b.png\nalone.jpg\n")
    with pytest.raises(DataError, match=r"bad.txt:2: is not an image and a depth map \(got 'alone.jpg'\)"):
        index_pairs(tmp_path / "bad.txt")
    (tmp_path / "bad.txt").write_bytes("é.jpg b.png\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"bad.txt: is not UTF-8 text"):
        index_pairs(tmp_path / "bad.txt")
    (tmp_path / "good.txt").write_text("a.jpg b.png\r\n", encoding="utf-8-sig")
    assert index_pairs(tmp_path / "good.txt") == ([("a.jpg", "b.png")], 0)


def _first(folder: Path, **options: Any) -> np.ndarray:
    return _depth(depth_folder.load(str(folder), "train", task="depth", **options)[0])


def test_damaged_maps(tmp_path: Path) -> None:
    folder_files.make(tmp_path)
    path = tmp_path / "train" / "depth" / "a.png"
    with pytest.raises(DataError, match=r"depth_folder/train#a: .*a.png: no pixel has a known depth \(got at most"):
        _first(tmp_path, scale=1, max_depth=10)
    depth_map(path, millimetres()[:, :50])
    with pytest.raises(DataError, match=r"a.png: depth map is \(40, 50\) but the image is \(40, 60\)"):
        _first(tmp_path)
    Image.fromarray(np.ones((*SIZE, 3), np.uint8)).save(path)
    with pytest.raises(DataError, match="a.png: holds no 16-bit depth .got mode RGB"):
        _first(tmp_path)
    Image.fromarray(np.ones(SIZE, np.uint8)).save(path)
    with pytest.raises(DataError, match="a.png: holds no 16-bit depth .got mode L"):
        _first(tmp_path)
    whole = depth_map(path, millimetres()).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="a.png: cannot read the depth map"):
        _first(tmp_path)
    path.unlink()
    for name, content, message in (
        (
            "a.pgm",
            b"P5 60 40 255\n" + bytes(2400),
            "holds no whole 16-bit map .got 60x40, values up to 255, 2400 bytes",
        ),
        ("a.pgm", b"P5 60 40 65535\n" + bytes(4799), "holds no whole 16-bit map"),
        ("a.pgm", b"P2 60 40 65535\n", "is no binary PGM"),
        ("a.npy", b"not numpy", "cannot read the depth map"),
    ):
        (path.parent / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}: {message}"):
            _first(tmp_path)
        (path.parent / name).unlink()
    for stored in (np.ones((*SIZE, 1)), np.full(SIZE, "a"), np.full(SIZE, None)):
        np.save(path.parent / "a.npy", stored, allow_pickle=True)
        with pytest.raises(DataError, match="a.npy: (is no depth map|cannot read the depth map)"):
            _first(tmp_path)


def _pair(folder: Path, image: str, depth: str, **options: Any) -> DepthMaps:
    (folder / "pairs.txt").write_text(f"{image} {depth}\n")
    index = str(folder / "pairs.txt")
    return depth_folder.load(str(OPEN3D / "other_formats"), "real", task="depth", index=index, **options)


@real
def test_redwood() -> None:
    samples = depth_folder.load(str(OPEN3D), "real", task="depth", images="color", depths="depth", max_depth=4)
    assert [s.image_id for s in samples] == [f"0000{n}.jpg" for n in range(5)]
    for number, sample in enumerate(samples):
        stored = np.array(Image.open(OPEN3D / "depth" / f"0000{number}.png"), np.float64)
        np.testing.assert_allclose(_depth(sample), np.where(stored <= 4000, stored / 1000, 0), rtol=1e-6)
        assert sample.size == (480, 640) and 1 < np.median(_depth(sample)[_depth(sample) > 0]) < 3


@real
def test_tum(tmp_path: Path) -> None:
    found = _depth(_pair(tmp_path, "TUM_color.png", "TUM_depth.png", scale=1 / 5000)[0])
    stored = np.array(Image.open(OPEN3D / "other_formats" / "TUM_depth.png"), np.float64)
    np.testing.assert_allclose(found, stored / 5000, rtol=1e-6)
    assert 0.3 < found[found > 0].min() and found.max() < 10


@real
def test_sun(tmp_path: Path) -> None:
    found = _depth(_pair(tmp_path, "SUN_color.jpg", "SUN_depth.png", encoding="sun", max_depth=8)[0])
    stored = np.array(Image.open(OPEN3D / "other_formats" / "SUN_depth.png"), np.uint16)
    millimetre = np.vectorize(lambda v: int(f"{v:016b}"[-3:] + f"{v:016b}"[:-3], 2))(stored)  # by its digits
    np.testing.assert_allclose(found, np.where(millimetre <= 8000, millimetre / 1000, 0), rtol=1e-6)
    assert 0.5 < found[found > 0].min() and (found > 0).mean() > 0.5


@real
def test_nyu_raw_is_little_endian(tmp_path: Path) -> None:
    options: dict[str, Any] = {"encoding": "kinect", "max_depth": 10, "byte_order": "little"}
    found = _depth(_pair(tmp_path, "NYU_color.ppm", "NYU_depth.pgm", **options)[0])
    data = (OPEN3D / "other_formats" / "NYU_depth.pgm").read_bytes()[-2 * 480 * 640 :]
    raw = np.frombuffer(data, np.uint8).reshape(480, 640, 2).astype(int) @ [1, 256]  # [480, 640] low byte first
    assert raw.max() == 2047  # no reading
    expected = 351.3 / (1092.5 - raw)
    np.testing.assert_allclose(found, np.where((expected > 0) & (expected <= 10), expected, 0), rtol=1e-6)
    assert 1 < np.median(found[found > 0]) < 5
    with pytest.raises(DataError, match="no pixel has a known depth"):
        _pair(tmp_path, "NYU_color.ppm", "NYU_depth.pgm", encoding="kinect", max_depth=0.3)[0]


@real
def test_nyu_in_millimetres() -> None:
    root = REAL / "mmseg_tests_data" / "pseudo_nyu_dataset"
    samples = depth_folder.load(str(root), "real", task="depth", images="images", depths="annotations", max_depth=10)
    stored = np.array(Image.open(root / "annotations" / "bookstore_0001d_00001.png"), np.float64)
    np.testing.assert_allclose(_depth(samples[0]), stored / 1000, rtol=1e-6)
    assert samples[0].size == (120, 160)


@real
@pytest.mark.parametrize(("file", "pairs", "without"), [("nyu_test", 654, 0), ("kitti_eigen_test", 652, 45)])
def test_official_indexes(file: str, pairs: int, without: int) -> None:
    found, none = index_pairs(REAL / "depth_split_files" / "splits" / f"{file}.txt")
    assert (len(found), none) == (pairs, without)
    assert all(image.endswith((".jpg", ".png")) and depth.endswith(".png") for image, depth in found)
