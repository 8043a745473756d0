"""Any photograph to RGB pixels [H, W, 3] uint8, or one clear line why not.

    pixels = open_image(Path("photo.png"))

Grey, alpha (over white), palette, 16-bit, CMYK and EXIF-rotated files all come out as what a viewer shows. Everything
that reads annotations uses ``image_size``, so sizes, too, are those after rotation.
"""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image as pil
from PIL import ImageOps

from ufo_tune.core.types import Image, Sample
from ufo_tune.errors import DataError

MAX_PIXELS = 100_000_000
"""Larger files are refused before they are decoded: a small file may claim to be a huge picture."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""Formats that are read; others (EPS, ...) start programs or are no pictures."""
_ORIENTATION = 274  # EXIF tag
_LONG = 1000  # characters of a name in a message: pictures as text have millions
_NO_PATH = re.compile(r"(https?|ftp|s3|gs|hf|data):")
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    ArithmeticError,
    NotImplementedError,
    struct.error,
    zlib.error,
)
"""What Pillow is known to raise on damaged files."""


def open_image(image: Image, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """RGB pixels [H, W, 3] uint8 of a file, or of pixels made in memory (returned as they are).

    Raises:
        DataError: missing, unreadable, truncated or too large a file; pixels of another shape or type.
    """
    if isinstance(image, np.ndarray):
        return _checked(image)
    with _opened(image, max_pixels) as opened:
        opened.load()
        ImageOps.exif_transpose(opened, in_place=True)
        return np.array(_rgb(opened, image))  # [H, W, 3], a copy that may be written to


def sample_image(sample: Sample) -> np.ndarray | None:
    """RGB pixels [H, W, 3] uint8 of a sample; None where it is text only.

    Raises:
        DataError: unreadable, or not of the size that the annotation says.
    """
    if sample.image is None:
        return None
    image = open_image(sample.image)
    if image.shape[:2] != tuple(sample.size):
        raise DataError(
            f"{sample.source}: the image is {image.shape[:2]} but the annotation says {tuple(sample.size)}; mend the "
            "annotation or the file"
        )
    return image


def image_size(image: Image, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(H, W) after EXIF rotation, from the header alone.

    Raises:
        DataError: see ``open_image``; damage behind the header is not seen.
    """
    if isinstance(image, np.ndarray):
        height, width = _checked(image).shape[:2]
        return height, width
    with _opened(image, max_pixels) as opened:
        width, height = opened.size
        return (width, height) if opened.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8) else (height, width)


def grey_thumbnail(image: Image, side: int) -> np.ndarray:
    """Grey pixels [side, side] uint8 of the whole image, squeezed to a square; JPEG is decoded small, so it is fast.

    Raises:
        DataError: see ``open_image``.
    """
    if isinstance(image, np.ndarray):
        small = pil.fromarray(_checked(image))
    else:
        with _opened(image, MAX_PIXELS) as opened:
            opened.draft("L", (4 * side, 4 * side))
            opened.load()
            upright = ImageOps.exif_transpose(opened)
            small = upright if upright.mode == "L" else _rgb(upright, image)
    return np.asarray(small.convert("L").resize((side, side), pil.Resampling.BOX))


@contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[pil.Image]:
    """The file, opened but not decoded; whatever Pillow raises inside becomes a ``DataError``."""
    path = Path(path)
    if (got := _instead_of_file(path)) is not None:
        name = str(path) if len(str(path)) <= _LONG else f"{path!s:.80}..."
        raise DataError(f"{name}: no such image (got {got}); check the path")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own bound is checked below; damaged EXIF is no news
            with pil.open(path, formats=FORMATS) as opened:
                if opened.width * opened.height > max_pixels:
                    raise DataError(
                        f"{path}: image is too large (got {opened.width}x{opened.height} pixels); "
                        f"shrink it to at most {max_pixels / 1e6:g} megapixels"
                    )
                yield opened
    except pil.UnidentifiedImageError as error:
        raise DataError(f"{path}: is not an image (got {_head(path)!r}...); give a JPEG or PNG file") from error
    except pil.DecompressionBombError as error:
        raise DataError(f"{path}: image is too large (got: {error}); shrink it to {max_pixels / 1e6:g} Mpx") from error
    except _UNREADABLE as error:
        raise DataError(f"{path}: cannot read the image (got {error}); replace the damaged file") from error


def _instead_of_file(path: Path) -> str | None:
    """What a path is, where it is no file; None where it is one."""
    try:
        if path.is_file():
            return None
        if path.is_dir():
            return "a folder"
    except OSError as error:  # a name that is too long, such as a whole picture as text
        return str(error.strerror).lower()
    return "an address or data, which are not read" if _NO_PATH.match(str(path)) else "nothing"


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(8)


def _rgb(image: pil.Image, path: Path) -> pil.Image:
    mode = image.mode
    if mode.startswith("I"):
        return pil.fromarray(_eight_bits(np.asarray(image), path)).convert("RGB")
    if mode == "F":
        raise DataError(f"{path}: holds floating-point pixels (got mode F); save it as 8 or 16 bit")
    if mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        opaque = pil.new("RGBA", image.size, "white")
        return pil.alpha_composite(opaque, image.convert("RGBA")).convert("RGB")
    return image if mode == "RGB" else image.convert("RGB")


def _eight_bits(values: np.ndarray, path: Path) -> np.ndarray:
    """[H, W] uint8 of 16-bit grey: 65535 becomes 255 (Pillow's own conversion would cut off at 255)."""
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise DataError(f"{path}: holds 32-bit pixels (got values up to {values.max()}); save it as 8 or 16 bit")
    return np.round(values.astype(np.float64) / 257).astype(np.uint8)


def _checked(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise DataError(
            f"image: pixels must be RGB uint8 [H, W, 3] (got {pixels.dtype} {list(pixels.shape)}); convert them"
        )
    return pixels
