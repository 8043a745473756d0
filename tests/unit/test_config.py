"""Recipes and protocols: what is refused, and that each refusal is one line that names place, value and remedy."""

import pytest
import yaml

from ufo_tune.config import Protocol, Recipe
from ufo_tune.errors import ConfigError

SMALL = {"model": {"base": "tiny:llava"}, "data": {"mixture": [{"task": "rec", "dataset": "scenes"}]}}


def small(**changes):
    return yaml.safe_load(yaml.safe_dump({**SMALL, **changes}))


def refused(data, overrides=None):
    with pytest.raises(ConfigError) as caught:
        Recipe.from_dict(data, overrides, where="my.yaml")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("my.yaml")
    return message


def test_defaults_fill_what_a_recipe_does_not_say():
    recipe = Recipe.from_dict(small())
    assert recipe.model.family == "llava"
    assert recipe.data.mixture[0].weight == 1.0
    assert set(recipe.objectives) == {"next_token", "mask_retrieval"}


def test_overrides_in_python_may_be_values_already():
    given = {"train.max_steps": 10, "train.bf16": True, "train.report_to": [], "model.options": {"tiles": 2}}
    recipe = Recipe.from_dict(small(), given)
    assert recipe.train.max_steps == 10 and recipe.train.bf16 and recipe.train.report_to == ()
    assert recipe.model.options == {"tiles": 2}
    assert Recipe.from_dict(small(), {"train.max_steps": "10"}).train.max_steps == 10, "texts are YAML"
    assert "train.max_steps" in refused(small(), {"train.max_steps": 0})


def test_misspelt_key_names_the_nearest():
    message = refused(small(train={"learning_rat": 1e-4}))
    assert "train.learning_rat: no such key (got 0.0001)" in message
    assert "did you mean 'learning_rate'?" in message


def test_misspelt_key_inside_a_list_names_its_number():
    data = small()
    data["data"]["mixture"][0]["wieght"] = 2
    assert "data.mixture.0.wieght: no such key (got 2); did you mean 'weight'?" in refused(data)


def test_missing_key():
    assert "model.base: is required" in refused(small(model={}))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("train.learning_rate", "-1", "greater than 0"),
        ("train.max_steps", "many", "integer"),
        ("model.language", "half", "'lora'"),
        ("train.report_to", "[foo]", "'tensorboard'"),
        ("data.mixture", "[]", "at least 1"),
    ],
)
def test_value_out_of_range_names_key_and_value(key, value, says):
    message = refused(small(), {key: value})
    assert key in message and says in message


def test_several_faults_are_one_line_each():
    with pytest.raises(ConfigError) as caught:
        Recipe.from_dict(small(train={"stps": 1, "sed": 2}))
    assert len(str(caught.value).splitlines()) == 2


def test_overrides_reach_sections_lists_and_options():
    recipe = Recipe.from_dict(
        small(),
        {
            "train.learning_rate": "1e-4",  # YAML 1.1 reads this as a string; it must still be a number here
            "data.mixture.0.weight": "3",
            "tasks.detection.rows": "7",
            "train.lr_multipliers.vision": "0.1",
        },
    )
    assert recipe.train.learning_rate == 1e-4
    assert recipe.data.mixture[0].weight == 3
    assert recipe.tasks == {"detection": {"rows": 7}}
    assert recipe.train.lr_multipliers == {"vision": 0.1}


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("data.mixture.5.weight", "1", "no such entry (got '5'); use 0..0"),
        ("model.base.name", "x", "base is not a section"),
        ("train.max_steps", "[1", "not a YAML value (got '[1')"),
    ],
)
def test_bad_override(key, value, says):
    message = refused(small(), {key: value})
    assert f"--{key}" in message and says in message


def test_environment_variables(monkeypatch):
    monkeypatch.setenv("UFO_TUNE_TEST_ROOT", "/pictures")
    data = small()
    data["data"]["mixture"][0]["root"] = "${UFO_TUNE_TEST_ROOT}/coco"
    assert Recipe.from_dict(data).data.mixture[0].root == "/pictures/coco"
    monkeypatch.delenv("UFO_TUNE_TEST_ROOT")
    assert "not set (got ${UFO_TUNE_TEST_ROOT})" in refused(data)


def test_saved_recipe_reads_back_equal(tmp_path):
    recipe = Recipe.from_dict(small(train={"max_steps": 7}))
    recipe.save(tmp_path / "recipe.yaml")
    assert Recipe.load(str(tmp_path / "recipe.yaml")) == recipe


def test_missing_file_and_bad_yaml(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        Recipe.load(str(tmp_path / "nowhere.yaml"))
    (tmp_path / "bad.yaml").write_text("model: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        Recipe.load(str(tmp_path / "bad.yaml"))
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match="must be a mapping"):
        Recipe.load(str(tmp_path / "list.yaml"))


def test_reference_numbers_need_a_source():
    protocol = {"task": "rec", "dataset": "scenes", "splits": ["val"], "metric": "rec_accuracy"}
    assert Protocol.from_dict(protocol).pack == 1
    with pytest.raises(ConfigError, match="needs model, split and source"):
        Protocol.from_dict({**protocol, "reference": [{"model": "UFO", "split": "val"}]})


def test_a_key_that_stands_twice_is_refused(tmp_path):
    file = tmp_path / "twice.yaml"
    file.write_text("model: {base: x}\ntrain: {seed: 1}\ntrain: {seed: 2}\n")
    with pytest.raises(ConfigError, match=r"'train' stands twice.*line 3"):
        Recipe.load(str(file))
