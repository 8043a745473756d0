"""What every objective must keep; a new file in objectives/ is tested on arrival."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests import tiny
from tests.tiny import CODEC
from ufo_tune import plugins
from ufo_tune.core import answers, losses
from ufo_tune.core.retrieval import mask_logits
from ufo_tune.core.sequence import predicting
from ufo_tune.core.types import Answer, Dialogue, Slot, SlotKind, Targets, Turn
from ufo_tune.engine.trainable import Trainable, check_objectives
from ufo_tune.errors import ConfigError
from ufo_tune.objectives import next_token

OBJECTIVES = plugins.names("objectives")
CAPTION = Dialogue((Turn("what is the red circle", (Answer("a square"),)),))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.model("llava", tmp_path_factory.mktemp("model"))


@pytest.fixture
def trainable(model, request) -> Iterator[Trainable]:
    model.zero_grad()
    yield Trainable(model, {request.param: {}})


def batch(model, dialogues):
    """Pictures of one size, so that rows can be parted without padding changing anything."""
    made = tiny.batch(model, dialogues, [tiny.image(i) for i in range(len(dialogues))])
    return replace(made, samples=tuple(tuple(s.with_(targets=TRUTH) for s in row) for row in made.samples))


TRUTH = Targets(torch.tensor([[8.0, 5.0, 40.0, 30.0]]), labels=torch.tensor([0]))
MASK = Slot("mask", np.ones((40, 56), dtype=bool))
SEGMENT = Turn("segment the red circle", (Answer(answers.slots(CODEC), (MASK,), phrase="the red circle"),))
REFERRING = Dialogue((SEGMENT,))
MAPS = tiny.map_dialogue()
EVERYTHING = (tiny.grid_dialogue(3), CAPTION, MAPS, tiny.grid_dialogue(2), MAPS, REFERRING)
"""Boxes, masks and background; a caption; depth and normals; a phrase and its mask. Two rows of each kind of map."""


def everything(model):
    return batch(model, EVERYTHING)


def one_row(model, number):
    made = tiny.batch(model, [EVERYTHING[number]], [tiny.image(number)])
    return replace(made, samples=((made.samples[0][0].with_(targets=TRUTH),),))


def nothing(model):
    """One row that supervises no token and no map."""
    unsaid = replace(tiny.grid_dialogue(1).turns[0], answers=(Answer(None, point=(0.2, 0.3)),) * 2)
    return tiny.batch(model, [Dialogue((unsaid,))], train=False)


@pytest.mark.parametrize("trainable", OBJECTIVES, indirect=True)
def test_terms_are_finite_sums_and_a_gradient_arrives(model, trainable):
    terms = trainable(everything(model))
    (name,) = trainable.objectives
    assert set(terms) == set(plugins.find("objectives", name).TERMS)
    for term in terms.values():
        assert term.total.shape == term.count.shape == ()
        assert torch.isfinite(term.total) and float(term.total) > 0
        assert float(term.count) > 0 and not term.count.requires_grad
    sum(t.total for t in terms.values()).backward()
    gradients = {n: p.grad for n, p in model.vlm.hf.named_parameters() if p.grad is not None}
    assert all(torch.isfinite(g).all() for g in gradients.values())
    reached = {model.vlm.part_of(n) for n, g in gradients.items() if g.abs().sum() > 0}
    assert {"vision", "projector", "language", "tokens"} <= reached


@pytest.mark.parametrize("trainable", OBJECTIVES, indirect=True)
def test_counts_are_known_before_the_pass(model, trainable):
    for b in (everything(model), *(one_row(model, i) for i in range(len(EVERYTHING))), nothing(model)):
        counts, terms = trainable.counts(b), trainable(b)
        assert counts.keys() == terms.keys()
        for name, count in counts.items():
            assert float(count) == float(terms[name].count), name


@pytest.mark.parametrize("trainable", OBJECTIVES, indirect=True)
def test_nothing_to_learn_counts_zero_and_stays_in_the_graph(model, trainable):
    """Ranks reduce gradients together: one that has nothing must call backward through the same parameters."""
    terms = trainable(nothing(model))
    for term in terms.values():
        assert float(term.total) == 0 and float(term.count) == 0
        assert term.total.requires_grad
    sum(t.total for t in terms.values()).backward()
    reached = {model.vlm.part_of(n) for n, p in model.vlm.hf.named_parameters() if p.grad is not None}
    assert {"vision", "projector", "language"} <= reached
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("trainable", OBJECTIVES, indirect=True)
def test_rows_add_up_to_the_whole(model, trainable):
    """Sums and counts, never means: how rows are dealt to ranks and micro-batches changes nothing."""
    with torch.no_grad():
        whole, parts = trainable(everything(model)), [trainable(one_row(model, i)) for i in range(len(EVERYTHING))]
    for name, term in whole.items():
        assert float(term.count) == sum(float(p[name].count) for p in parts)
        torch.testing.assert_close(term.total, sum(p[name].total for p in parts), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "option", "term"),
    [
        ("next_token", "weight", "token"),
        ("mask_retrieval", "dice_weight", "dice"),
        ("mask_retrieval", "focal_weight", "focal"),
        ("depth_retrieval", "silog_weight", "silog"),
        ("depth_retrieval", "l1_weight", "depth_l1"),
        ("normal_retrieval", "weight", "normal"),
    ],
)
def test_a_weight_scales_the_total_of_its_term_alone(model, name, option, term):
    """Counts are what totals are divided by: a weight in both would be none."""
    b = everything(model)
    with torch.no_grad():
        plain, once, thrice = (Trainable(model, {name: o})(b) for o in ({}, {option: 1.0}, {option: 3.0}))
    for other in plain:
        torch.testing.assert_close(once[other].total, plain[other].total)
        torch.testing.assert_close(thrice[other].total, (3.0 if other == term else 1.0) * plain[other].total)
        assert plain[other].count == once[other].count == thrice[other].count


def test_retrieval_terms_are_the_losses_of_raised_maps(model):
    """Map by map with torch's own interpolation; three slots are one map of normals."""
    b, wanted = everything(model), dict.fromkeys(("dice", "focal", "silog", "depth_l1", "normal"), 0.0)
    near, far = model.codec.depth_range
    with torch.no_grad():
        output, normals = model(b, []), []
        for m, (row, kind) in enumerate(zip(b.slot_owner.tolist(), b.slot_kinds, strict=True)):
            small = mask_logits(output.hidden[row, b.slot_index[m]][None], output.image_features[row])
            target = b.slot_targets[m][None].float()
            raised = F.interpolate(small[None], target.shape[1:], mode="bilinear", align_corners=False)[0]
            if kind == "mask":
                terms = {"dice": losses.dice(raised, target), "focal": losses.focal(raised, target)}
            elif kind == "depth":
                depth, known = near + (far - near) * raised.sigmoid(), (target >= near) & (target <= far)
                terms = {"silog": losses.silog(depth, target, known, 0.5)}
                terms["depth_l1"] = losses.depth_l1(depth, target, known)
            else:
                normals.append((2 * raised.sigmoid() - 1, target))
                terms = {}
                if len(normals) % 3 == 0:
                    found, truth = (torch.stack(v, dim=1) for v in zip(*normals[-3:], strict=True))
                    terms["normal"] = losses.cosine(found, truth, truth.norm(dim=1) >= 0.5)
            for name, term in terms.items():
                wanted[name] += float(term.total)
        found = Trainable(model, {n: {} for n in OBJECTIVES})(b)
    assert {k: float(found[k].total) for k in wanted} == pytest.approx(wanted, rel=1e-4)
    assert [float(found[k].count) for k in wanted] == [b.slot_kinds.count("mask")] * 2 + [2.0] * 3


@pytest.mark.parametrize("rows", [7, 1024])
@pytest.mark.parametrize("slot_weight", [1.0, 0.25])
def test_token_loss_is_that_of_each_supervised_token(model, rows, slot_weight):
    """Token by token; those of a slot after its first count less, in the total and in the count."""
    b = everything(model)
    later = {(m, p) for m, at in zip(b.slot_owner.tolist(), b.slot_index.tolist(), strict=True) for p in at[1:]}
    total, count = 0.0, 0.0
    with torch.no_grad():
        output = model(b, [])
        for row, at, label in zip(*(v.tolist() for v in predicting(b.labels, b.segment)), strict=True):
            weight = slot_weight if (row, at) in later else 1.0
            logits = output.logits(output.hidden[row, at])
            total += weight * float(F.cross_entropy(logits.float(), torch.tensor(label)))
            count += weight
        term = Trainable(model, {"next_token": {"rows": rows, "slot_weight": slot_weight}})(b)["token"]
    assert later and float(term.count) == pytest.approx(count)
    assert float(term.total) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize(("rows", "more"), [(7, 0), (7, 2), (1024, 2)])
def test_the_head_is_called_as_often_as_all_processes_agree(model, rows, more, monkeypatch):
    """Pieces without a token stand in; total and gradient stay those of one piece."""
    b, found = one_row(model, 0), []
    loss, called = next_token.token_cross_entropy, []
    monkeypatch.setattr(next_token, "token_cross_entropy", lambda *a, **k: (called.append(0), loss(*a, **k))[1])
    for options, extra in (({}, 0), ({"rows": rows}, more)):
        model.zero_grad()
        trainable = Trainable(model, {"next_token": options})
        trainable.objectives["next_token"].calls = lambda own, extra=extra: own + extra
        called.clear()
        term = trainable(b)["token"]
        assert len(called) == -(-int(term.count) // options.get("rows", 1024)) + extra
        term.total.backward()
        found.append((term.total.detach(), model.vlm.hf.get_input_embeddings().weight.grad.clone()))
    torch.testing.assert_close(found[0], found[1])
    with pytest.raises(ConfigError, match=r"rows: is out of range \(got 0\)"):
        Trainable(model, {"next_token": {"rows": 0}})


def _plugin(folder: Path, name: str, terms: str) -> str:
    (folder / f"{name}.py").write_text(
        f"from torch import nn\nTERMS = {terms}\n\n\nclass Objective(nn.Module):\n    pass\n", encoding="utf-8"
    )
    return f"ufo_tune_objectives.{name}"


def test_terms_of_one_name_are_refused(tmp_path, monkeypatch):
    folder = tmp_path / "ufo_tune_objectives"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    twin, other = _plugin(folder, "twin", "('extra', 'dice')"), _plugin(folder, "other", "('extra',)")
    check_objectives({"next_token": {}, "mask_retrieval": {}, other: {}})
    with pytest.raises(ConfigError, match=r"objectives\..*twin: .* as objectives.mask_retrieval \(got 'dice'\)"):
        check_objectives({"mask_retrieval": {}, twin: {}})
    with pytest.raises(ConfigError, match=r"objectives\.mask_retrieval\.dice_wait: no such option"):
        check_objectives({"mask_retrieval": {"dice_wait": 2}})


@pytest.mark.parametrize("kind", get_args(SlotKind))
def test_every_kind_of_slot_has_an_objective_and_a_recipe_without_it_is_refused(kind):
    able = [n for n in OBJECTIVES if kind in getattr(plugins.find("objectives", n), "SLOTS", ())]
    tasks = [n for n in plugins.names("tasks") if kind in getattr(plugins.find("tasks", n), "SLOTS", ())]
    assert able and tasks
    for task in tasks:
        check_objectives({name: {} for name in ("next_token", *able)}, [task, "vqa"])
        with pytest.raises(
            ConfigError, match=rf"trains the {kind} slots of task {task} \(got next_token\); add {able[0]}"
        ):
            check_objectives({"next_token": {}}, ["vqa", task])


def unknown_pixels(model, objective, change):
    """Gradients of a row's maps before and after a change of targets where nothing is known."""
    b = one_row(model, 2)
    found = []
    for targets in (b.slot_targets, change(b.slot_targets)):
        model.zero_grad()
        terms = Trainable(model, {objective: {}})(replace(b, slot_targets=targets))
        sum(t.total for t in terms.values()).backward()
        found.append(model.vlm.hf.get_input_embeddings().weight.grad.clone())
    return found


def test_depth_that_cannot_be_said_teaches_nothing(model):
    """Unknown (0), nearer than the codec's range, and beyond it: no such pixel reaches the gradient."""
    near, far = model.codec.depth_range

    def change(targets):
        depth = targets[0]
        assert depth.shape == targets[1].shape and (depth == 0).sum() > 100 and (depth > 1).sum() > 100
        other = torch.where(depth == 0, torch.tensor([near / 2, far + 1])[torch.arange(depth.shape[1]) % 2], depth)
        return (other, *targets[1:])

    before, after = unknown_pixels(model, "depth_retrieval", change)
    assert before.any() and torch.equal(before, after)


def test_normals_that_are_not_known_teach_nothing(model):
    def change(targets):
        unknown = torch.stack(targets[1:]).norm(dim=0) < 0.5
        assert unknown.sum() > 100 and (~unknown).sum() > 100
        return (targets[0], *(torch.where(unknown, 0.28, t) for t in targets[1:]))  # 0.28 sqrt(3) < 0.5

    before, after = unknown_pixels(model, "normal_retrieval", change)
    assert before.any() and torch.equal(before, after)


def test_no_two_of_ours_share_a_term(model):
    terms = [t for n in OBJECTIVES for t in plugins.find("objectives", n).TERMS]
    assert len(terms) == len(set(terms)) >= len(OBJECTIVES)
    assert set(Trainable(model, {n: {} for n in OBJECTIVES})(everything(model))) == set(terms)
