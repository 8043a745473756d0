"""``check`` estimates memory from the config alone; the estimate must be what the real model counts."""

import pytest

from ufo_tune.config import ModelSection, Recipe
from ufo_tune.core.codec import Codec
from ufo_tune.engine import check, load
from ufo_tune.models import lora


@pytest.mark.parametrize(
    "section",
    [
        {},
        {"language": "frozen", "projector": "full"},
        {"language": "full", "vision": "full", "train_tokens": "full"},
        {"lora": {"r": 3}},
    ],
)
def test_trained_parameters_are_those_of_the_real_model(section):
    settings = ModelSection(base="tiny:llava", **section)
    model = load.base("tiny:llava", "llava", {}, {})
    lora.apply(model, settings)
    trained, _ = lora.trainable_summary(model.vlm.hf)
    adapters, whole = check._trained(load.base("tiny:llava", "llava", {}, {}).vlm, settings, Codec())
    assert adapters + whole == trained


def test_memory_line_counts_parameters_without_weights():
    recipe = Recipe.from_dict(
        {
            "model": {"base": "tiny:llava", "language": "full", "dtype": "float32"},
            "data": {"mixture": [{"task": "rec", "dataset": "scenes"}]},
        }
    )
    (line,) = check._memory(recipe, Codec())
    model = load.base("tiny:llava", "llava", {}, {})  # has our tokens already, the config on disk has not
    rows = model.vlm.hf.get_input_embeddings().weight
    added = len(model.new_token_ids()) * rows.shape[1] * 2
    total = sum(p.numel() for p in model.vlm.hf.parameters()) - added
    assert f"{total / 1e3:.3g} k parameters" in line
    assert f"weights {4 * total / 2**20:.3g} MiB" in line


def test_the_codec_of_a_prepared_base_goes_before_the_recipes(tmp_path):
    load.base("tiny:llava", "llava", {"num_bins": 50}, {}).save(tmp_path)
    assert check._codec(ModelSection(base=str(tmp_path), codec={"num_bins": 70})).num_bins == 50
    assert check._codec(ModelSection(base="tiny:llava", codec={"num_bins": 70})).num_bins == 70
