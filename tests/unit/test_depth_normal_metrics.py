"""Depth and normal errors against hand-worked cases, published formulas and rotations by known angles."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation
from sklearn import metrics as sk

from ufo_tune.core import masks
from ufo_tune.core.types import Prediction, Sample, Targets
from ufo_tune.errors import ConfigError, EvalError
from ufo_tune.metrics import depth_error, normal_error

REAL = Path(os.environ.get("UFO_TUNE_REAL_DATA") or "nowhere")
real = pytest.mark.skipif(not REAL.is_dir(), reason="UFO_TUNE_REAL_DATA names no folder of real samples")
SHARES = ("delta1", "delta2", "delta3")


def _sample(number: int = 0, **truth) -> Sample:
    size = next(array.shape[:2] for name, array in truth.items() if name in {"depth", "normals"})
    return Sample(None, size, "any", targets=Targets(**truth), source=f"made/test#{number:03d}")


def _metres(*values: float) -> np.ndarray:
    return np.array([values], dtype=np.float32)


def _depth(pairs: list[tuple[np.ndarray, np.ndarray | None]], **options) -> dict[str, float]:
    metric = depth_error.Metric(**options)
    for number, (true, said) in enumerate(pairs):
        metric.update(_sample(number, depth=true), Prediction(depth=said, invalid=int(said is None)))
    return metric.compute()


def _published(true: np.ndarray, said: np.ndarray) -> dict[str, float]:
    """The formulas of Eigen et al. and BTS on plain pixels [N]."""
    true, said = true.astype(np.float64), said.astype(np.float64)
    worse, log = np.maximum(true / said, said / true), np.log(said) - np.log(true)
    return {
        "AbsRel": np.mean(np.abs(true - said) / true),
        "SqRel": np.mean((true - said) ** 2 / true),
        "RMSE": np.sqrt(np.mean((true - said) ** 2)),
        "log10": np.mean(np.abs(np.log10(said) - np.log10(true))),
        "RMSElog": np.sqrt(np.mean(log**2)),
        "SILog": 100 * np.std(log),
        **{f"delta{k}": np.mean(worse < 1.25**k) for k in (1, 2, 3)},
    }


# ---- depth_error ----


def test_depth_by_hand():
    """1 -> 2, 4 -> 4, 8 -> 6: ratios 2, 1, 4/3; the unknown pixel is not scored."""
    values = _depth([(_metres(1, 4, 8, 0), _metres(2, 4, 6, 9))])
    assert values["AbsRel"] == pytest.approx((1 + 0 + 0.25) / 3)
    assert values["SqRel"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert values["RMSE"] == pytest.approx(math.sqrt((1 + 0 + 4) / 3))
    assert values["log10"] == pytest.approx((math.log10(2) + math.log10(4 / 3)) / 3)
    assert values["RMSElog"] == pytest.approx(math.sqrt((math.log(2) ** 2 + math.log(4 / 3) ** 2) / 3))
    assert [values[k] for k in SHARES] == pytest.approx([1 / 3, 2 / 3, 2 / 3])
    assert (values["n_pixels"], values["n"], values["invalid"]) == (3, 1, 0)


def test_depth_thresholds_are_strict():
    """Ratios of exactly 1.25 and 1.25^2 are outside."""
    values = _depth([(_metres(4, 4), _metres(5, 6.25))])
    assert [values[k] for k in SHARES] == [0.0, 0.5, 1.0]


def test_depth_silog_forgives_a_wrong_scale():
    true = np.linspace(1, 4, 60, dtype=np.float32).reshape(6, 10)
    values = _depth([(true, true * 2)])
    assert values["SILog"] == pytest.approx(0, abs=1e-3)
    assert values["RMSElog"] == pytest.approx(math.log(2), abs=1e-6)
    assert (values["AbsRel"], values["delta3"]) == (pytest.approx(1.0), 0.0)


def test_depth_range_cuts_truth_and_clamps_predictions():
    """Truth at or beyond an end is not scored; predictions beyond come to the end, also without end."""
    true, said = _metres(1, 2, 10, 12, 4, 8), _metres(1, 2, 3, 3, -5, np.inf)
    values = _depth([(true, said)], min_depth=1, max_depth=10)
    assert values["n_pixels"] == 3  # 2, 4 and 8
    assert values["AbsRel"] == pytest.approx((0 + 3 / 4 + 2 / 8) / 3)


def test_depth_is_the_mean_of_images_or_of_pixels():
    """Off by 1 in the one pixel of 2 m, right in three of 4 m; the third image has nothing to score."""
    pairs = [(_metres(2, 0, 0), _metres(3, 1, 1)), (_metres(4, 4, 4), _metres(4, 4, 4)), (_metres(0), _metres(1))]
    each, pooled = _depth(pairs), _depth(pairs, pooled=True)
    assert (each["AbsRel"], pooled["AbsRel"]) == (0.25, 0.125)
    assert (each["RMSE"], pooled["RMSE"]) == (0.5, 0.5)  # mean of 1 and 0; root of 1 / 4
    assert (each["delta1"], pooled["delta1"]) == (0.5, 0.75)
    assert each["n_pixels"] == pooled["n_pixels"] == 4
    assert each["n"] == 3


def test_depth_agrees_with_published_formulas_and_scikit_learn():
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(6):
        true = rng.uniform(0.5, 9.5, (12, 16)).astype(np.float32)
        true[rng.random(true.shape) < 0.2] = 0
        pairs.append((true, (rng.uniform(0.6, 1.6, true.shape) * true.clip(0.1)).clip(0.01, 9.9).astype(np.float32)))
    known = [(true[true > 0], said[true > 0]) for true, said in pairs]
    each = [_published(*pair) for pair in known]
    values = _depth(pairs)
    for name in each[0]:
        assert values[name] == pytest.approx(np.mean([e[name] for e in each]), abs=1e-9), name
    true, said = (np.concatenate([pair[k] for pair in known]).astype(np.float64) for k in (0, 1))
    pooled, whole = _depth(pairs, pooled=True), _published(true, said)
    for name, value in whole.items():
        assert pooled[name] == pytest.approx(value, abs=1e-9), name
    assert pooled["AbsRel"] == pytest.approx(sk.mean_absolute_percentage_error(true, said), abs=1e-12)
    assert pooled["RMSE"] == pytest.approx(sk.root_mean_squared_error(true, said), abs=1e-12)


def test_depth_no_answer_by_hand():
    """In the range 1 to 9 the worst for 2 m is 9 in metres and by ratio; for 8 m it is 1 in both."""
    values = _depth([(_metres(2, 8), None)], min_depth=1, max_depth=9)
    assert values["AbsRel"] == pytest.approx((7 / 2 + 7 / 8) / 2)
    assert values["SqRel"] == pytest.approx((49 / 2 + 49 / 8) / 2)
    assert values["RMSE"] == pytest.approx(7)
    assert values["log10"] == pytest.approx((math.log10(9 / 2) + math.log10(8)) / 2)
    assert values["RMSElog"] == pytest.approx(math.sqrt((math.log(9 / 2) ** 2 + math.log(8) ** 2) / 2))
    assert values["SILog"] == pytest.approx(100 * values["RMSElog"])
    assert [values[k] for k in SHARES] == [0.0, 0.0, 0.0]
    assert values["invalid"] == 1
    unusable = _depth([(_metres(2, 8), _metres(2, np.nan))], min_depth=1, max_depth=9)
    assert {**unusable, "invalid": 1} == values


def test_depth_silence_never_pays():
    """No answer, however mad, is worse than none on any measure."""
    rng = np.random.default_rng(2)
    for _ in range(50):
        true = rng.uniform(0.01, 9.9, (1, 40)).astype(np.float32)
        silent = _depth([(true, None)])
        ends = rng.choice([0.0, 100.0], true.shape).astype(np.float32)
        farthest = np.where(true < 5, 100.0, 0.0).astype(np.float32)
        sure = rng.choice([1e-3, 10.0, 5.0]) * np.ones_like(true)
        for said in (ends, farthest, sure, rng.lognormal(0, 3, true.shape).astype(np.float32), -true):
            answered = _depth([(true, said)])
            for name in ("AbsRel", "SqRel", "RMSE", "log10", "RMSElog", "SILog"):
                assert answered[name] <= silent[name] * (1 + 1e-12), name
            assert all(answered[name] >= silent[name] for name in SHARES)


@pytest.mark.parametrize(
    ("crop", "size", "window"),
    [
        ("eigen_nyu", (480, 640), (45, 471, 41, 601)),
        ("eigen_nyu", (240, 320), (22, 235, 20, 300)),
        ("eigen_kitti", (375, 1242), (124, 342, 44, 1197)),  # floors of 124.66, 342.57, 44.65, 1197.35
        ("garg", (375, 1242), (153, 371, 44, 1197)),  # floors of 153.04, 371.96, 44.65, 1197.35
        ("garg", (370, 1226), (151, 366, 44, 1181)),  # 366.9999993 is 366 in the published code
        ("none", (375, 1242), (0, 375, 0, 1242)),
    ],
)
def test_depth_crops(crop, size, window):
    """Wrong by 1 m inside the published window, by more outside: exactly the pixels inside are scored."""
    top, bottom, left, right = window
    true, said = np.full(size, 2, np.float32), np.full(size, 9, np.float32)
    said[top:bottom, left:right] = 3
    values = _depth([(true, said)], crop=crop)
    assert values["AbsRel"] == 0.5
    assert values["n_pixels"] == (bottom - top) * (right - left)


def test_depth_leaves_out_the_ignored_region():
    ignored = masks.encode(np.array([[False, True]]))
    metric = depth_error.Metric()
    metric.update(_sample(depth=_metres(1, 1), ignore=ignored), Prediction(depth=_metres(1, 9)))
    assert (metric.compute()["AbsRel"], metric.compute()["n_pixels"]) == (0.0, 1)


def test_depth_refuses_what_it_cannot_score():
    with pytest.raises(ConfigError, match=r"depth_error: is no range \(got 0 to 10.0\)"):
        depth_error.Metric(min_depth=0)
    with pytest.raises(ConfigError, match="is no range"):
        depth_error.Metric(max_depth=math.inf)
    with pytest.raises(ConfigError, match=r"depth_error.crop: no such crop \(got 'eigen'\); known: none, eigen_nyu"):
        depth_error.Metric(crop="eigen")
    with pytest.raises(EvalError, match="made/test#000: the prediction has no depth map"):
        depth_error.Metric().update(_sample(depth=_metres(1)), Prediction())
    with pytest.raises(EvalError, match="the truth has no depth map"):
        depth_error.Metric().update(_sample(normals=np.ones((1, 1, 3))), Prediction(depth=_metres(1)))
    with pytest.raises(EvalError, match=r"predicted depth map is \(1, 2\) but the image is \(1, 1\)"):
        depth_error.Metric().update(_sample(depth=_metres(1)), Prediction(depth=_metres(1, 2)))


@real
def test_depth_of_real_frames():
    """Redwood's frames (millimetres, gaps where the sensor saw nothing) against their own blur."""
    from PIL import Image

    pairs = []
    for file in sorted((REAL / "open3d_rgbd" / "depth").glob("*.png")):
        true = np.asarray(Image.open(file)).astype(np.float32) / 1000
        pairs.append((true, ndimage.gaussian_filter(true, 5)))
    assert len(pairs) == 5 and any((true == 0).any() for true, _ in pairs)
    inside = [(true > 1e-3) & (true < 10) for true, _ in pairs]
    each = [_published(t[m], s[m].clip(1e-3, 10)) for (t, s), m in zip(pairs, inside, strict=True)]
    values = _depth(pairs)
    for name in each[0]:
        assert values[name] == pytest.approx(np.mean([e[name] for e in each]), rel=1e-6), name
    assert values["n_pixels"] == sum(int(m.sum()) for m in inside)


# ---- normal_error ----


def _turned(angles: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Random directions [H, W, 3], and the same turned by so many degrees [H, W] about axes at right angles to them."""
    vectors = rng.normal(size=(angles.size, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    axes = np.cross(vectors, rng.normal(size=vectors.shape))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    turned = Rotation.from_rotvec(axes * np.radians(angles.reshape(-1, 1))).apply(vectors)
    return vectors.reshape(*angles.shape, 3), turned.reshape(*angles.shape, 3)


def _normals(pairs: list[tuple[np.ndarray, np.ndarray | None]]) -> dict[str, float]:
    metric = normal_error.Metric()
    for number, (true, said) in enumerate(pairs):
        metric.update(_sample(number, normals=true), Prediction(normals=said, invalid=int(said is None)))
    return metric.compute()


def test_normals_by_hand():
    """Ahead; 45 and 90 degrees off; behind. Lengths do not matter, the unknown pixel is not scored."""
    true = np.array([[(0, 0, 1), (0, 0, 1), (0, 0, 2), (1, 0, 0), (0, 0, 0)]], np.float32)
    said = np.array([[(0, 0, 1), (1, 0, 1), (0, 5, 0), (-1, 0, 0), (1, 0, 0)]], np.float32)
    values = _normals([(true, said)])
    assert values["mean"] == pytest.approx((0 + 45 + 90 + 180) / 4)
    assert values["median"] == pytest.approx((45 + 90) / 2)
    assert [values[f"within_{k}"] for k in ("11.25", "22.5", "30")] == [0.25, 0.25, 0.25]
    assert values["n_pixels"] == 4


def test_normals_of_known_rotations():
    """All pixels are pooled: images of other sizes weigh by their pixels."""
    rng = np.random.default_rng(3)
    angles = [rng.gamma(1.2, 14, (height, 20)).clip(0, 179) for height in (3, 9, 17)]
    values = _normals([_turned(a, rng) for a in angles])
    pooled = np.concatenate([a.ravel() for a in angles])
    assert values["mean"] == pytest.approx(pooled.mean(), abs=1e-6)
    assert values["median"] == pytest.approx(np.median(pooled), abs=0.025 + 1e-6)
    for limit in (11.25, 22.5, 30):
        assert values[f"within_{limit}"] == pytest.approx((pooled < limit).mean(), abs=1e-12)


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_normals_median_of_even_and_odd_counts(count):
    """Whole degrees lie on the histogram's steps, so that the median is exact."""
    angles = np.array([[70.0, 3, 21, 8, 150, 22][:count]])
    value = _normals([_turned(angles, np.random.default_rng(4))])["median"]
    assert value == pytest.approx(np.median(angles), abs=1e-9)


def test_no_samples_are_numbers():
    assert set(normal_error.Metric().compute().values()) == {0}
    assert set(depth_error.Metric(pooled=True).compute().values()) == {0}


def test_normals_small_angles_survive_rounding():
    """The arc cosine would give 0.0198 or 0.028 degrees for 0.02 in single precision."""
    true, said = _turned(np.full((4, 4), 0.02), np.random.default_rng(5))
    assert _normals([(true.astype(np.float64), said.astype(np.float64))])["mean"] == pytest.approx(0.02, abs=1e-9)
    assert _normals([(true.astype(np.float32), true.astype(np.float32))])["mean"] == 0.0


def test_normals_without_direction_point_the_opposite_way():
    true = np.zeros((2, 2, 3), np.float32)
    true[..., 2] = -1
    said = true.copy()
    said[0, 0], said[0, 1, 0], said[1, 0, 2] = 0, np.nan, np.inf
    values = _normals([(true, said)])
    assert values["mean"] == 135.0  # three of four
    assert values["within_30"] == 0.25
    assert _normals([(true, None)])["mean"] == _normals([(true, None)])["median"] == 180.0


def test_normals_leave_out_the_ignored_region_and_may_have_nothing_to_score():
    true = np.ones((1, 2, 3), np.float32)
    metric = normal_error.Metric()
    metric.update(_sample(normals=true, ignore=masks.encode(np.array([[True, False]]))), Prediction(normals=true))
    assert metric.compute()["n_pixels"] == 1
    nothing = _normals([(true * 0, true)])
    assert (nothing["n_pixels"], nothing["mean"], nothing["n"]) == (0, 0.0, 1)


def test_normals_refuse_what_cannot_be_scored():
    with pytest.raises(EvalError, match="made/test#000: the prediction has no map of normals"):
        normal_error.Metric().update(_sample(normals=np.ones((1, 1, 3))), Prediction())
    with pytest.raises(EvalError, match="the truth has no map of normals"):
        normal_error.Metric().update(_sample(depth=_metres(1)), Prediction(normals=np.ones((1, 1, 3))))
