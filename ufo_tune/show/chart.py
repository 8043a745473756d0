"""Curves as an SVG that follows the reader's light or dark setting: axes, ticks, legend, log scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from ufo_tune.errors import ConfigError
from ufo_tune.show import palette

Points = Sequence[tuple[float, float]]
STYLE = (
    "svg.ufo-curves{color:#1b1f24;font:12px system-ui,sans-serif}"
    "@media(prefers-color-scheme:dark){svg.ufo-curves{color:#e3e8ed}}"
    ".ufo-curves text{fill:currentColor}.ufo-curves .t{fill-opacity:.7}.ufo-curves .g{stroke:currentColor;"
    "stroke-opacity:.13}.ufo-curves .a{stroke:currentColor;stroke-opacity:.5}"
    ".ufo-curves path{fill:none;stroke-linejoin:round;stroke-linecap:round}"
)
_DASHES = ("", "6 3", "2 3")
"""After the palette has gone round once, lines differ by their dashes."""
_LEFT, _RIGHT, _FOOT, _ROW = 58, 16, 42, 18
_SMOOTH_FROM = 60
"""Points from which on a curve is shown smoothed over its faint raw values."""


def curves(
    events: Mapping[str, Points],
    *,
    title: str = "",
    x: str = "step",
    y: str = "",
    log: bool = False,
    smooth: bool = True,
    size: tuple[int, int] = (760, 320),
) -> str:
    """Curves over steps or seconds.

    Values that are not finite leave a gap; on a log scale so do values that are not positive.

    Args:
        events: name -> (x, y) pairs in order of x.
        title: above the picture and for screen readers.
        x: what lies on the horizontal axis.
        y: what lies on the vertical axis.
        log: logarithmic vertical axis.
        smooth: draw curves of many points smoothed, over their faint raw values.
        size: width and height in pixels; the picture scales.
    Returns:
        One ``<svg>`` element, to be put into a page or, as it is, into a file.
    Raises:
        ConfigError: the picture is too small for its axes.
    """
    width, height = size
    runs = {name: _runs(points, log) for name, points in events.items()}
    flat = [p for parts in runs.values() for part in parts for p in part]
    rows = _legend_rows(list(events), width)
    top = 12 + (22 if title else 0) + _ROW * len(rows)
    if width < 200 or height < top + _FOOT + 40:
        raise ConfigError(f"curves: no room for the axes (got {width}x{height}); use at least 200x{top + _FOOT + 40}")
    frame = (_LEFT, top, width - _RIGHT, height - _FOOT)
    ends = {name: parts[-1][-1][1] for name, parts in runs.items() if parts}
    summary = "; ".join(f"{n} ends at {_number(v)}" for n, v in ends.items())
    label = escape(f"{title or y}: {summary}")
    head = (
        f'<svg class="ufo-curves" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="{label}">'
        f"<style>{STYLE}</style>"
    )
    parts = [head]
    if title:
        parts.append(f'<text x="{_LEFT}" y="22" font-weight="600">{escape(title)}</text>')
    parts += _legend(rows, top - _ROW * len(rows))
    parts += _plot(runs, flat, frame, (x, y), log, smooth) if flat else [_nothing(frame)]
    return "\n".join([*parts, "</svg>"])


def _runs(points: Points, log: bool) -> list[list[tuple[float, float]]]:
    """Unbroken stretches of values that can be drawn."""
    parts: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if math.isfinite(x) and math.isfinite(y) and (y > 0 or not log):
            parts[-1].append((float(x), float(y)))
        elif parts[-1]:
            parts.append([])
    return [p for p in parts if p]


def _plot(
    runs: Mapping[str, list[list[tuple[float, float]]]],
    flat: Points,
    frame: tuple[int, int, int, int],
    names: tuple[str, str],
    log: bool,
    smooth: bool,
) -> list[str]:
    left, top, right, bottom = frame
    xs, x_ticks = _axis([p[0] for p in flat], max(3, (right - left) // 90), False)
    ys, y_ticks = _axis([p[1] for p in flat], max(3, (bottom - top) // 45), log)

    def across(value: float) -> float:
        return left + (value - xs[0]) / (xs[1] - xs[0]) * (right - left)

    def down(value: float) -> float:
        low, high, place = (math.log10(v) for v in (*ys, value)) if log else (*ys, value)
        return bottom - (place - low) / (high - low) * (bottom - top)

    parts = []
    for tick in y_ticks:
        at = down(tick)
        parts.append(f'<line class="g" x1="{left}" y1="{at:.1f}" x2="{right}" y2="{at:.1f}"/>')
        parts.append(f'<text class="t" x="{left - 8}" y="{at + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    for tick in x_ticks:
        at = across(tick)
        parts.append(f'<line class="a" x1="{at:.1f}" y1="{bottom}" x2="{at:.1f}" y2="{bottom + 4}"/>')
        parts.append(f'<text class="t" x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{_number(tick)}</text>')
    parts.append(f'<line class="a" x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}"/>')
    middle, centre = (left + right) / 2, (top + bottom) / 2
    parts.append(f'<text class="t" x="{middle:.0f}" y="{bottom + 35}" text-anchor="middle">{escape(names[0])}</text>')
    turn = f'transform="rotate(-90 14 {centre:.0f})"'
    parts.append(f'<text class="t" x="14" y="{centre:.0f}" text-anchor="middle" {turn}>{escape(names[1])}</text>')
    for number, (name, stretches) in enumerate(runs.items()):
        colour, dash = _look(number)
        for stretch in stretches:
            placed = [(across(px), down(py)) for px, py in stretch]
            parts += _line(placed, name, colour, dash, smooth)
    return parts


def _line(points: Points, name: str, colour: str, dash: str, smooth: bool) -> list[str]:
    """One stretch: a dot, a line, or a smooth line over the faint raw one."""
    label = f"<title>{escape(name)}</title>"
    if len(points) == 1:
        (px, py), *_ = points
        return [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}">{label}</circle>']
    stroke = f'stroke="{colour}"' + (f' stroke-dasharray="{dash}"' if dash else "")
    if len(points) < _SMOOTH_FROM or not smooth:
        seen = points if len(points) < 30 else ()
        dots = [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="2.4" fill="{colour}"/>' for px, py in seen]
        return [f'<path d="{_path(points)}" {stroke} stroke-width="2">{label}</path>', *dots]
    return [
        f'<path d="{_path(points)}" stroke="{colour}" stroke-opacity=".25" stroke-width="1"/>',
        f'<path d="{_path(_smooth(points))}" {stroke} stroke-width="2">{label}</path>',
    ]


def _smooth(points: Points) -> list[tuple[float, float]]:
    """Centred means over a twentieth of the curve, narrower at its ends so that these stay where they are."""
    half = max(1, len(points) // 40)
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    smooth = []
    for i, (x, _) in enumerate(points):
        reach = min(half, i, len(points) - 1 - i)
        smooth.append((x, (sums[i + reach + 1] - sums[i - reach]) / (2 * reach + 1)))
    return smooth


def _path(points: Points) -> str:
    return "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in points)


def _axis(values: Sequence[float], ticks: int, log: bool) -> tuple[tuple[float, float], list[float]]:
    """Range and round tick values of an axis."""
    low, high = min(values), max(values)
    if log:
        return _log_axis(low, high)
    if low == high:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    rough = (high - low) / ticks
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return (first * step, last * step), [i * step for i in range(first, last + 1)]


def _log_axis(low: float, high: float) -> tuple[tuple[float, float], list[float]]:
    """Decades, with 2 and 5 between them where there are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    last = max(last, first + 1)
    steps: tuple[int, ...] = (1,) if last - first > 3 else (1, 2, 5)
    every = -(-(last - first) // 8)
    ticks = [m * 10.0**e for e in range(first, last + 1, every) for m in steps]
    return (10.0**first, 10.0**last), [t for t in ticks if t <= 10.0**last]


def _number(value: float) -> str:
    """Short and round: 0.25, 1500, 20k, 3e-05."""
    if value and (abs(value) >= 1e6 or abs(value) < 1e-3):
        return f"{value:.3g}"
    if abs(value) >= 1e4:
        return f"{value / 1000:.4g}k"
    return f"{value:.4g}"


def _look(number: int) -> tuple[str, str]:
    return palette.LINES[number % len(palette.LINES)], _DASHES[number // len(palette.LINES) % len(_DASHES)]


def _legend_rows(names: Sequence[str], width: int) -> list[list[tuple[int, str, int]]]:
    """Rows of (left, name, number), each as full as it gets; a letter is taken as 7 pixels."""
    rows: list[list[tuple[int, str, int]]] = []
    left = width
    for number, name in enumerate(names):
        need = 34 + 7 * len(name)
        if left + need > width - _RIGHT:
            rows.append([])
            left = _LEFT
        rows[-1].append((left, name, number))
        left += need
    return rows


def _legend(rows: Sequence[Sequence[tuple[int, str, int]]], top: int) -> list[str]:
    parts = []
    for row_number, row in enumerate(rows):
        at = top + row_number * _ROW
        for left, name, number in row:
            colour, dash = _look(number)
            dashes = f' stroke-dasharray="{dash}"' if dash else ""
            parts.append(
                f'<line x1="{left}" y1="{at}" x2="{left + 18}" y2="{at}" stroke="{colour}" stroke-width="3"{dashes}/>'
            )
            parts.append(f'<text x="{left + 24}" y="{at + 4}">{escape(name)}</text>')
    return parts


def _nothing(frame: tuple[int, int, int, int]) -> str:
    left, top, right, bottom = frame
    at = f'x="{(left + right) / 2:.0f}" y="{(top + bottom) / 2:.0f}"'
    return f'<text class="t" {at} text-anchor="middle">nothing recorded</text>'
