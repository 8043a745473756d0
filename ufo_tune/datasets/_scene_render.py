"""Drawing a synthetic scene: analytic distance fields on small windows, painted from far to near.

Every object is a signed distance field evaluated in its own window only. The same field gives the anti-aliased edge,
the exact mask (distance < 0 at the pixel's centre) and the soft shadow, so that picture and truth cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ufo_tune.datasets._scene_layout import CROSS_ARM, STAR_INNER, Draws, Thing, generator, propose

PAINT: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "red": ((222, 38, 42), (128, 8, 20)),
    "green": ((52, 172, 72), (12, 92, 38)),
    "blue": ((46, 98, 232), (16, 40, 138)),
    "yellow": ((250, 220, 48), (190, 142, 8)),
    "purple": ((138, 58, 200), (74, 18, 122)),
    "orange": ((250, 136, 24), (176, 76, 4)),
    "white": ((246, 246, 244), (158, 160, 170)),
    "pink": ((255, 142, 198), (204, 66, 138)),
}
"""Body and pattern colour (RGB) of every colour name."""

_BACKDROPS = np.array(
    [(122, 128, 138), (96, 108, 118), (138, 128, 116), (108, 116, 104), (84, 90, 104), (128, 118, 128), (72, 78, 84)],
    dtype=np.float32,
)
_SHADOW_SHIFT = (0.016, 0.028)  # of the side
_SHADOW_SOFT = 0.026
MIN_VISIBLE = 0.6
"""Every object shows at least this share of its own pixels."""
NEAR, FAR = 1.5, 9.5
"""Metres at the lower and the upper image edge: objects stand on a plane seen from above."""


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A drawn scene of N objects, nearest first. Boxes bound what is visible (xyxy, right and lower edge exclusive)."""

    name: str
    image: np.ndarray  # [H, W, 3] u8
    things: tuple[Thing, ...]
    owner: np.ndarray  # [H, W] i8: index of the visible object, -1 background
    boxes: np.ndarray  # [N, 4] i64
    areas: np.ndarray  # [N] i64 visible pixels
    hidden: np.ndarray  # [N, N] i64: pixels of i that j hides

    @property
    def side(self) -> int:
        """Image side in pixels."""
        return int(self.image.shape[0])

    @property
    def distances(self) -> np.ndarray:
        """Metres to every object [N] f32, rising with the index: where its lower edge touches the plane."""
        return _metres(np.array([t.box[3] for t in self.things], dtype=np.float32), self.side)

    def masks(self) -> np.ndarray:
        """Visible masks [N, H, W] bool; they are disjoint."""
        numbers = np.arange(len(self.things), dtype=np.int8)
        return self.owner[None] == numbers[:, None, None]  # [1, H, W] == [N, 1, 1]

    def depth(self) -> np.ndarray:
        """Depth map [H, W] f32 in metres: upright objects on a plane."""
        rows = _metres(np.arange(self.side, dtype=np.float32) + 0.5, self.side)
        table = np.append(self.distances, np.float32(0))
        flat = np.broadcast_to(rows[:, None], self.owner.shape)
        return np.where(self.owner >= 0, table[self.owner], flat).astype(np.float32)


def _metres(y: np.ndarray, side: int) -> np.ndarray:
    return (FAR + (NEAR - FAR) * y / side).astype(np.float32)


@lru_cache(maxsize=4)
def _banks(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Fine grain and soft blotches, [2 * side, 2 * side] each; scenes cut windows out of them."""
    rng = generator(20250203, side)
    grain = rng.standard_normal((2 * side, 2 * side)).astype(np.float32)
    coarse = rng.standard_normal((18, 18))
    at = np.linspace(0, 16.999, 2 * side)
    low, part = at.astype(int), at - at.astype(int)
    part = part * part * (3 - 2 * part)
    rows = coarse[low] * (1 - part)[:, None] + coarse[low + 1] * part[:, None]
    blotches = rows[:, low] * (1 - part) + rows[:, low + 1] * part
    return grain, blotches.astype(np.float32)


def _backdrop(rng: np.random.Generator, side: int) -> np.ndarray:
    """A muted gradient with blotches, a faint pattern and grain [3, H, W] f32; never as vivid as an object."""
    first, second = _BACKDROPS[rng.integers(0, len(_BACKDROPS), size=2)]
    first, second = (first + rng.uniform(-8, 8, 3)).astype("f4"), (second + rng.uniform(-8, 8, 3)).astype("f4")
    angle = rng.uniform(0, 2 * np.pi)
    line = np.linspace(-0.7, 0.7, side, dtype=np.float32)
    ramp = 0.5 + float(np.cos(angle)) * line[None, :] + float(np.sin(angle)) * line[:, None]  # [H, W]
    grain, blotches = _banks(side)
    x0, y0, x1, y1 = rng.integers(0, side, size=4)
    tone = rng.uniform(2, 7) * blotches[y0 : y0 + side, x0 : x0 + side]
    tone = tone + rng.uniform(1.0, 3.5) * grain[y1 : y1 + side, x1 : x1 + side]
    kind = rng.integers(0, 4)
    if kind:
        waves = np.arange(side, dtype=np.float32) * float(2 * np.pi / (side * rng.uniform(0.1, 0.2)))
        wave = np.clip(4 * np.sin(waves), -1, 1) * rng.uniform(2, 5)
        if kind == 1:
            tone += wave[:, None]
        elif kind == 2:
            tone += wave[None, :]
        else:
            tone += wave[:, None] * np.sign(wave)[None, :]
    ramp = np.clip(ramp, 0, 1)
    return np.stack([ramp * (b - a) + (tone + a) for a, b in zip(first, second, strict=True)])


def _distance(shape: str, x: np.ndarray, y: np.ndarray, width: float) -> np.ndarray:
    """Signed distance in pixels (negative inside) of points in the shape's own, untilted frame."""
    half = np.float32(width / 2)
    if shape == "circle":
        return np.sqrt(x * x + y * y) - half
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - half
    if shape == "triangle":
        inner = np.float32(width / np.sqrt(12))
        sides = np.float32(np.sqrt(0.75)) * np.abs(x) - np.float32(0.5) * y
        return np.maximum(y, sides) - inner
    if shape == "cross":
        ax, ay, arm = np.abs(x), np.abs(y), half * np.float32(CROSS_ARM)
        return np.minimum(np.maximum(ax - half, ay - arm), np.maximum(ax - arm, ay - half))
    return _star(np.abs(x), -y, np.float32(width / (2 * np.sin(np.radians(72)))))


def _star(x: np.ndarray, y: np.ndarray, radius: np.float32) -> np.ndarray:
    """Two reflections fold a five-pointed star onto one half of one tip, where its edge is a single line."""
    c, s = np.float32(np.cos(np.radians(36))), np.float32(np.sin(np.radians(36)))
    for sign in (1, -1):
        over = 2 * np.maximum(sign * c * x - s * y, 0)
        x, y = x - sign * c * over, y + s * over
    x = np.abs(x)
    normal = np.array([1 - c * STAR_INNER, s * STAR_INNER], dtype=np.float32)
    normal /= np.linalg.norm(normal)
    return normal[0] * x + normal[1] * (y - radius)


def _pattern(thing: Thing, x: np.ndarray, y: np.ndarray, slant: int) -> np.ndarray | None:
    """Share of the pattern's colour at each point, or None where the texture is plain."""
    if thing.texture == "plain":
        return None
    # Fine on small objects, coarse on big ones, never finer than a pixel grid can show.
    period = np.float32(max(0.19 * thing.width, 4.5) if thing.texture == "striped" else max(0.215 * thing.width, 5.0))
    if thing.texture == "striped":
        along = (x, y, np.float32(0.7071) * (x + y), np.float32(0.7071) * (x - y))[slant]
        return np.clip(np.sin(along * (2 * np.float32(np.pi) / period)) * (period / 3) + 0.5, 0, 1)
    u, v = x / period, y / period
    u, v = u - np.round(u), v - np.round(v)
    return np.clip((np.float32(0.3) - np.sqrt(u * u + v * v)) * period + 0.5, 0, 1)


def _shade(thing: Thing, x: np.ndarray, y: np.ndarray, d: np.ndarray, light: tuple[float, float]) -> np.ndarray:
    """Brightness at each point: lit from one side, a soft highlight, a darker rim."""
    scale = np.float32(2 / thing.width)
    u, v = x * scale, y * scale
    glow = u * np.float32(light[0]) + v * np.float32(light[1])
    if thing.shape == "circle":
        bright: np.ndarray = 1.02 + np.float32(0.17) * glow - np.float32(0.2) * np.square(np.minimum(u * u + v * v, 1))
    else:
        bright = 1.0 + np.float32(0.15) * glow
    rim = np.clip(1 + d * np.float32(0.45), 0, 1)
    return bright - np.float32(0.2) * rim


def _paint(
    canvas: np.ndarray,
    owner: np.ndarray,
    thing: Thing,
    number: int,
    light: tuple[float, float],
    style: tuple[int, float],
) -> np.ndarray:
    """Paint one object over the canvas and the owner map; return how many pixels of whom it took [-1 .. N-1] + itself.

    ``style`` is the slant of stripes and the strength of shadows.
    """
    side = owner.shape[0]
    soft = _SHADOW_SOFT * side
    pad = soft + 2
    x0, y0 = max(0, int(thing.box[0] - pad)), max(0, int(thing.box[1] - pad))
    x1, y1 = min(side, int(thing.box[2] + pad) + 1), min(side, int(thing.box[3] + pad) + 1)
    xs = np.arange(x0, x1, dtype=np.float32)[None, :] + np.float32(0.5 - thing.x)
    ys = np.arange(y0, y1, dtype=np.float32)[:, None] + np.float32(0.5 - thing.y)
    c, s = np.float32(np.cos(thing.tilt)), np.float32(np.sin(thing.tilt))
    x, y = c * xs + s * ys, c * ys - s * xs  # [h, w]
    d = _distance(thing.shape, x, y, thing.width)
    slant, strength = style
    if strength > 0:
        dx, dy = (max(1, round(share * side)) for share in _SHADOW_SHIFT)
        dx = dx if light[0] <= 0 else -dx
        left = max(0, -(x0 + dx))
        sx0, sx1, sy0, sy1 = x0 + dx + left, min(side, x1 + dx), y0 + dy, min(side, y1 + dy)
        part = d[: sy1 - sy0, left : left + sx1 - sx0]
        dark = np.clip(np.float32(0.5) - part * np.float32(0.5 / soft), 0, 1)
        canvas[:, sy0:sy1, sx0:sx1] *= 1 - np.float32(strength) * dark
    body, accent = (np.array(rgb, dtype=np.float32) for rgb in PAINT[thing.colour])
    pattern = _pattern(thing, x, y, slant)
    bright = _shade(thing, x, y, d, light)
    edge = np.clip(np.float32(0.5) - d, 0, 1)
    for channel, a, b in zip(canvas, body, accent, strict=True):
        window = channel[y0:y1, x0:x1]
        window += ((bright * a if pattern is None else (a + (b - a) * pattern) * bright) - window) * edge
    inside = d < 0
    below = owner[y0:y1, x0:x1]
    taken = np.bincount(below[inside] + 1)
    below[inside] = number
    return taken


def draw(name: str, seed: int, split: int, k: int, *, side: int, most: int) -> Scene:
    """Scene ``k``: lay out, paint from far to near, and try again where an object would be hidden too much.

    Args:
        name: The scene's name.
        seed: The set's seed.
        split: Number of the split, a value of ``_scene_layout.SPLITS``.
        k: Number of the scene.
        side: Image side in pixels.
        most: Largest number of objects.
    """
    rng = generator(seed, split, k)
    draws = Draws(rng)
    while True:
        things = propose(draws, seed, split, k, side, most)
        angle = rng.uniform(0.15 * np.pi, 0.85 * np.pi)
        light = (float(np.cos(angle)), -float(np.sin(angle)))
        strength = float(rng.uniform(0.22, 0.42)) if rng.random() < 0.75 else 0.0
        slants = rng.integers(0, 4, size=len(things))
        canvas = _backdrop(rng, side)
        owner = np.full((side, side), -1, dtype=np.int8)
        count = len(things)
        hidden = np.zeros((count, count), dtype=np.int64)
        whole = np.zeros(count, dtype=np.int64)
        for i in reversed(range(count)):
            taken = _paint(canvas, owner, things[i], i, light, (int(slants[i]), strength))
            whole[i] = taken.sum()
            hidden[: len(taken) - 1, i] = taken[1:]
        areas = np.bincount(owner.ravel() + 1, minlength=count + 1)[1:]
        if (areas >= MIN_VISIBLE * whole).all():
            break
    image = np.ascontiguousarray(np.clip(canvas, 0, 255).astype(np.uint8).transpose(1, 2, 0))  # [3, H, W] -> [H, W, 3]
    boxes = np.array([_bounds(owner == i) for i in range(count)], dtype=np.int64)
    return Scene(name, image, tuple(things), owner, boxes, areas, hidden)


def _bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Tight xyxy bounds of a mask that is not empty; right and lower edge exclusive."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
