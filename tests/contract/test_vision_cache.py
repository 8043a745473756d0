"""What a frozen tower said stands in for it bit for bit, for every family; a tower that trains is refused."""

from dataclasses import replace

import pytest
import torch

from tests import tiny
from ufo_tune.config import ModelSection
from ufo_tune.engine.trainable import Trainable
from ufo_tune.errors import ConfigError, ModelError
from ufo_tune.models import lora
from ufo_tune.models.vision_cache import VisionCache, key_of

FROZEN = ModelSection(base="t", lora={"dropout": 0.0})
PROJECTOR = FROZEN.model_copy(update={"projector": "full"})
INSIDE = ("qwen_vl/qwen2_5_vl", "qwen_vl/qwen3_vl")
"""Families whose projector is a part of the tower."""


def batches(model):
    """Each picture in several batches, with other neighbours, of several sizes, two of them in the first."""
    sizes = {0: (40, 56), 1: (40, 56), 2: (56, 30), 3: (80, 40)}
    for numbers in ((0, 1), (1, 2, 0), (3, 3), (2, 0), (0, 1, 2, 3), (3, 2)):
        pictures = [tiny.image(n, sizes[n]) for n in numbers]
        batch = tiny.batch(model, [tiny.grid_dialogue(2, question=f"detect {n}") for n in numbers], pictures)
        made = [model.processor.pixels(p, v) for p, v in zip(pictures, batch.views, strict=True)]
        batch.image_keys = tuple((key_of(p), model.processor.tower_rows(p)) for p in made)
        yield batch


def run(family, folder, section, gigabytes):
    """Losses of six steps, weights afterwards, and the cache."""
    tiles = 4 if tiny.takes(family, "tiles", 4) else 0
    model = tiny.model(family, folder, tiles=tiles)
    torch.manual_seed(0)  # of the adapters
    lora.apply(model, section)
    model.vision_cache = VisionCache(model.vlm, gigabytes) if gigabytes else None
    module = Trainable(model, {"next_token": {}, "mask_retrieval": {}}).train()
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for batch in batches(model):
        loss = sum(t.total / t.count.clamp_min(1) for t in module(batch).values())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, module.state_dict(), model.vision_cache


@pytest.mark.parametrize("section", [FROZEN, PROJECTOR], ids=["frozen", "projector"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_training_is_the_same_bit_for_bit(family, section, tmp_path):
    if section is PROJECTOR and family in INSIDE:
        with pytest.raises(ConfigError, match=r"vision_cache.*merger.*trained.*model\.projector"):
            run(family, tmp_path, section, 1)
        return
    losses, weights, _ = run(family, tmp_path, section, 0)
    cached, same, cache = run(family, tmp_path, section, 1)
    assert (cache.misses, cache.hits) == (4, 11)  # four pictures, shown fifteen times
    assert cached == losses
    assert weights.keys() == same.keys()
    assert all(torch.equal(value, same[name]) for name, value in weights.items())
    assert len(set(losses)) == 6, "the weights moved"


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_small_cache_forgets_and_changes_nothing(family, tmp_path):
    losses, *_, full = run(family, tmp_path, FROZEN, 1)
    one = max(sum(p.nbytes for p in parts_of(kept)) for kept in full._kept.values())
    again, *_, small = run(family, tmp_path, FROZEN, 1.5 * one / 1e9)
    assert again == losses
    assert small.misses > 4
    assert small._size == sum(p.nbytes for kept in small._kept.values() for p in parts_of(kept)) <= 1.5 * one


def parts_of(kept):
    parts = [p for part in kept.values() for p in (part if isinstance(part, tuple) else (part,))]
    return [p for p in parts if p is not None]


def test_only_what_is_read_is_kept(tmp_path):
    """LLaVA reads one layer: [views, 1 + patches, width] float32, whatever else the tower says."""
    *_, cache = run("llava", tmp_path, FROZEN, 1)
    kept = next(iter(cache._kept.values()))
    (part,) = parts_of(kept)
    width = cache._tower.config.hidden_size
    patches = (cache._tower.config.image_size // cache._tower.config.patch_size) ** 2
    assert part.shape[1:] == (1 + patches, width)


def test_other_pixels_have_another_name():
    pixels = {"tiles": torch.zeros(2, 4, 4, 3, dtype=torch.uint8)}
    moved = {"tiles": pixels["tiles"].clone()}
    assert key_of(pixels) == key_of(moved)
    moved["tiles"][1, 3, 3, 2] = 1
    shaped = {"tiles": pixels["tiles"].reshape(1, 8, 4, 3)}
    typed = {"tiles": pixels["tiles"].to(torch.int8)}
    assert len({key_of(p) for p in (pixels, moved, shaped, typed)}) == 4


def test_evaluation_looks_itself(tmp_path):
    model = tiny.model("llava", tmp_path)
    lora.apply(model, FROZEN)
    model.vision_cache = VisionCache(model.vlm, 1)
    model.eval()(next(batches(model)))
    assert (model.vision_cache.misses, model.vision_cache.hits) == (0, 0)
    assert "forward" not in vars(model.vision_cache._tower)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_tower_that_trains_is_refused(family, tmp_path):
    model = tiny.model(family, tmp_path)
    lora.apply(model, FROZEN.model_copy(update={"vision": "full"}))
    with pytest.raises(ConfigError, match=r"train\.vision_cache: .*trained.*freeze model\.vision"):
        VisionCache(model.vlm, 1)


def test_dropout_in_the_tower_is_refused(tmp_path):
    model = tiny.model("llava", tmp_path)
    lora.apply(model, FROZEN)
    VisionCache(model.vlm, 1)
    model.vlm.hf.model.vision_tower.config.attention_dropout = 0.1
    with pytest.raises(ConfigError, match=r"train\.vision_cache: .*dropout.*attention_dropout"):
        VisionCache(model.vlm, 1)


def test_a_family_that_declares_too_little_is_told(tmp_path, monkeypatch):
    model = tiny.model("llava", tmp_path)
    lora.apply(model, FROZEN)
    monkeypatch.setattr(type(model.vlm), "tower_reads", ("last_hidden_state",))
    model.vision_cache = VisionCache(model.vlm, 1)
    with pytest.raises(ModelError, match=r"hidden_states.*tower_reads"):
        model.train()(next(batches(model)))
    batch = next(batches(model))
    model.vision_cache = VisionCache(model.vlm, 1)
    with pytest.raises(ModelError, match="tower_rows"):
        model(replace(batch, image_keys=batch.image_keys[:1]))
