"""What every objective must keep; a new file in objectives/ is tested on arrival."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from tests import tiny
from tests.tiny import CODEC
from ufo_tune import plugins
from ufo_tune.config import TrainSection
from ufo_tune.core import answers, losses
from ufo_tune.core.retrieval import mask_logits
from ufo_tune.core.sequence import predicting
from ufo_tune.core.types import Answer, Dialogue, LossTerm, Slot, SlotKind, Targets, Turn
from ufo_tune.engine import checkpoint
from ufo_tune.engine.optim import optimizer
from ufo_tune.engine.trainable import Trainable, check_objectives
from ufo_tune.errors import ConfigError, ModelError
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


HEADED = """
import torch
from ufo_tune.core.types import LossTerm

TERMS = ("mine",)


class Objective(torch.nn.Module):
    def __init__(self, width, *, shift=1.0):
        super().__init__()
        self.vector = torch.nn.Parameter(torch.full((width,), shift))
        self.head = torch.nn.Linear(width, 1)
        self.outputs = []

    def before(self, batch):
        return [lambda embeds, batch: embeds + self.vector]

    def counts(self, batch):
        return {"mine": torch.tensor(1.0)}

    def forward(self, batch, output, rerun):
        self.outputs = [output, rerun([]), rerun([lambda embeds, batch: embeds - self.vector])]
        return {"mine": LossTerm(self.head(self.outputs[1].hidden).sum(), torch.tensor(1.0))}
"""
"""An objective with parameters, a transform of the main pass and passes of its own."""


@pytest.fixture
def headed(tmp_path, monkeypatch) -> str:
    package = tmp_path / "ufo_tune_objectives_elsewhere"
    package.mkdir()
    (package / "mine.py").write_text(HEADED)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "ufo_tune_objectives_elsewhere.mine"


def test_an_objective_out_of_tree_has_heads_of_its_own(model, headed):
    """Names with dots: found, told the width of states, trained, and its weights are among those that are saved."""
    trained = Trainable(model, {"next_token": {}, headed: {}})
    terms = trained(everything(model))
    assert {"token", "mine"} <= set(terms)
    terms["mine"].total.backward()
    own = trained.objectives[headed.replace(".", "/")]
    assert own.head.weight.shape == (1, model.vlm.width) and own.vector.grad.any() and own.head.weight.grad.any()
    weights = trained.objectives.state_dict()
    assert "ufo_tune_objectives_elsewhere/mine.head.weight" in weights
    section = TrainSection(lr_multipliers={"objectives": 10.0})
    groups = optimizer(model, trained.objectives, section).param_groups
    assert {g["lr"] for g in groups if g["name"] == "objectives"} == {10 * section.learning_rate}
    model.zero_grad()


def test_a_second_pass_has_the_transforms_of_the_first(model, headed):
    """And more: what an objective does to the main pass holds in every other one."""
    trained = Trainable(model, {headed: {"shift": 0.5}})
    batch = everything(model)
    trained(batch)
    (own,) = trained.objectives.values()
    first, again, undone = (out.hidden for out in own.outputs)
    plain = model(batch).hidden
    assert torch.equal(first, again) and not torch.allclose(first, plain, atol=1e-2)
    torch.testing.assert_close(undone, plain, rtol=1e-4, atol=1e-4)


def test_heads_of_another_recipe_are_refused(model, headed, tmp_path):
    trained = Trainable(model, {headed: {}})
    torch.save({"step": 1, "optimizer": {}, "loader": {}, "random": []}, tmp_path / checkpoint.STATE)
    save_file(dict(trained.objectives.state_dict()), tmp_path / checkpoint.HEADS)
    assert checkpoint.resume(tmp_path, model, trained.objectives)["step"] == 1
    with pytest.raises(ModelError, match=r"objectives\.safetensors: weights of objectives do not fit \(.*same recipe"):
        checkpoint.resume(tmp_path, model, Trainable(model, {"next_token": {}}).objectives)


class Guessing(torch.nn.Module):
    """Hides words of the phrase at random and has them guessed, beside how much of the box is seen: a stand-in."""

    def __init__(self, width):
        super().__init__()
        self.hidden_word = torch.nn.Parameter(torch.zeros(width))

    def hides(self, batch):
        """[B, T] bool"""
        drawn = [torch.rand(batch.ids.shape[1], generator=torch.Generator().manual_seed(s)) for s in batch.seeds]
        return batch.phrase & (torch.stack(drawn) < 0.5)

    def before(self, batch):
        return []

    def counts(self, batch):
        return {"word": self.hides(batch).sum().float()}

    def forward(self, batch, output, rerun):
        hides = self.hides(batch)
        second = rerun([lambda embeds, batch: torch.where(hides[..., None], self.hidden_word, embeds)])
        logits = output.logits(second.hidden[hides])
        total = torch.nn.functional.cross_entropy(logits, batch.ids[hides], reduction="sum")
        return {"word": LossTerm(total + 0 * second.hidden.sum(), hides.sum().float())}


def test_what_is_drawn_at_random_is_the_rows_own(model):
    """Counted before the pass, and the same in whichever batch the row stands."""
    trained = Trainable(model, {})
    trained.objectives["guessing"] = Guessing(model.vlm.width)
    rows = [replace(batch(model, [REFERRING]), seeds=(seed,)) for seed in range(8)]
    whole = replace(tiny.batch(model, [REFERRING] * 8, [tiny.image(0)] * 8), seeds=tuple(range(8)))
    words = trained.counts(whole)["word"]
    assert 0 < float(words) < float(whole.phrase.sum())
    assert float(words) == sum(float(trained.counts(r)["word"]) for r in rows)
    together, apart = trained(whole)["word"], [trained(r)["word"] for r in rows]
    assert float(together.count) == float(words)
    torch.testing.assert_close(together.total, sum(t.total for t in apart), rtol=1e-4, atol=1e-4)
    together.total.backward()
    assert trained.objectives["guessing"].hidden_word.grad.any()
    model.zero_grad()


def test_processes_in_step_see_a_picture_in_every_pass(model, headed, monkeypatch):
    """One whose batch has no images would leave the tower out of a second pass too, and the others would wait."""
    text = model.processor.batch([CAPTION], [None], [(tiny.sample(None),)], True)
    looks, see = [], type(model.vlm).image_features
    monkeypatch.setattr(type(model.vlm), "image_features", lambda vlm, pixels: looks.append(1) or see(vlm, pixels))
    trained = Trainable(model, {headed: {}}, in_step=lambda own: own)
    trained(text)
    (own,) = trained.objectives.values()
    assert len(looks) == len(own.outputs) == 3
