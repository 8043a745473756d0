"""Every kind of file a user may have, against pixels worked out by hand."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from ufo_tune.data.images import image_size, open_image
from ufo_tune.errors import DataError


def _save(path: Path, pixels: np.ndarray, mode: str | None = None, **options: object) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


COLOURS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[0, 0, 0], [255, 255, 255], [128, 64, 32]]], np.uint8)


def test_rgb_png_is_exact(tmp_path: Path) -> None:
    pixels = open_image(_save(tmp_path / "a.png", COLOURS))
    assert pixels.dtype == np.uint8 and pixels.flags.writeable
    np.testing.assert_array_equal(pixels, COLOURS)


def test_grey_repeats_its_channel(tmp_path: Path) -> None:
    grey = np.array([[0, 100, 255]], np.uint8)
    np.testing.assert_array_equal(open_image(_save(tmp_path / "a.png", grey)), np.stack([grey] * 3, -1))


def test_palette(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(open_image(tmp_path / "a.png"), [[[10, 20, 30], [200, 100, 50]]])


def test_palette_with_a_transparent_colour_is_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=0)
    np.testing.assert_array_equal(open_image(tmp_path / "a.png"), [[[255, 255, 255], [200, 100, 50]]])


@pytest.mark.parametrize("alpha", [0, 51, 255])
def test_alpha_lies_over_white(tmp_path: Path, alpha: int) -> None:
    rgba = np.array([[[200, 100, 0, alpha]]], np.uint8)
    expected = np.array([200, 100, 0]) * alpha / 255 + 255 * (1 - alpha / 255)
    got = open_image(_save(tmp_path / "a.png", rgba)).astype(float)[0, 0]
    np.testing.assert_allclose(got, expected, atol=1)
    la = np.array([[[200, alpha]]], np.uint8)
    got = open_image(_save(tmp_path / "b.png", la)).astype(float)[0, 0]
    np.testing.assert_allclose(got, 200 * alpha / 255 + 255 - alpha, atol=1)


def test_sixteen_bits_keep_their_scale(tmp_path: Path) -> None:
    values = np.array([[0, 257, 128 * 257, 65535, 300]], np.uint16)
    got = open_image(_save(tmp_path / "a.png", values))
    np.testing.assert_array_equal(got[0, :, 0], [0, 1, 128, 255, 1])
    assert (got == got[..., :1]).all()


def test_sixteen_bit_colour(tmp_path: Path) -> None:
    """Written by hand, because Pillow writes no such file."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    row = b"\0" + struct.pack(">6H", 65535, 0, 32896, 257, 514, 771)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(png)
    np.testing.assert_array_equal(open_image(tmp_path / "a.png"), [[[255, 0, 128], [1, 2, 3]]])


def test_float_pixels_are_refused(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.tif", np.zeros((2, 2), np.float32))
    with pytest.raises(DataError, match=r"a\.tif: holds floating-point"):
        open_image(path)


def test_one_bit(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.png", np.array([[0, 255]], np.uint8), "1")
    np.testing.assert_array_equal(open_image(path), [[[0] * 3, [255] * 3]])


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    red = open_image(tmp_path / "a.jpg").astype(int)
    assert (np.abs(red - [255, 0, 0]) < 12).all()


TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),  # mirrored at the other diagonal
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    path = _save(tmp_path / "a.png", COLOURS, exif=exif)
    expected = TURNS[orientation](COLOURS)
    np.testing.assert_array_equal(open_image(path), expected)
    assert image_size(path) == expected.shape[:2]


@pytest.mark.skipif(not features.check("webp"), reason="this Pillow has no WebP")
def test_webp(tmp_path: Path) -> None:
    np.testing.assert_array_equal(open_image(_save(tmp_path / "a.webp", COLOURS, lossless=True)), COLOURS)


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent.jpg: no such image"):
        open_image(tmp_path / "absent.jpg")
    with pytest.raises(DataError, match="a folder"):
        open_image(tmp_path)
    (tmp_path / "a.jpg").write_text("not a picture")
    with pytest.raises(DataError, match="a.jpg: is not an image"):
        open_image(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="b.jpg: is not an image"):
        image_size(tmp_path / "b.jpg")


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_truncated_file(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = _save(tmp_path / name, noise)
    path.write_bytes(path.read_bytes()[:800])
    with pytest.raises(DataError, match=f"{name}: cannot read the image"):
        open_image(path)


def test_postscript_is_never_opened(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.eps")
    with pytest.raises(DataError, match="is not an image"):
        open_image(tmp_path / "a.eps")


def test_too_many_pixels_are_refused_before_decoding(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.png", COLOURS)
    with pytest.raises(DataError, match="too large .got 3x2 pixels.*5e-06 megapixels"):
        open_image(path, max_pixels=5)
    bomb = bytearray(path.read_bytes())
    bomb[16:24] = struct.pack(">II", 30000, 30000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bytes(bomb[12:29])))
    path.write_bytes(bomb)
    for function in (open_image, image_size):
        with pytest.raises(DataError, match="too large"):
            function(path)


def test_pixels_in_memory() -> None:
    assert open_image(COLOURS) is COLOURS
    assert image_size(COLOURS) == (2, 3)
    for bad in (COLOURS[..., 0], COLOURS.astype(float), np.zeros((2, 2, 4), np.uint8), np.zeros((0, 2, 3), np.uint8)):
        with pytest.raises(DataError, match="RGB uint8"):
            open_image(bad)


@pytest.mark.parametrize(
    ("name", "got"),
    [
        ("a" * 300 + ".png", "file name too long"),
        ("data:image/png;base64," + "iVBOR" * 5000, "file name too long"),
        ("data:image/png;base64,iVBOR", "an address or data, which are not read"),
        ("https://example.com/a.jpg", "an address or data, which are not read"),
        ("a.jpg", "nothing"),
    ],
)
@pytest.mark.parametrize("read", [open_image, image_size])
def test_what_is_no_files_name(read: Callable[[Path], object], name: str, got: str) -> None:
    with pytest.raises(DataError, match=rf"no such image \(got {got}\); check the path") as caught:
        read(Path(name))
    assert len(str(caught.value)) < 400
