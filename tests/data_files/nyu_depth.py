"""NYU Depth v2 in the layout of BTS: an index of image, depth map in millimetres, and focal length."""

from __future__ import annotations

from pathlib import Path

from tests.data_files import Call, picture
from tests.data_files.depth_folder import depth_map, millimetres


def make(folder: Path) -> Call:
    """``nyu_test.txt`` and one scene; BTS's training lists start with a slash."""
    lines = []
    for number in (45, 46):
        picture(folder / "bathroom" / f"rgb_{number:05}.jpg", number)
        depth_map(folder / "bathroom" / f"sync_depth_{number:05}.png", millimetres(number))
        slash = "/" if number == 46 else ""
        lines.append(f"{slash}bathroom/rgb_{number:05}.jpg {slash}bathroom/sync_depth_{number:05}.png 518.8579\n")
    (folder / "nyu_test.txt").write_text("".join(lines).rstrip("\n"))
    return str(folder), "test", {}
