"""FlexAttention says what sdpa says, for every family: states, losses and gradients.

No GPU is needed: what runs is torch's own unfused reference of ``flex_attention``, which has a backward pass on CPUs
too once its check of the device is out of the way. Tested are the rule as a block mask and its way to the decoder.
"""

import json

import pytest
import torch
import transformers.integrations.flex_attention as transformers_flex
from torch.nn.attention import flex_attention as torch_flex

from tests import tiny
from tests.contract import test_generate as generating
from ufo_tune.core.sequence import visible
from ufo_tune.core.types import PAD, PROMPT
from ufo_tune.errors import ModelError
from ufo_tune.models import flex
from ufo_tune.objectives.mask_retrieval import Objective as MaskRetrieval
from ufo_tune.objectives.next_token import Objective as NextToken

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


def run_on_cpus(monkeypatch):
    """Flex attention uncompiled, with gradients."""
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *_: None)
    monkeypatch.setattr(transformers_flex, "WrappedFlexAttention", lambda _: lambda: torch_flex.flex_attention)


@pytest.fixture
def reference(monkeypatch):
    run_on_cpus(monkeypatch)


def layouts(rows, length, seed):
    """Rows of prompt, image, answers and padding of random lengths."""
    rng = torch.Generator().manual_seed(seed)
    segment, image = torch.full((rows, length), PAD), torch.zeros(rows, length, dtype=torch.bool)
    for row in range(rows):
        prompt = int(torch.randint(20, length // 2, (), generator=rng))
        segment[row, :prompt] = PROMPT
        image[row, 3 : prompt - 5] = True
        at, number = prompt, 0
        while at < length - 10 * row:  # the first row has no padding
            answer = int(torch.randint(1, 40, (), generator=rng))
            segment[row, at : at + answer], at, number = number, at + answer, number + 1
    return segment, image


@pytest.mark.parametrize("length", [60, 128, 300, 515])
@pytest.mark.parametrize("packed", [False, True])
def test_block_mask_is_the_rule(length, packed):
    segment, image = layouts(3, length, seed=length)
    causal = torch.tensor([False, True, False])
    document = torch.arange(length).div(length // 2, rounding_mode="floor").expand(3, -1) if packed else None
    dense = visible(segment, image, causal, document)
    mask = flex.block_mask(segment, image, causal, document)
    assert mask.shape == dense.shape
    assert torch.equal(torch_flex.create_mask(mask.mask_mod, 3, 1, length, length, "cpu"), dense)
    blocks = -(-length // 128)
    padded = torch.nn.functional.pad(dense, [0, blocks * 128 - length] * 2)
    tiles = padded.unflatten(3, (blocks, 128)).unflatten(2, (blocks, 128))  # [3, 1, blocks, 128, blocks, 128]
    assert torch.equal(mask.to_dense().bool(), tiles.any(5).any(3))


def test_blocks_that_no_answer_sees_are_left_out():
    """128 tokens of prompt and seven answers of 128: 8 blocks see the prompt, 7 themselves."""
    segment = torch.arange(-1, 7).repeat_interleave(128)[None]
    assert PROMPT == -1
    mask = flex.block_mask(segment, torch.zeros_like(segment, dtype=torch.bool), torch.tensor([False]))
    assert int(mask.to_dense().sum()) == 15 and mask.sparsity() == pytest.approx(100 * (1 - 15 / 64))


def computed(model, batch):
    """Logits, loss terms and gradients of one pass."""
    model.zero_grad()
    out = model(batch)
    terms = {**NextToken()(batch, out, None), **MaskRetrieval()(batch, out, None)}
    sum(t.total / t.count.clamp_min(1) for t in terms.values()).backward()
    real = batch.segment != PAD
    found = {"logits": out.logits(out.hidden)[real].detach(), **{n: t.total.detach() for n, t in terms.items()}}
    return found | {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_flex_equals_sdpa(family, reference, tmp_path):
    model = tiny.model(family, tmp_path).train()
    batch = tiny.batch(model, [tiny.grid_dialogue(14), tiny.grid_dialogue(3)], [tiny.image(0), tiny.image(1, (64, 30))])
    assert batch.ids.shape[1] > 128  # more than one block
    wanted = computed(model, batch)
    flex.use(model.vlm)
    assert type(model.embed(batch).mask).__name__ == "BlockMask"
    found = computed(model, batch)
    assert wanted.keys() == found.keys() and len(wanted) > 20
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize("family", ["llava", "qwen_vl/qwen3_vl"])
def test_flex_of_rows_that_share_a_row(family, reference, tmp_path):
    model = tiny.model(family, tmp_path).train()
    batch = tiny.batch(model, [tiny.grid_dialogue(5), tiny.grid_dialogue(3)])
    wanted = computed(model, batch)
    flex.use(model.vlm)
    batch.packs = (tuple((batch.segment != PAD).sum(1).tolist()),)
    assert model.embed(batch).mask.shape == (1, 1, sum(batch.packs[0]), sum(batch.packs[0]))
    for name, value in computed(model, batch).items():
        assert torch.allclose(wanted[name], value, rtol=1e-4, atol=1e-5), name


def test_flex_with_recomputed_activations(reference, tmp_path):
    model = tiny.model("llava", tmp_path).train()
    batch = tiny.batch(model, [tiny.grid_dialogue(5)])
    wanted = computed(model, batch)
    flex.use(model.vlm)
    model.recompute_activations()
    for name, value in computed(model, batch).items():
        assert torch.allclose(wanted[name], value, rtol=1e-4, atol=1e-5), name


def test_decoding_and_the_tower_stay_as_they_are(tmp_path):
    """No ``reference`` here: a CPU could not run a single step of it if decoding went this way."""
    model = tiny.model("llava", tmp_path)
    generating.varied(model)
    grammars = [generating.GRAMMAR] * len(generating.ROWS)
    _, wanted = generating.run(model, generating.ROWS, grammars)
    flex.use(model.vlm)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(transformers_flex, "compile_friendly_flex_attention", None)
        _, found = generating.run(model, generating.ROWS, grammars)
    assert [g.texts for g in wanted] == [g.texts for g in found]
    assert model.vlm.text_model.config._attn_implementation == flex.NAME
    assert model.vlm.hf.model.vision_tower.config._attn_implementation == "sdpa"


def test_a_saved_folder_does_not_know(tmp_path):
    model = tiny.model("llava", tmp_path)
    flex.use(model.vlm)
    model.save(tmp_path / "saved")
    assert flex.NAME not in json.dumps(json.loads((tmp_path / "saved" / "config.json").read_text()))


def test_refusals(tmp_path):
    model = tiny.model("llava", tmp_path)
    model.vlm.text_model.config.attention_dropout = 0.1
    with pytest.raises(ModelError, match=r"no dropout of attention weights \(got 0.1"):
        flex.use(model.vlm)
    model.vlm.text_model.config.attention_dropout = 0.0
    model.vlm.text_model._supports_attention_backend = False
    with pytest.raises(ModelError, match="LlamaModel.*set model.attention: sdpa"):
        flex.use(model.vlm)
    assert model.vlm.text_model.config._attn_implementation == "sdpa"
