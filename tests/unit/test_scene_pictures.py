"""What scenes say about whole pictures: label maps, depth and captions, told again from masks, layout and middles."""

from itertools import permutations, product

import numpy as np
import pytest

from tests.unit.test_scenes import Reader
from ufo_tune.core.masks import decode
from ufo_tune.datasets import scenes
from ufo_tune.datasets._scene_language import REGIONS

SIZE = 60
MARGIN = 0.015  # share of the side: middles so close to each other, or to a border, may be told either way


def load(task, **options):
    return scenes.load("", "val", task=task, **{"size": SIZE, **options})


@pytest.mark.parametrize("side", [64, 128])
def test_every_pixel_is_of_the_shape_whose_mask_has_it_or_of_the_background(side):
    shown = set()
    maps, masks = (load(task, side=side) for task in ("semantic_segmentation", "instance_segmentation"))
    for labelled, masked in zip(maps, masks, strict=True):
        assert labelled.image_id == masked.image_id and labelled.classes == (*masked.classes, "background")
        wanted = np.full(masked.size, "background", dtype=object)
        for label, rle in zip(masked.targets.labels.tolist(), masked.targets.masks, strict=True):
            wanted[decode(rle)] = masked.classes[label]
        label_map = labelled.targets.label_map
        assert label_map.dtype == np.int16 and label_map.shape == labelled.size
        assert np.array_equal(np.array(labelled.classes, dtype=object)[label_map], wanted)
        shown |= set(label_map.ravel().tolist())
    assert shown == set(range(len(scenes.LABELS)))


@pytest.mark.parametrize("side", [64, 128])
def test_the_plane_recedes_evenly_and_objects_are_as_far_as_where_they_stand(side):
    """From 1.5 m at the lower edge of the picture to 9.5 m at the upper one."""
    for k, sample in enumerate(load("depth", side=side)):
        drawn = scenes.scene(0, "val", k, side)
        depth = sample.targets.depth
        assert depth.dtype == np.float32 and depth.shape == sample.size and not sample.text
        rows = 9.5 - 8 * (np.arange(side) + 0.5) / side
        wanted = np.repeat(rows[:, None], side, axis=1)
        for thing, mask in zip(drawn.things, drawn.masks(), strict=True):
            foot = thing.box[3]  # of the whole shape, hidden parts too
            wanted[mask] = 9.5 - 8 * foot / side
            assert wanted[mask][0] <= rows[np.nonzero(mask)[0]].min() + 1e-6  # it hides what is behind it
        np.testing.assert_allclose(depth, wanted, rtol=0, atol=1e-5)
        assert 1.5 <= depth.min() and depth.max() <= 9.5


def true_captions(reader):
    """Every order and every choice of regions is tried; what the middles bear out is kept."""
    x, y = (np.array(v) / reader.side for v in (reader.x, reader.y))

    def fitting(value):
        return [third for third in range(3) if third / 3 - MARGIN < value < (third + 1) / 3 + MARGIN]

    found = set()
    for order in permutations(reader.all):
        if all(x[i] - x[j] < MARGIN for n, i in enumerate(order) for j in order[n + 1 :]):
            places = [[REGIONS[r][c] for r in fitting(y[i]) for c in fitting(x[i])] for i in order]
            found |= {
                ", ".join(f"a {name(reader.things[i])} in the {where}" for i, where in zip(order, regions, strict=True))
                for regions in product(*places)
            }
    return found


def name(thing):
    words = (thing.size, thing.texture, thing.colour, thing.shape)
    return " ".join(word for word in words if word != "plain")


def test_captions_are_all_that_the_picture_bears_out_and_the_strict_one_is_first():
    counts = []
    for k, sample in enumerate(load("caption", max_objects=4, size=100)):
        reader = Reader(scenes.scene(0, "val", k, max_objects=4))
        targets = sample.targets
        assert targets.text == targets.references[0] == reader.answer("caption", "describe the picture")
        assert len(set(targets.references)) == len(targets.references)
        assert set(targets.references) == true_captions(reader), sample.source
        counts.append(len(targets.references))
    assert 0.3 < np.mean(np.array(counts) == 1) < 0.9  # both kinds of pictures occur
    assert len(set(targets.text for targets in (s.targets for s in load("caption")))) == SIZE  # none fits two pictures
