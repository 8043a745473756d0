"""Colours that people with any colour vision can tell apart.

Source:
    Objects: M. Okabe and K. Ito, Color Universal Design (2008). Maps: viridis (CC0), by linear interpolation of nine
    of its colours; its lightness rises evenly, so it reads in grey too.
"""

from __future__ import annotations

import numpy as np

Colour = tuple[int, int, int]

OBJECTS: tuple[Colour, ...] = (
    (86, 180, 233),  # sky blue
    (230, 159, 0),  # orange
    (0, 158, 115),  # bluish green
    (204, 121, 167),  # reddish purple
    (240, 228, 66),  # yellow
    (213, 94, 0),  # vermillion
    (0, 114, 178),  # blue
)
"""In an order that keeps the first few furthest apart on photographs."""
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""For thin lines on white and on black: without the yellow."""
_VIRIDIS = np.array(
    [
        (68, 1, 84),
        (71, 45, 123),
        (59, 82, 139),
        (44, 114, 142),
        (33, 145, 140),
        (40, 174, 128),
        (94, 201, 98),
        (173, 220, 48),
        (253, 231, 37),
    ],
    dtype=np.float32,
)


def of_object(number: int) -> Colour:
    """The colour of the n-th object or class; after the palette come its lighter copies, then it starts again."""
    red, green, blue = OBJECTS[number % len(OBJECTS)]
    if number // len(OBJECTS) % 2 == 0:
        return (red, green, blue)
    return ((red + 255) // 2, (green + 255) // 2, (blue + 255) // 2)


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever reads better on a colour (WCAG contrast)."""
    linear = [(c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4) for c in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


def heat(values: np.ndarray) -> np.ndarray:
    """Colours [..., 3] uint8 of values in [0, 1]; what lies outside is clipped."""
    place = np.clip(values, 0, 1) * (len(_VIRIDIS) - 1)
    channels = [np.interp(place, np.arange(len(_VIRIDIS)), _VIRIDIS[:, c]) for c in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)  # 3 x [...] -> [..., 3]
