"""Flickr30k Entities' lists, captions and XML (BryanPlummer/flickr30k_entities, README)."""

from __future__ import annotations

from pathlib import Path

from tests.data_files import SIZE, Call, picture

CAPTIONS = """\
[/EN#1/people A child] in [/EN#2/clothing a pink dress] up [/EN#3/other/scene some stairs] with [/EN#0/notvisual who] .
[/EN#1/people The Girl] sees [/EN#4/people two Men] .
"""


def bounds(*box: int) -> str:
    """A box, corners counted from 1."""
    sides = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    return f"<bndbox>{''.join(f'<{k}>{v}</{k}>' for k, v in sides)}</bndbox>"


def thing(names: str, inside: str) -> str:
    """An object of the XML file."""
    return f"<object>{''.join(f'<name>{n}</name>' for n in names.split())}{inside}</object>"


def annotation(*things: str) -> str:
    """An XML file."""
    size = f"<size><width>{SIZE[1]}</width><height>{SIZE[0]}</height><depth>3</depth></size>"
    return f"<annotation><filename>36979.jpg</filename>{size}{''.join(things)}</annotation>"


THINGS = (
    thing("1", bounds(6, 7, 16, 19)),
    thing("2", bounds(8, 10, 14, 18)),
    thing("3", "<scene>1</scene><nobndbox>0</nobndbox>"),
    thing("4", bounds(31, 11, 41, 31)),
    thing("4", bounds(45, 5, 60, 40)),
)


def write(folder: Path, captions: str = CAPTIONS, things: tuple[str, ...] = THINGS) -> Path:
    """One image in the split ``val``."""
    for name, text in {
        "val.txt": "36979\n",
        "Sentences/36979.txt": captions,
        "Annotations/36979.xml": annotation(*things),
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    picture(folder / "flickr30k-images" / "36979.jpg")
    return folder


def make(folder: Path) -> Call:
    """``val.txt``, ``Sentences/``, ``Annotations/`` and ``flickr30k-images/``."""
    return str(write(folder)), "val", {}
