"""Pictures asked about tile by tile: what is asked, how answers are joined, what one tile and a resumed run give."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from tests import tiny
from tests.data_files import drive as drive_files
from tests.fixtures.plugins.made_eval.model import Processor
from ufo_tune.config import DecodeSection, Protocol, TilingSection
from ufo_tune.core import masks
from ufo_tune.core.codec import Codec
from ufo_tune.core.types import Generation, Prediction, Sample, Targets, View
from ufo_tune.datasets import drive
from ufo_tune.engine import analysis
from ufo_tune.engine.answering import Answering
from ufo_tune.engine.evaluate import evaluate
from ufo_tune.engine.predict import Predictor
from ufo_tune.engine.sources import ask
from ufo_tune.engine.tiling import tiles_of
from ufo_tune.errors import ConfigError, DataError, EvalError

UNREADABLE = 77
"""Blue of a pixel that makes the model speechless."""
SURE = 1 / (1 + math.exp(-12))
"""Probability of the pixels that belong to its mask."""


class Seeing(nn.Module):
    """Says of every picture it is shown that what is bright in it is the mask; one cell a pixel."""

    def __init__(self, die_after: int = 10**9, understands: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.processor, self.codec, self.device = Processor(), Codec(slot_side=1), "cpu"
        self.batches: list[list[Sample]] = []
        self.die_after, self.understands = die_after, understands

    def predict(self, batch, decode, grammars):
        if len(self.batches) >= self.die_after:
            raise KeyboardInterrupt
        self.batches.append([s for row in batch.samples for s in row])
        return [Prediction() if self.understands else self.say(s.image) for s in self.batches[-1]]

    def say(self, image: np.ndarray) -> Generation:
        height, width = image.shape[:2]
        cells = height * width
        speechless = bool((image[..., 2] == UNREADABLE).any())
        logits = torch.from_numpy(np.where(image[..., 0] > 127, 12.0, -12.0)).float().flatten() * math.sqrt(cells)
        return Generation(
            texts=("no idea" if speechless else "<MASK>",),
            ids=torch.tensor([[5 if speechless else 7]]),
            scores=torch.full((1, 1), 0.25 if image[0, 0, 1] else 0.75),
            hidden=logits[None, None],  # [1, 1, cells]
            image_features=torch.eye(cells).reshape(height, width, cells),
            views=(View((0.0, 0.0, float(width), float(height)), (height, width)),),
            points=(None,),
            slot_id=7,
            depth_id=8,
        )


def _sample(size: tuple[int, int] = (20, 27), seed: int = 0) -> Sample:
    bright = np.random.default_rng(seed).random(size) < 0.4
    image = np.stack([bright * 255, np.zeros(size), np.zeros(size)], axis=-1).astype(np.uint8)
    return Sample(image, size, "res", "the vessels", source=f"made#{seed}", image_id="made")


def _joined(model: nn.Module, sample: Sample, batch_size: int = 4, **tiling: int) -> Prediction:
    answering = Answering(model, ask("res", "", {}), DecodeSection(batch_size=batch_size), TilingSection(**tiling))
    ((_, prediction),) = answering.predictions([sample], [(0,)])
    return prediction


@pytest.mark.parametrize("tiling", [{"side": 8, "stride": 4}, {"side": 8, "stride": 8}, {"side": 9}, {"side": 64}])
def test_tiles_together_say_what_the_picture_shows(tiling):
    sample, model = _sample(), Seeing()
    found = _joined(model, sample, **tiling)
    assert np.array_equal(masks.decode(found.masks[0]), sample.image[..., 0] > 127)
    assert torch.equal(found.boxes, masks.boxes_of(found.masks))
    assert found.invalid == 0 and found.scores.tolist() == pytest.approx([0.75 * SURE])


def test_turned_tiles_are_answers_about_the_same_pixels():
    """Square tiles, and one tile that is as oblong as its picture."""
    for size, side in (((20, 27), 8), ((5, 9), 16)):
        sample, model = _sample(size), Seeing()
        found = _joined(model, sample, side=side, turns=True)
        assert np.array_equal(masks.decode(found.masks[0]), sample.image[..., 0] > 127)
        asked = [s.image.tobytes() for b in model.batches for s in b]
        tiles = math.prod(math.ceil(max(n - side, 0) / (side // 2)) + 1 for n in size)
        assert len(asked) == 8 * tiles and len(set(asked)) == len(asked)


def test_sides_in_words_forbid_turns():
    sample, model = _sample().with_(text="the vessel on the left"), Seeing()
    _joined(model, sample, side=32, turns=True)
    assert sum(len(b) for b in model.batches) == 1


def test_tiles_are_asked_in_batches_with_the_same_question_and_no_truth():
    sample, model = _sample().with_(targets=Targets()), Seeing()
    _joined(model, sample, side=8, stride=7)
    assert [len(b) for b in model.batches] == [4, 4, 4]  # rows 0, 7, 12 by columns 0, 7, 14, 19
    asked = [s for b in model.batches for s in b]
    assert {(s.text, s.size, s.image.shape) for s in asked} == {("the vessels", (8, 8), (8, 8, 3))}
    assert np.array_equal(asked[7].image, sample.image[7:15, 19:27])
    assert all(s.targets is None for s in asked)


def test_a_tile_that_cannot_be_read_is_empty():
    sample = _sample()
    sample.image[10, 10, 2] = UNREADABLE
    bright = sample.image[..., 0] > 127
    found = _joined(Seeing(), sample, side=10, stride=10)  # tiles of rows 10-20 and columns 10-20, then 17-27
    mask = masks.decode(found.masks[0])
    assert found.invalid == 1
    assert not mask[10:, 10:17].any()
    kept = np.ones(sample.size, dtype=bool)
    kept[10:, 10:20] = False
    assert np.array_equal(mask[kept], bright[kept])


def test_nothing_is_painted_where_no_tile_can_be_read():
    sample = _sample()
    sample.image[::5, ::5, 2] = UNREADABLE
    found = _joined(Seeing(), sample, side=8)
    assert found.invalid == 4 * 6 and int(masks.area(found.masks)[0]) == 0  # rows 0 to 12, columns 0 to 19, by 4
    assert (found.scores.tolist(), found.boxes.tolist()) == ([0.0], [[0, 0, 0, 0]])


def test_unreadable_tiles_are_in_the_sanity_lines(tmp_path):
    """Nineteen of twenty answers are no mask: a line says so, and the words are kept."""

    class Mumbling(Seeing):
        told = 0

        def say(self, image: np.ndarray) -> Generation:
            self.told += 1
            image = image.copy()
            image[..., 2] = UNREADABLE if self.told % 20 else 0
            return super().say(image)

    root, _, _ = drive_files.make(tmp_path / "data")
    given = {"root": root, "splits": "[training]", "tiling.side": "16", "tiling.stride": "8"}
    model = Mumbling()
    values = evaluate(model, Protocol.load("drive", given), out=tmp_path / "out", progress=False)["training"]
    unreadable = model.told - model.told // 20
    assert model.told > 100 and values["invalid"] == unreadable
    lines = {line.name: line for line in analysis.read(tmp_path / "out" / "training").sanity}
    assert lines["unreadable answers"].warning
    assert lines["unreadable answers"].says.endswith(f"({unreadable} of {model.told})")
    assert lines["out of range or torn"].says.endswith(f"(0 of {model.told})")
    rows = [json.loads(line) for line in (tmp_path / "out" / "training" / "predictions.jsonl").read_text().splitlines()]
    said = [text for row in rows for text in row["answers"]]
    assert (len(said), said.count("no idea")) == (model.told, unreadable)


def test_the_score_is_the_mean_over_tiles():
    sample = _sample((8, 16))
    sample.image[0, 0, 1] = 1  # the first of two tiles is unsure
    assert _joined(Seeing(), sample, side=8, stride=8).scores.tolist() == pytest.approx([0.5 * SURE])


@pytest.mark.parametrize("constrained", [True, False])
def test_one_tile_is_the_plain_answer(tmp_path, constrained):
    """Of a real model with random weights, whose masks are nothing in particular."""
    model, picture = tiny.model("llava", tmp_path), tiny.image(3)
    decode = DecodeSection(max_new_tokens=12, constrained=constrained)
    plain, tiled = (
        Predictor(model, decode=decode, tiling=t)(picture, "res", text="the circle")
        for t in (None, TilingSection(side=56))
    )
    assert plain.invalid == tiled.invalid
    if constrained:
        assert plain.invalid == 0 and 0 < int(masks.area(plain.masks)[0])
    assert np.array_equal(masks.decode(plain.masks[0]), masks.decode(tiled.masks[0]))
    assert torch.allclose(plain.scores, tiled.scores) or plain.invalid


def test_a_killed_evaluation_asks_only_about_what_is_missing(tmp_path):
    root, _, _ = drive_files.make(tmp_path / "data")
    given = {"root": root, "splits": "[training]", "tiling.side": "16", "tiling.stride": "8", "decode.batch_size": "2"}
    protocol = Protocol.load("drive", given)
    samples = drive.load(root, "training", task="res")
    whole = Seeing()
    first = evaluate(whole, protocol, out=tmp_path / "whole", progress=False)["training"]
    a_picture = len(list(tiles_of(samples[0], protocol.tiling)))
    killed = Seeing(die_after=math.ceil(a_picture / 2))
    with pytest.raises(KeyboardInterrupt):
        evaluate(killed, protocol, out=tmp_path / "out", progress=False)
    again = Seeing()
    second = evaluate(again, protocol, out=tmp_path / "out", progress=False)["training"]
    assert len(again.batches) == len(whole.batches) - len(killed.batches)
    assert {k: v for k, v in first.items() if k != "seconds"} == {k: v for k, v in second.items() if k != "seconds"}
    rows = [json.loads(line) for line in (tmp_path / "out" / "training" / "predictions.jsonl").read_text().splitlines()]
    assert [r["source"] for r in rows] == [s.source for s in samples]


def test_what_cannot_be_tiled_is_refused():
    decode, tiling = DecodeSection(), TilingSection(side=8)
    with pytest.raises(ConfigError, match=r"task rec cannot join the answers of tiles \(got side 8\)"):
        Answering(Seeing(), ask("rec", "", {}), decode, tiling)
    with pytest.raises(EvalError, match="made#0: the model understands itself"):
        _joined(Seeing(understands=True), _sample(), side=8)
    with pytest.raises(DataError, match="text only"):
        list(tiles_of(Sample(None, (0, 0), "res", "x", source="made#1"), tiling))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"tiling": "{side: 8, stride: 9}"}, "tiles leave gaps"),
        ({"tiling": "{side: 0}"}, "tiling.side"),
        ({"tiling": "{stride: 4}"}, "tiling.side: is required"),
        ({"pack": "2"}, "tiling and pack do not go together"),
    ],
)
def test_sections_that_make_no_sense(given, says, monkeypatch):
    monkeypatch.setenv("DRIVE", "somewhere")
    with pytest.raises(ConfigError, match=says):
        Protocol.load("drive", given)
