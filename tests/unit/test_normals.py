"""Normals of planes and spheres that a pinhole camera sees: rays and intersections by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ufo_tune.core.normals import from_depth
from ufo_tune.errors import DataError

SIZE = (60, 80)
CAMERA = (90.0, 80.0, 41.5, 27.0)


def rays() -> np.ndarray:
    """[H, W, 3]: what each pixel sees at a depth of one metre."""
    fx, fy, cx, cy = CAMERA
    return np.array([[((u - cx) / fx, (v - cy) / fy, 1.0) for u in range(SIZE[1])] for v in range(SIZE[0])])


def plane(normal: np.ndarray, distance: float) -> np.ndarray:
    """[H, W] depth at which rays meet the plane ``normal . P = -distance``."""
    depth: np.ndarray = -distance / (rays() @ normal)
    assert (depth > 0).all()
    return depth.astype(np.float32)


@pytest.mark.parametrize("radius", [1, 2, 4])
@pytest.mark.parametrize("normal", [(0, 0, -1), (0.6, 0, -0.8), (0, -0.8, -0.6), (0, 0.8, -0.6), (-0.48, 0.6, -0.64)])
def test_planes_are_exact(normal: tuple[float, float, float], radius: int) -> None:
    found = from_depth(plane(np.array(normal), 2.5), CAMERA, radius=radius, edge=9.0)
    assert found.dtype == np.float32 and found.shape == (*SIZE, 3)
    inner = found[radius:-radius, radius:-radius]
    np.testing.assert_allclose(inner, np.broadcast_to(normal, inner.shape), atol=2e-5)
    assert not found[:radius].any() and not found[-radius:].any() and not found[:, :radius].any()


def test_a_sphere_faces_away_from_its_centre() -> None:
    """The near intersection of |t ray - c| = r; normals are (P - c) / r, a pixel's angle wide at most beside them."""
    centre, radius = np.array([0.1, -0.2, 3.0]), 0.9
    seen = rays()
    a, b, c = (seen**2).sum(-1), seen @ centre, (centre**2).sum() - radius**2
    root = b**2 - a * c
    depth = np.where(root > 0, (b - np.sqrt(np.maximum(root, 0))) / a, 0)
    found = from_depth(depth.astype(np.float32), CAMERA, radius=1)
    known = found.any(-1)
    assert known.sum() > 0.6 * (root > 0).sum() and not known[root <= 0].any()
    expected = (seen * depth[..., None] - centre) / radius
    angles = np.degrees(np.arccos(np.clip((found * expected).sum(-1)[known], -1, 1)))
    assert angles.mean() < 0.5 and angles.max() < 2
    np.testing.assert_allclose(np.linalg.norm(found[known], axis=-1), 1, atol=1e-5)


def test_unknown_beside_unknown_pixels_and_edges() -> None:
    depth = np.full(SIZE, 2.0, dtype=np.float32)
    depth[:, 40:] = 2.2  # a step of a tenth between columns 39 and 40
    depth[20, 10] = 0
    known = from_depth(depth, CAMERA, radius=2).any(-1)
    expected = np.zeros(SIZE, dtype=bool)
    expected[2:-2, 2:-2] = True
    expected[:, 38:42] = False  # windows of five columns that hold both
    expected[18:23, 8:13] = False
    np.testing.assert_array_equal(known, expected)
    assert from_depth(depth, CAMERA, radius=2, edge=0.2).any(-1)[10, 39]
    assert not from_depth(np.zeros(SIZE, np.float32), CAMERA).any()


def test_a_camera_has_a_focal_length() -> None:
    with pytest.raises(DataError, match="focal lengths must be positive"):
        from_depth(np.ones(SIZE, np.float32), (0.0, 80.0, 40.0, 30.0))
