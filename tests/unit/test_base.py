"""Bases that were prepared or merged: what a recipe says of them goes before what they have, and all else stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.e2e.test_train import LORA, recipe
from ufo_tune.config import Recipe
from ufo_tune.engine import load
from ufo_tune.engine import train as engine_train
from ufo_tune.engine.check import check
from ufo_tune.engine.hub import merge
from ufo_tune.engine.prepare import prepare
from ufo_tune.errors import ConfigError, ModelError
from ufo_tune.models.ufo import read_settings


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("base") / "prepared"
    return prepare("tiny:internvl", made, family="internvl", codec={"num_bins": 40, "slot_side": 2})


def test_options_and_codec_of_a_recipe_go_before_those_of_the_base(prepared: Path) -> None:
    own = read_settings(prepared)
    model = load.base(str(prepared), "internvl", {"num_bins": 64}, {"tiles": "2x2"})
    assert (model.codec.num_bins, model.codec.slot_side) == (64, 2)
    assert model.settings["options"] == own["options"] | {"tiles": "2x2"} != own["options"]


@pytest.mark.parametrize(
    ("codec", "options", "says"),
    [
        ({}, {"tilse": 1}, r"models/internvl\.tilse: no such option"),
        ({"bar": 5}, {}, r"codec\.bar: no such field"),
    ],
)
def test_what_does_not_exist_is_refused_on_a_prepared_base_too(prepared: Path, codec, options, says) -> None:
    with pytest.raises((ConfigError, ModelError), match=says):
        load.base(str(prepared), "internvl", codec, options)


def test_every_stage_trains_at_the_resolution_its_recipe_says(prepared: Path, tmp_path: Path) -> None:
    """Prepare, train with one tile, merge, train with four: the adapter, loaded again, still sees four."""

    def stage(base: Path, tiles: str, out: Path) -> Path:
        model = {**LORA, "family": "internvl", "base": str(base), "options": {"tiles": tiles, "thumbnail": False}}
        document = recipe(model=model, train={"max_steps": 1, "gradient_accumulation_steps": 1}).model_dump(mode="json")
        document["model"]["codec"] = {}
        one = [{"task": "res", "template": "scenes_res", "dataset": "scenes", "options": {"size": 4}}]
        document["data"]["mixture"] = one
        plan = Recipe.from_dict(document)
        tokens[tiles] = next(line for line in check(plan) if "tokens" in line)
        engine_train.train(plan, out, progress=False)
        return out

    tokens: dict[str, str] = {}
    first, again = tmp_path / "merged", tmp_path / "again"
    merge(stage(prepared, "1x1", tmp_path / "first"), first)
    second = stage(first, "2x2", tmp_path / "second")
    merge(second, again)
    for folder, tiles in ((first, "1x1"), (second, "2x2"), (again, "2x2")):
        options = load.load(folder).settings["options"]
        assert options["tiles"] == tiles and not options["thumbnail"]
    assert tokens["1x1"] != tokens["2x2"]


def test_float16_on_disk_trains_in_bfloat16_on_a_gpu(prepared: Path, tmp_path: Path, monkeypatch) -> None:
    half = load.base(str(prepared), "internvl", {}, {}, dtype="auto")
    half.vlm.hf.half()
    half.save(tmp_path / "half")
    assert load.precision(str(tmp_path / "half")) == torch.float16
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert load.base(str(tmp_path / "half"), "internvl", {}, {}).vlm.hf.dtype == torch.bfloat16
    assert load.base(str(tmp_path / "half"), "internvl", {}, {}, dtype="float32").vlm.hf.dtype == torch.float32


def test_processes_that_would_resume_from_different_steps_are_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(engine_train, "gather_object", lambda own: [*own, "nothing"])
    engine_train._agreed(tmp_path, "nothing")
    with pytest.raises(ConfigError, match=r"different checkpoints to resume from \(got checkpoint-3, nothing\)"):
        engine_train._agreed(tmp_path, "checkpoint-3")


TWIN = """
from ufo_tune.models.llava import AutoProcessor, Llava, LlavaForConditionalGeneration, LlavaProcessor, tiny
from ufo_tune.models.ufo import UfoModel


class Model(UfoModel):
    pass


class {own}(Llava):
    pass


def build(path, codec, **weights):
    hf = LlavaForConditionalGeneration.from_pretrained(path, **weights)
    return Model.assemble({vlm}(hf), AutoProcessor.from_pretrained(path), LlavaProcessor, codec, {{}})
"""
"""A family out of tree, with weights of a class of its own or of one of ours."""


@pytest.mark.parametrize("vlm", ["Twin", "Llava"])
def test_a_family_out_of_tree_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vlm: str) -> None:
    package = tmp_path / f"ufo_tune_families_{vlm.lower()}"
    package.mkdir()
    (package / "twin.py").write_text(TWIN.format(own="Twin", vlm=vlm))
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"{package.name}.twin"
    made = prepare(f"tiny:{name}", tmp_path / "prepared", family=name)
    assert read_settings(made)["family"] == name
    assert type(load.load(made)).__module__ == name == load.load(made).settings["family"]
