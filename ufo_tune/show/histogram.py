"""How numbers are spread, as an SVG that follows the reader's light or dark setting."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from ufo_tune.show import palette
from ufo_tune.show.chart import STYLE

_LEFT, _RIGHT, _TOP, _FOOT = 46, 12, 34, 42


def histogram(
    values: Sequence[float], bins: int = 20, *, title: str = "", x: str = "", size: tuple[int, int] = (520, 240)
) -> str:
    """Bars of how many values lie in each of ``bins`` equal parts of their range, at least [0, 1].

    Args:
        values: finite numbers.
        bins: bars.
        title: above the picture and for screen readers.
        x: what the numbers are.
        size: width and height in pixels; the picture scales.
    Returns:
        One ``<svg>`` element. A pointer on a bar shows its count.
    """
    low, high = min([0.0, *values]), max([1.0, *values])
    counts, edges = np.histogram(np.asarray(values, dtype=np.float64), bins=bins, range=(low, high))
    width, height = size
    bottom, most = height - _FOOT, max(1, int(counts.max()))
    step = (width - _LEFT - _RIGHT) / bins
    bars = []
    for number, count in enumerate(counts.tolist()):
        tall = (bottom - _TOP) * count / most
        label = f"{edges[number]:.3g} to {edges[number + 1]:.3g}: {count}"
        bars.append(
            f'<rect x="{_LEFT + number * step + 1:.1f}" y="{bottom - tall:.1f}" width="{max(1.0, step - 2):.1f}" '
            f'height="{tall:.1f}" fill="{palette.LINES[0]}"><title>{label}</title></rect>'
        )
    ticks = [
        f'<text class="t" x="{_LEFT + share * (width - _LEFT - _RIGHT):.1f}" y="{bottom + 18}" '
        f'text-anchor="middle">{low + share * (high - low):.3g}</text>'
        for share in (0, 0.25, 0.5, 0.75, 1)
    ]
    middle = (_LEFT + width - _RIGHT) / 2
    return "\n".join(
        [
            f'<svg class="ufo-curves" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img" aria-label="{escape(title or x)}"><style>{STYLE}</style>',
            f'<text x="{_LEFT}" y="20" font-weight="600">{escape(title)}</text>',
            *bars,
            f'<line class="a" x1="{_LEFT}" y1="{bottom}" x2="{width - _RIGHT}" y2="{bottom}"/>',
            f'<text class="t" x="{_LEFT - 8}" y="{_TOP + 4}" text-anchor="end">{most}</text>',
            f'<text class="t" x="{_LEFT - 8}" y="{bottom + 4}" text-anchor="end">0</text>',
            *ticks,
            f'<text class="t" x="{middle:.0f}" y="{bottom + 35}" text-anchor="middle">{escape(x)}</text>',
            "</svg>",
        ]
    )
