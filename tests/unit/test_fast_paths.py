"""Short cuts of the loader give what the long way gives: tokens of long prompts, masks on the canvas, pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from tests.spoken import encode, sample_of
from tests.unit.test_tokens import _tokenizer
from ufo_tune import plugins
from ufo_tune.core import sequence, tokens, views
from ufo_tune.core.types import View


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_image_tokens_are_multiplied_after_tokenising(family: str, tmp_path: Path) -> None:
    own = tiny.model(family, tmp_path).processor
    shown = own.plan((40, 56))
    runs, _ = own._render(tiny.grid_dialogue(), own.image_text(shown))
    text = runs[0][0]
    assert text.count(own.image_token) == views.tokens_of(shown) > 1
    for special in (True, False):
        long_way = own.tokenizer(text, add_special_tokens=special)["input_ids"]
        assert list(tokens.prompt_ids(own.tokenizer, text, own.image_token, special=special)) == long_way


@pytest.mark.parametrize("kind", ["words", "bytes", "metaspace"])
def test_image_tokens_of_any_tokenizer(kind: str) -> None:
    tokenizer = _tokenizer(kind)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    one = tokenizer.convert_tokens_to_ids("<image>")
    for text in ("a <image><image><image>\nred", "<image>", "<image><image>", "red", "", "a<image>\n<image><image> b"):
        long_way = tokenizer(text, add_special_tokens=False)["input_ids"]
        short = tokens.prompt_ids(tokenizer, text, "<image>", special=False)
        assert list(short) == long_way and short.count(one) == text.count("<image>")


def test_what_is_remembered_of_a_tokenizer_is_forgotten_when_it_grows(tmp_path: Path) -> None:
    own = tiny.model("llava", tmp_path).processor
    before = tokens.answer_ids(own.tokenizer, "zebra", own.codec)
    tokens.answer_ids(own.tokenizer, "zebra", own.codec).append(7)  # the caller's own list
    assert tokens.answer_ids(own.tokenizer, "zebra", own.codec) == before
    tokens.add_tokens(own.tokenizer, replace(own.codec, mask_token="zebra"))
    after = tokens.answer_ids(own.tokenizer, "zebra", own.codec)
    assert after == [own.tokenizer.convert_tokens_to_ids("zebra")] != before


@pytest.mark.parametrize("box", [(0.0, 0.0, 64.0, 48.0), (-8.0, -16.0, 72.0, 64.0), (10.0, 5.0, 30.0, 40.0)])
@pytest.mark.parametrize("out", [(48, 64), (7, 90), (33, 5)])
def test_targets_equal_a_matrix_of_all_weights(box: tuple[float, ...], out: tuple[int, int]) -> None:
    mask = np.zeros((48, 64), dtype=bool)
    mask[11:37, 20:21] = mask[30:40, 40:60] = True
    view = (View(box, (4, 4)),)  # type: ignore[arg-type]
    rows, columns = (
        _weights(length, low, high, cells)
        for length, low, high, cells in ((48, box[1], box[3], out[0]), (64, box[0], box[2], out[1]))
    )
    expected = rows @ mask.astype(np.float64) @ columns.T
    for values in (torch.from_numpy(mask), torch.from_numpy(np.asfortranarray(mask)), torch.from_numpy(mask).float()):
        target = views.to_target(values, view, out)
        assert target.dtype == torch.float32
        np.testing.assert_allclose(target.numpy(), expected, atol=1e-6)
    assert views.to_target(torch.zeros(48, 64), view, out).eq(0).all()


def _weights(length: int, low: float, high: float, cells: int) -> np.ndarray:
    """[cells, length] the share of each cell that each pixel covers."""
    edges = np.linspace(low, high, cells + 1)
    pixels = np.arange(length)
    shared = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return shared.clip(0) / (edges[1] - edges[0])


def test_answers_about_one_object_share_its_map(tmp_path: Path) -> None:
    built = tiny.model("llava", tmp_path)
    sample = sample_of("instance_segmentation")
    dialogue = encode(plugins.find("tasks", "instance_segmentation"), sample, built.codec)
    assert isinstance(sample.image, np.ndarray)
    batch = built.processor.batch([dialogue], [sample.image], [(sample,)], train=True)
    assert len(batch.slot_targets) == 9 and len({t.data_ptr() for t in batch.slot_targets}) == 3
    slots = [s for a in dialogue.turns[0].answers for s in a.slots]
    for slot, target in zip(slots, batch.slot_targets, strict=True):
        assert slot.target is not None
        alone = views.to_target(torch.from_numpy(slot.target), batch.views[0], tuple(target.shape))
        assert torch.equal(alone, target)


@pytest.mark.parametrize("family", ["llava", "internvl", "smolvlm", "gemma3"])
def test_pixels_are_those_of_pillow_but_for_rounding(family: str, tmp_path: Path) -> None:
    own = tiny.model(family, tmp_path, tiles="1x2").processor
    smooth = Image.fromarray(tiny.image(3, (5, 9))).resize((70, 30), Image.Resampling.BICUBIC)
    picture = np.asarray(smooth)  # cannot be written to
    shown = own.plan(picture.shape[:2])
    got = own.join_pixels([own.pixels(picture, shown)])["pixel_values"].reshape(-1, 3, own.side, own.side)  # [n, ...]
    (x0, y0, x1, y1), (rows, cols) = own.canvas(shown), own.target_size(shown)
    inner = (round(70 * cols / (x1 - x0)), round(30 * rows / (y1 - y0)))
    whole = np.empty((rows, cols, 3), np.uint8)
    whole[:] = (own.mean * 255).round()
    left, top = round(-x0 * cols / (x1 - x0)), round(-y0 * rows / (y1 - y0))
    whole[top : top + inner[1], left : left + inner[0]] = np.asarray(smooth.resize(inner, own.resample))
    expected = (whole.astype(np.float32) / 255 - own.mean) / own.std
    tiles = np.stack([expected[:, : own.side], expected[:, own.side :]]).transpose(0, 3, 1, 2)  # [2, 3, side, side]
    levels = np.abs(got[:2].numpy() - tiles) * own.std[:, None, None] * 255
    assert levels.max() < 2.01 and levels.mean() < 0.05


def test_padding_of_lists_and_arrays() -> None:
    assert sequence.pad([[1, 2, 3], [], [4]], -1).tolist() == [[1, 2, 3], [-1, -1, -1], [4, -1, -1]]
    assert sequence.pad([np.array([1, 2]), np.zeros(0, int)], 0).tolist() == [[1, 2], [0, 0]]
    assert sequence.pad([], 0).shape == (0, 0) and sequence.pad([[], []], 0).shape == (2, 0)
    assert sequence.pad([[1]], 0).dtype == torch.int64
