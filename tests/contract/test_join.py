"""What every task that can be asked tile by tile promises, for each file of ufo_tune/tasks with a ``join``."""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import special

from tests.spoken import CODECS, SIZE, codec_name, encode, sample_of, spoken, words
from ufo_tune import plugins
from ufo_tune.core import masks
from ufo_tune.core.tiles import Tile
from ufo_tune.core.types import Prediction
from ufo_tune.data.augment import select
from ufo_tune.tasks._single_answer import first_maps

NAMES = [n for n in plugins.names("tasks") if hasattr(plugins.find("tasks", n), "join")]
WHOLE = Tile((0, 0, SIZE[1], SIZE[0]))


def _same(found: Prediction, wanted: Prediction) -> None:
    """Every field; numbers that were blended may differ in their last digits."""
    assert (found.text, found.invalid) == (wanted.text, wanted.invalid)
    assert torch.equal(found.boxes, wanted.boxes) and torch.equal(found.labels, wanted.labels)
    torch.testing.assert_close(found.scores, wanted.scores)
    bitmaps, expected = (None if p.masks is None else masks.decode_many(p.masks, SIZE) for p in (found, wanted))
    maps = [(bitmaps, expected), *((getattr(found, n), getattr(wanted, n)) for n in ("label_map", "depth", "normals"))]
    for ours, theirs in maps:
        assert (ours is None) == (theirs is None)
        assert theirs is None or ours == pytest.approx(theirs, abs=1e-5)


def test_there_are_some():
    assert "res" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_takes_the_options_of_decode(name):
    task = plugins.find("tasks", name)
    assert list(inspect.signature(task.join).parameters)[:3] == ["parts", "sample", "codec"]
    options = [list(inspect.signature(f).parameters.items())[3:] for f in (task.join, task.decode)]
    assert options[0] == options[1]


@pytest.mark.parametrize("codec", CODECS, ids=codec_name)
@pytest.mark.parametrize("name", NAMES)
def test_one_tile_or_the_same_twice_is_the_plain_answer(name, codec):
    task, sample = plugins.find("tasks", name), sample_of(name)
    generation = spoken(encode(task, sample, codec), codec)
    plain = task.decode(generation, sample, codec)
    for times in (1, 2):
        _same(task.join(iter([(WHOLE, generation)] * times), sample, codec), plain)


@pytest.mark.parametrize("name", NAMES)
def test_every_unreadable_tile_is_counted(name):
    task, sample, codec = plugins.find("tasks", name), sample_of(name), CODECS[0]
    silent = words([""], codec, points=False)
    _same(task.join([(WHOLE, silent)], sample, codec), task.decode(silent, sample, codec))
    _same(task.join([(WHOLE, silent)] * 2, sample, codec), replace(task.decode(silent, sample, codec), invalid=2))
    spoken_once = [(WHOLE, silent), (WHOLE, spoken(encode(task, sample, codec), codec)), (WHOLE, silent)]
    assert task.join(spoken_once, sample, codec).invalid == 2


def test_res_is_as_sure_of_nothing_in_all_tiles_as_the_words_are():
    task, sample, codec = plugins.find("tasks", "res"), sample_of("res"), CODECS[0]
    none = words(["There is no such object."], codec, points=False)
    found = task.join([(WHOLE, none)] * 2, sample, codec)
    _same(found, task.decode(none, sample, codec))
    assert found.scores.tolist() == [0.5]  # of every token


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_res_cuts_probabilities_where_it_is_told(threshold):
    """Two answers about one tile: the mean of their probabilities, and of one alone its own."""
    task, codec, several = plugins.find("tasks", "res"), CODECS[0], sample_of("instance_segmentation", 2)
    samples = [sample_of("res").with_(targets=select(several.targets, torch.arange(2) == k)) for k in (0, 1)]
    said = [spoken(encode(task, s, codec), codec) for s in samples]
    maps = torch.cat([first_maps(g, SIZE, codec, g.slot_id) for g in said]).numpy()  # [2, H, W]
    chances = special.expit(maps.astype(float))
    assert (chances > threshold).any((1, 2)).all()
    alone = task.decode(said[0], samples[0], codec, threshold=threshold)
    joined = task.join([(WHOLE, g) for g in said], samples[0], codec, threshold=threshold)
    for found, chance in ((alone, chances[0]), (joined, chances.mean(0))):
        clear = abs(chance - threshold) > 1e-4
        assert np.array_equal(masks.decode(found.masks[0])[clear], (chance > threshold)[clear])
        assert clear.mean() > 0.4
