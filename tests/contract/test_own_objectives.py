"""Objectives with parameters, passes and random draws of their own, in the package and outside of it."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from tests import tiny
from tests.contract import test_objectives as objectives
from ufo_tune.config import TrainSection
from ufo_tune.core.types import LossTerm
from ufo_tune.engine import checkpoint
from ufo_tune.engine.optim import optimizer
from ufo_tune.engine.trainable import Trainable
from ufo_tune.errors import ModelError

model = objectives.model
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
    terms = trained(objectives.everything(model))
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
    batch = objectives.everything(model)
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
    rows = [replace(objectives.batch(model, [objectives.REFERRING]), seeds=(seed,)) for seed in range(8)]
    whole = replace(tiny.batch(model, [objectives.REFERRING] * 8, [tiny.image(0)] * 8), seeds=tuple(range(8)))
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
    text = model.processor.batch([objectives.CAPTION], [None], [(tiny.sample(None),)], True)
    looks, see = [], type(model.vlm).image_features
    monkeypatch.setattr(type(model.vlm), "image_features", lambda vlm, pixels: looks.append(1) or see(vlm, pixels))
    trained = Trainable(model, {headed: {}}, in_step=lambda own: own)
    trained(text)
    (own,) = trained.objectives.values()
    assert len(looks) == len(own.outputs) == 3
