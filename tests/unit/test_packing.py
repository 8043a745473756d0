"""Packing: who shares a row, where tokens go and come back from, and what they see there."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests import tiny
from ufo_tune.config import Recipe
from ufo_tune.core import sequence
from ufo_tune.core.packing import Packing, packs
from ufo_tune.core.types import NO_SIZE, PAD, PROMPT, Answer, Dialogue, Sample, Targets, Turn
from ufo_tune.data.collate import Collator, pack
from ufo_tune.data.open import open_dataset
from ufo_tune.engine.sources import Sources, ask
from ufo_tune.errors import ConfigError


@pytest.mark.parametrize(
    ("lengths", "budget", "expected"),
    [
        ([900, 100, 120, 700], 1024, [900, 920]),  # 1840 tokens with padding, against 2700 in three rows
        ([5, 5, 5], 10, [5, 5, 5]),  # nothing is padded as it is
        ([6, 4, 6, 4], 10, [10, 10]),  # 20 tokens against 24
        ([6, 4, 6, 4], 9, [4, 4, 6, 6]),
        ([30, 2, 3], 10, [5, 30]),  # longer than the budget: alone
        ([30, 8, 8], 10, [16, 30]),  # the row is 30 long anyway
        ([100, 98, 50, 50], 400, [98, 100, 100]),  # 298 in one row are 0.7 % fewer tokens than 300, and a longer row
        ([], 10, []),
    ],
)
def test_who_shares_a_row(lengths, budget, expected):
    found = packs(lengths, budget)
    assert sorted(i for p in found for i in p) == list(range(len(lengths)))
    assert sorted(sum(lengths[i] for i in p) for p in found) == expected


@pytest.mark.parametrize("seed", range(20))
def test_a_budget_is_kept_and_padding_is_never_more_than_apart(seed):
    rng = np.random.default_rng(seed)
    lengths, budget = rng.integers(1, 50, 12).tolist(), 60
    found = packs(lengths, budget)
    sums = [sum(lengths[i] for i in p) for p in found]
    assert sorted(i for p in found for i in p) == list(range(12))
    assert max(sums) <= budget
    assert len(sums) * max(sums) <= 12 * max(lengths)


def test_tokens_go_and_come_back():
    """Rows of 3, 1 and 2 tokens of a batch that is 4 wide; the first two share."""
    packing = Packing.of([(3, 1), (2,)], 4, torch.device("cpu"))
    ids = torch.tensor([[11, 12, 13, 0], [21, 0, 0, 0], [31, 32, 0, 0]])
    put = packing.put(ids, -7)
    assert put.tolist() == [[11, 12, 13, 21], [31, 32, -7, -7]]
    assert packing.document.tolist() == [[0, 0, 0, 1], [2, 2, -1, -1]]
    back = packing.take(put[..., None])[..., 0]
    assert back[ids > 0].tolist() == ids[ids > 0].tolist()
    row, at = packing.moved(torch.tensor([1, 2]), torch.tensor([0, 1]))
    assert (row.tolist(), at.tolist()) == ([0, 1], [3, 1])


def test_each_sample_sees_itself_as_if_alone():
    """The rule in two plain loops, and the mask of each sample alone as blocks of the packed one."""
    rows = [[PROMPT] * 3 + [0] * 2 + [1], [PROMPT] * 2 + [0], [PROMPT, 0, 1, 1]]
    images = [[0, 1, 1, 0, 0, 0], [1, 1, 0], [0, 0, 0, 0]]
    causal = [False, True, False]
    packing = Packing.of([[6, 3], [4]], 6, torch.device("cpu"))
    segment = sequence.pad(rows, PAD)
    image = sequence.pad(images, 0).bool() & ~torch.tensor(causal)[:, None]
    mask = sequence.visible(
        packing.put(segment, PAD), packing.put(image, False), torch.zeros(2, dtype=torch.bool), packing.document
    )[:, 0]
    assert mask.shape == (2, 9, 9)
    for document, (p, start) in enumerate([(0, 0), (0, 6), (1, 0)]):
        own, seen = rows[document], mask[p, start : start + len(rows[document])]
        for i, si in enumerate(own):
            for j in range(9):
                inside = 0 <= j - start < len(own)
                k = j - start
                order = inside and (k <= i or (images[document][i] and images[document][k] and not causal[document]))
                assert seen[i, j] == bool(order and own[k] in (PROMPT, si)), (document, i, j)
    assert mask.any(-1).all()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return tiny.model("llava", tmp_path_factory.mktemp("model"), words=["detect", "box", "of", "background"])


def collated(built, budget, name_images=False, rng=0):
    """Six questions, three of them about a picture, whose answers are of 1 to 81 words."""
    asked = ask("vqa", "", {})
    pictures = [tiny.image(n) if n % 2 else None for n in range(6)]
    samples = [
        Sample(
            p, NO_SIZE if p is None else p.shape[:2], "vqa", text="what", source=f"six#{n}",
            targets=Targets(text=" ".join(["box"] * (1 + 16 * n))),
        )
        for n, p in enumerate(pictures)
    ]  # fmt: skip
    make = Collator(
        built.processor, asked.task, asked.template, built.codec, asked.encode_options, pack_tokens=budget,
        name_images=name_images,
    )  # fmt: skip
    return make.rows([(s,) for s in samples], None if rng is None else np.random.default_rng(rng))


def test_a_batch_says_which_rows_share(built):
    plain, packed = collated(built, 0), collated(built, 300)
    lengths = (packed.segment != PAD).sum(1).tolist()
    assert [n for p in packed.packs for n in p] == lengths
    assert sorted(lengths) == sorted((plain.segment != PAD).sum(1).tolist())
    assert all(sum(p) <= 300 for p in packed.packs)
    assert 1 < len(packed.packs) < len(lengths)
    assert (plain.packs, plain.image_keys) == ((), ())
    assert collated(built, 300, name_images=True, rng=None).packs == (), "questions alone are not packed"


def test_rows_of_one_length_stay_apart(built):
    asked = ask("detection", "scenes_detection", {"rows": 3, "cols": 3, "keep": 4})
    samples = open_dataset("scenes", "", "train", "detection", {"side": 64, "size": 2})
    make = Collator(built.processor, asked.task, asked.template, built.codec, asked.encode_options, pack_tokens=10_000)
    assert make.rows([(samples[0],)] * 4, np.random.default_rng(0)).packs == ()


def test_images_are_named_by_their_pixels_in_the_batch_s_order(built):
    apart, packed = (collated(built, budget, name_images=True) for budget in (0, 300))

    def named(batch):
        shown = [s[0].source for s in batch.samples if s[0].image is not None]
        return dict(zip(shown, batch.image_keys, strict=True))

    assert named(apart) == named(packed), "other places, the same pixels"
    assert list(named(apart)) != list(named(packed))
    assert len({key for key, _ in packed.image_keys}) == 3
    assert collated(built, 0, name_images=True, rng=None).image_keys == (), "training only"


def test_one_row_has_nobody_to_share_with(built):
    recipe = Recipe.from_dict(
        {
            "model": {"base": "tiny:llava"},
            "data": {"mixture": [{"task": "rec", "dataset": "scenes", "template": "scenes_rec"}]},
            "train": {"pack_tokens": 100},
        }
    )
    with pytest.raises(ConfigError, match=r"train\.pack_tokens.*per_device_train_batch_size to 2"):
        Sources(recipe, built)


def test_questions_about_crops_do_not_share_a_row():
    asked = Dialogue((Turn("", (Answer("a", question="what is it"),)),), image_position="before")
    assert len(pack([asked, asked], "made#0").turns[0].answers) == 2
    with pytest.raises(ConfigError, match="and no crops, can be packed; set pack: 1"):
        pack([asked, replace(asked, crops=((0.0, 0.0, 4.0, 4.0),))], "made#0")
