"""``check`` resolves a recipe as training would."""

from ufo_tune.config import ModelSection
from ufo_tune.engine import check, load


def test_the_codec_of_a_prepared_base_goes_before_the_recipes(tmp_path):
    load.base("tiny:llava", "llava", {"num_bins": 50}, {}).save(tmp_path)
    assert check._codec(ModelSection(base=str(tmp_path), codec={"num_bins": 70})).num_bins == 50
    assert check._codec(ModelSection(base="tiny:llava", codec={"num_bins": 70})).num_bins == 70
