"""Letters on pictures: one typeface, measured, shortened and wrapped."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import ImageFont

ELLIPSIS = "..."


@lru_cache(maxsize=32)
def font(size: int, bold: bool = False) -> Any:
    """DejaVu Sans (Latin, Greek, Cyrillic and more) where matplotlib brings it, else Pillow's own; size in pixels."""
    found = find_spec("matplotlib")  # not imported: only its font file is wanted
    if found and found.origin:
        name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
        path = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / name
        if path.is_file():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size)


def width(text: str, face: Any) -> int:
    """Pixels that a line takes, rounded up."""
    return int(-(-face.getlength(text) // 1))


def height(face: Any) -> int:
    """Pixels from the top of the tallest to the foot of the deepest letter: the same for every line."""
    ascent, descent = face.getmetrics()
    return int(ascent + descent)


def one_line(text: str) -> str:
    """The text without line breaks and control characters, which a picture cannot show."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def shorten(text: str, face: Any, room: int, tail: str = "") -> str:
    """The longest beginning that fits ``room`` pixels together with ``tail``, or "" where not even a letter does."""
    if width(text + tail, face) <= room:
        return text + tail
    low, high = 0, len(text)
    while low < high:  # the longest prefix that fits, by halving
        middle = (low + high + 1) // 2
        if width(text[:middle].rstrip() + ELLIPSIS + tail, face) <= room:
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip() + ELLIPSIS + tail if low else ""


def wrap(text: str, face: Any, room: int, lines: int) -> list[str]:
    """At most ``lines`` lines of ``room`` pixels, broken at spaces; what is left over becomes an ellipsis."""
    words = one_line(text).split(" ")
    done: list[str] = []
    while words and words[0] and len(done) < lines:
        if len(done) == lines - 1:
            done.append(shorten(" ".join(words), face, room))
            break
        count = 1
        while count < len(words) and width(" ".join(words[: count + 1]), face) <= room:
            count += 1
        line = " ".join(words[:count])
        done.append(line if width(line, face) <= room else shorten(line, face, room))
        words = words[count:]
    return done
