"""Losses against the vectors of the method notes (18.5), closed forms and plain loops."""

import math
import sys
from pathlib import Path

import pytest
import torch

from ufo_tune.core.losses import cosine, depth_l1, dice, focal, silog, token_cross_entropy
from ufo_tune.core.retrieval import depth_from_logits
from ufo_tune.core.types import IGNORE

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "bench"))
from _measure import peak_of

LN2 = math.log(2)


@pytest.mark.parametrize(("foreground", "expected"), [(0.0, 0.75 * LN2 * 0.25), (1.0, 0.25 * 0.25 * LN2)])
def test_focal_of_zero_logits(foreground, expected):
    term = focal(torch.zeros(3, 5, 7), torch.full((3, 5, 7), foreground))
    assert float(term.total) == pytest.approx(3 * expected, rel=1e-5)
    assert float(term.count) == 3
    assert expected == pytest.approx(0.12997 if foreground == 0 else 0.04332, abs=1e-5)


@pytest.mark.parametrize("foreground", [0.0, 1.0])
def test_dice_of_zero_logits(foreground):
    pixels = 35
    term = dice(torch.zeros(2, 5, 7), torch.full((2, 5, 7), foreground))
    expected = 1 - (pixels * foreground + 1e-3) / (0.5 * pixels + pixels * foreground + 1e-3)
    assert float(term.total) == pytest.approx(2 * expected, rel=1e-5)
    assert float(term.count) == 2


def test_mask_losses_equal_plain_loops():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(3, 4, 6, generator=generator)
    targets = (torch.rand(3, 4, 6, generator=generator) > 0.6).float()
    focal_sum = dice_sum = 0.0
    for x_map, g_map in zip(logits.tolist(), targets.tolist(), strict=True):
        per_pixel, both, ours, theirs = [], 0.0, 0.0, 0.0
        for x_row, g_row in zip(x_map, g_map, strict=True):
            for x, g in zip(x_row, g_row, strict=True):
                p = 1 / (1 + math.exp(-x))
                p_t, alpha_t = (p, 0.3) if g else (1 - p, 0.7)
                per_pixel.append(-alpha_t * (1 - p_t) ** 1.5 * math.log(p_t))
                both, ours, theirs = both + p * g, ours + p, theirs + g
        focal_sum += sum(per_pixel) / len(per_pixel)
        dice_sum += 1 - (2 * both + 1e-3) / (ours + theirs + 1e-3)
    assert float(focal(logits, targets, alpha=0.3, gamma=1.5).total) == pytest.approx(focal_sum, rel=1e-5)
    assert float(dice(logits, targets).total) == pytest.approx(dice_sum, rel=1e-5)


def test_focal_without_focus_is_half_the_cross_entropy():
    x, g = torch.randn(2, 3, 3), torch.randint(0, 2, (2, 3, 3)).float()
    plain = torch.nn.functional.binary_cross_entropy_with_logits(x, g)
    assert torch.allclose(focal(x, g, alpha=0.5, gamma=0.0).total, plain)  # 0.5 * mean, summed over 2 masks


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 2.5])
def test_mask_losses_have_the_gradient_of_their_formulas(gamma):
    """Autograd of the definitions in float64, soft targets too; each mask has a weight of its own."""
    generator = torch.Generator().manual_seed(3)
    x = (4 * torch.randn(3, 5, 7, generator=generator)).requires_grad_()
    g = torch.rand(3, 5, 7, generator=generator).round(decimals=1)
    g[:2] = g[:2].round()
    wide, soft = x.detach().double().requires_grad_(), g.double()
    p = wide.sigmoid()
    p_t = p * soft + (1 - p) * (1 - soft)
    alpha_t = 0.3 * soft + 0.7 * (1 - soft)
    entropy = -(soft * p.log() + (1 - soft) * (1 - p).log())
    wanted = {
        "focal": (alpha_t * (1 - p_t) ** gamma * entropy).mean((1, 2)),
        "dice": 1 - (2 * (p * soft).sum((1, 2)) + 1e-3) / (p.sum((1, 2)) + soft.sum((1, 2)) + 1e-3),
    }
    for name, values in wanted.items():
        (slope,) = torch.autograd.grad((values * torch.tensor([1.0, -2.0, 0.5])).sum(), wide, retain_graph=True)
        found = torch.zeros_like(x)
        for row, weight in enumerate((1.0, -2.0, 0.5)):
            one, target = x[row : row + 1], g[row : row + 1]
            term = focal(one, target, alpha=0.3, gamma=gamma) if name == "focal" else dice(one, target)
            assert float(term.total.detach()) == pytest.approx(float(values[row]), rel=1e-5)
            found += torch.autograd.grad(weight * term.total, x)[0]
        assert torch.allclose(found.double(), slope, rtol=1e-4, atol=1e-7), name


@pytest.mark.parametrize(("loss", "maps"), [(focal, 6), (dice, 2)])
def test_mask_losses_hold_few_maps(loss, maps):
    """Forward and back, beyond logits and targets; a map is 4 bytes a pixel."""
    x, g = torch.randn(3, 200, 200, requires_grad=True), torch.rand(3, 200, 200).round()
    found = peak_of(lambda: torch.autograd.grad(loss(x, g).total, x))
    assert found == pytest.approx(maps * 4 * x.numel(), rel=0.01)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])  # below 1 the slope has a power below 0
def test_perfect_masks_cost_nothing_and_stay_finite(gamma):
    targets = torch.zeros(1, 4, 4)
    targets[0, 1:3, 1:3] = 1
    logits = (targets * 2 - 1) * 200
    logits.requires_grad_(True)
    total = focal(logits, targets, gamma=gamma).total + dice(logits, targets).total
    assert float(total.detach()) == pytest.approx(0, abs=1e-6)
    total.backward()
    assert torch.isfinite(logits.grad).all()


FAR = torch.tensor([[[2.0, 8.0], [4.0, 1.0]]])  # [1, 2, 2] metres
KNOWN = torch.tensor([[[True, True], [False, True]]])


@pytest.mark.parametrize(("lam", "expected"), [(0.0, LN2**2), (0.5, 0.5 * LN2**2), (1.0, 0.0)])
def test_silog_forgives_a_common_factor_in_part(lam, expected):
    """Twice as far everywhere: d = log 2, so the loss is (1 - lam) log(2)^2."""
    term = silog(2 * FAR, FAR, KNOWN, lam)
    assert float(term.total) == pytest.approx(expected, abs=1e-6) and float(term.count) == 1


def test_depth_losses_by_hand():
    """Ratios 1/2, 2, (unknown), 1: d = -log 2, log 2, 0, so the mean is 0 and that of squares 2/3 log(2)^2."""
    depth = torch.tensor([[[1.0, 16.0], [9.0, 1.0]]])
    assert float(silog(depth, FAR, KNOWN).total) == pytest.approx(2 / 3 * LN2**2, rel=1e-5)
    assert float(depth_l1(depth, FAR, KNOWN).total) == pytest.approx((1 + 8 + 0) / 3, rel=1e-6)


def test_a_map_with_one_known_pixel_is_that_pixel():
    known = torch.tensor([[[False, True], [False, False]]])
    assert float(silog(2 * FAR, FAR, known, 0.0).total) == pytest.approx(LN2**2)
    assert float(depth_l1(2 * FAR, FAR, known).total) == 8.0
    up = torch.tensor([0.0, 0.0, 1.0]).reshape(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert float(cosine(-up, up, known).total) == 2.0


@pytest.mark.parametrize("loss", [silog, depth_l1, cosine])
def test_maps_add_up_each_with_the_mean_of_its_own_pixels(loss):
    generator = torch.Generator().manual_seed(3)
    shape = (3, 3, 4, 5) if loss is cosine else (3, 4, 5)
    found, truth = (torch.rand(shape, generator=generator) + 0.5 for _ in range(2))
    known = torch.rand(3, 4, 5, generator=generator) > torch.tensor([0.1, 0.5, 0.9])[:, None, None]
    parts = [loss(found[i : i + 1], truth[i : i + 1], known[i : i + 1]).total for i in range(3)]
    term = loss(found, truth, known)
    assert torch.allclose(term.total, torch.stack(parts).sum()) and float(term.count) == 3


def test_silog_is_eigens_pairwise_form():
    """Eigen et al. 2014, eq. 3: with lam 1 the mean over all pairs of (d_i - d_j)^2 / 2."""
    generator = torch.Generator().manual_seed(0)
    depth, truth = (torch.rand(1, 3, 4, generator=generator) + 0.5 for _ in range(2))
    d = [math.log(a / b) for a, b in zip(depth.flatten().tolist(), truth.flatten().tolist(), strict=True)]
    pairs = sum((a - b) ** 2 for a in d for b in d) / (2 * len(d) ** 2)
    assert float(silog(depth, truth, depth > 0, 1.0).total) == pytest.approx(pairs, rel=1e-4)


def test_cosine_of_angles_by_hand():
    """Angles of 0, 60, 90 and 180 degrees cost 0, 1/2, 1 and 2, whatever the vectors' lengths."""
    truth = torch.tensor([0.0, 0.0, -2.0]).reshape(1, 3, 1, 1).expand(1, 3, 1, 4)
    found = torch.tensor([[0, 0, -0.3], [math.sqrt(3), 0, -1], [0, 0.1, 0], [0, 0, 5]]).T.reshape(1, 3, 1, 4)
    known = torch.ones(1, 1, 4, dtype=torch.bool)
    assert float(cosine(found, truth, known).total) == pytest.approx((0 + 0.5 + 1 + 2) / 4, abs=1e-6)
    known[..., 3] = False
    assert float(cosine(found, truth, known).total) == pytest.approx((0 + 0.5 + 1) / 3, abs=1e-6)


@pytest.mark.parametrize("loss", [silog, depth_l1, cosine])
def test_maps_without_a_known_pixel_cost_nothing(loss):
    shape = (2, 3, 4, 5) if loss is cosine else (2, 4, 5)
    found, truth = torch.full(shape, 0.5, requires_grad=True), torch.zeros(shape)
    known = torch.zeros(2, 4, 5, dtype=torch.bool)
    term = loss(found, truth, known)
    term.total.backward()
    assert float(term.total.detach()) == 0 and float(term.count) == 2
    assert not found.grad.any() and torch.isfinite(found.grad).all()


@pytest.mark.parametrize("loss", [silog, depth_l1, cosine])
def test_only_known_pixels_have_a_gradient(loss):
    generator = torch.Generator().manual_seed(2)
    shape = (2, 3, 4, 5) if loss is cosine else (2, 4, 5)
    found, truth = (torch.rand(shape, generator=generator) + 0.5 for _ in range(2))
    known = torch.rand(2, 4, 5, generator=generator) > 0.5
    found.requires_grad_(True)
    loss(found, torch.where(known[:, None] if loss is cosine else known, truth, 0.0), known).total.backward()
    reached = found.grad.abs().sum(1) > 0 if loss is cosine else found.grad.abs() > 0
    assert torch.equal(reached, known) and torch.isfinite(found.grad).all()


def test_descent_on_depth_losses_finds_the_truth_where_it_is_known():
    """From the middle of the range, through the sigmoid, as in training; two of twelve pixels say nothing."""
    truth = torch.linspace(0.8, 9.0, 12).reshape(1, 3, 4)
    known = torch.ones(1, 3, 4, dtype=torch.bool)
    known[0, 0, :2] = False
    logits = torch.zeros(1, 3, 4, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 400)
        depth = depth_from_logits(logits, (0.001, 10.0))
        optimizer.zero_grad()
        (silog(depth, truth, known).total + depth_l1(depth, truth, known).total).backward()
        optimizer.step()
    found = depth_from_logits(logits.detach(), (0.001, 10.0))
    assert torch.allclose(found[known], truth[known], rtol=0.01) and not logits[~known].any()


def test_a_normal_of_no_length_has_a_finite_gradient():
    found = torch.zeros(1, 3, 1, 1, requires_grad=True)
    term = cosine(found, torch.tensor([0.0, 0.0, -1.0]).reshape(1, 3, 1, 1), torch.ones(1, 1, 1, dtype=torch.bool))
    term.total.backward()
    assert torch.isfinite(found.grad).all() and float(found.grad[0, 2]) > 0


@pytest.mark.parametrize("loss", [focal, dice])
def test_no_masks_is_zero_of_zero_with_a_graph(loss):
    logits = torch.zeros(0, 8, 8, requires_grad=True)
    term = loss(logits, torch.zeros(0, 8, 8))
    assert float(term.total.detach()) == 0
    assert float(term.count) == 0
    term.total.backward()


@pytest.mark.parametrize("loss", [focal, dice])
def test_terms_add_up_over_halves_and_low_precision_is_lifted(loss):
    generator = torch.Generator().manual_seed(1)
    logits, targets = torch.randn(4, 6, 6, generator=generator), torch.rand(4, 6, 6, generator=generator).round()
    halves = loss(logits[:2], targets[:2]).total + loss(logits[2:], targets[2:]).total
    assert torch.allclose(loss(logits, targets).total, halves)
    assert loss(logits.bfloat16(), targets).total.dtype == torch.float32


def test_token_cross_entropy_by_hand():
    logits = torch.tensor([[0.0, 0.0, 0.0], [math.log(2), 0.0, 0.0], [5.0, 5.0, 5.0]])
    term = token_cross_entropy(logits, torch.tensor([1, 0, IGNORE]))
    assert float(term.total) == pytest.approx(math.log(3) + math.log(2), rel=1e-6)  # p = 1/3 and 2/4
    assert float(term.count) == 2
    weighted = token_cross_entropy(logits, torch.tensor([1, 0, IGNORE]), torch.tensor([0.5, 2.0, 9.0]))
    assert float(weighted.total) == pytest.approx(0.5 * math.log(3) + 2 * math.log(2), rel=1e-6)
    assert float(weighted.count) == 2.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_token_cross_entropy_has_the_gradient_of_torch(dtype):
    """Extreme logits, ignored rows and weights; bfloat16 logits are summed in float32 as torch sums ``.float()``."""
    g = torch.Generator().manual_seed(0)
    logits = (20 * torch.randn(7, 11, generator=g)).to(dtype).requires_grad_()
    labels, weights = torch.randint(11, (7,), generator=g), torch.rand(7, generator=g)
    labels[2] = IGNORE
    term = token_cross_entropy(logits, labels, weights)
    (found,) = torch.autograd.grad(3 * term.total, logits)
    each = torch.nn.functional.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="none")
    wanted = (each * weights).sum()
    (expected,) = torch.autograd.grad(3 * wanted, logits)
    torch.testing.assert_close(term.total, wanted)
    torch.testing.assert_close(found, expected)
    assert found.dtype == dtype and not found[2].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_spent_logits_become_their_gradient(dtype):
    g = torch.Generator().manual_seed(1)
    states, head = torch.randn(300, 4, generator=g).to(dtype), torch.randn(30_000, 4, generator=g).to(dtype)
    labels = torch.randint(30_000, (300,), generator=g)  # 9 M logits: three pieces
    states.requires_grad_()
    found = []
    for spend in (False, True):
        logits = states @ head.T
        term = token_cross_entropy(logits, labels, spend=spend)
        before = logits.detach().clone()
        found.append(torch.autograd.grad(term.total, states, retain_graph=True)[0])
        assert torch.equal(before, logits) != spend
    assert torch.equal(*found)
    assert logits.detach().float().sum(1).abs().max() < 0.1  # softmax less one, its sum is 0
    with pytest.raises(RuntimeError, match="spent"):
        term.total.backward()


def test_token_cross_entropy_takes_any_leading_shape():
    logits = torch.randn(2, 3, 5)
    labels = torch.tensor([[1, IGNORE, 4], [0, 2, IGNORE]])
    supervised = labels != IGNORE
    expected = -logits.log_softmax(-1)[supervised].gather(1, labels[supervised][:, None]).sum()
    term = token_cross_entropy(logits, labels)
    assert torch.allclose(term.total, expected)
    assert float(term.count) == 4


@pytest.mark.parametrize("count", [0, 3])
def test_token_cross_entropy_without_supervised_tokens(count):
    logits = torch.randn(count, 7, requires_grad=True)
    term = token_cross_entropy(logits, torch.full((count,), IGNORE))
    assert float(term.total.detach()) == float(term.count) == 0
    term.total.backward()
    assert not logits.grad.any()
