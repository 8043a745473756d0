"""``check`` resolves a recipe as training would."""

from ufo_tune.config import ModelSection
from ufo_tune.engine import check, load


def test_the_codec_of_a_prepared_base_is_its_own_but_for_what_the_recipe_says(tmp_path):
    load.base("tiny:llava", "llava", {"num_bins": 50, "slot_side": 2}, {}).save(tmp_path)
    for codec, bins in (({}, 50), ({"num_bins": 70}, 70)):
        found = check._codec(ModelSection(base=str(tmp_path), codec=codec))
        assert (found.num_bins, found.slot_side) == (bins, 2)
        assert found == load.base(str(tmp_path), "llava", codec, {}).codec
    assert check._codec(ModelSection(base="tiny:llava", codec={"num_bins": 70})).num_bins == 70
