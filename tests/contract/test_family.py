"""What every family must keep; a new file in models/ with a tiny builder is tested on arrival."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from ufo_tune import plugins
from ufo_tune.config import ModelSection
from ufo_tune.core.sequence import predicting
from ufo_tune.core.types import Answer, Dialogue, Turn
from ufo_tune.engine import checkpoint, hub, load, probe
from ufo_tune.models import lora
from ufo_tune.objectives.mask_retrieval import Objective as MaskRetrieval
from ufo_tune.objectives.next_token import Objective as NextToken


def test_every_family_is_tested():
    assert set(plugins.names("models")) == set(tiny.FAMILIES)


@pytest.fixture(params=tiny.FAMILIES)
def model(request, tmp_path):
    return tiny.model(request.param, tmp_path)


def test_tokens_come_in_raster_order(model):
    """Perturb one cell of the picture: the image token that moves most is that cell's."""
    side = model.processor.side
    views = model.processor.plan((side, side))
    h, w = model.processor.grid(views)
    base = np.full((side, side, 3), 127, dtype=np.uint8)
    with torch.no_grad():
        plain = model.vlm.image_features(model.processor.pixels(base, views))
        for y in range(h):
            for x in range(w):
                picture = base.copy()
                picture[y * side // h : (y + 1) * side // h, x * side // w : (x + 1) * side // w] = 255
                moved = model.vlm.image_features(model.processor.pixels(picture, views)) - plain
                assert moved.norm(dim=-1).argmax() == y * w + x, (y, x)


@pytest.mark.parametrize("size", [(40, 80), (80, 40), (33, 47)])
def test_a_painted_square_lands_in_its_cells(model, size):
    """Views are the only way from pixels to cells: paint the cell that a point falls in, find it in the map."""
    from ufo_tune.core.views import stitch, to_canvas

    views = model.processor.plan(size)
    h, w = model.processor.grid(views)
    background = np.full((*size, 3), 127, dtype=np.uint8)
    cell = max(size) // h
    for cx, cy in ((0.25, 0.25), (0.5, 0.75)):
        picture = background.copy()
        x, y = int(cx * size[1]), int(cy * size[0])
        picture[max(0, y - cell // 2) : y + cell // 2, max(0, x - cell // 2) : x + cell // 2] = 255
        with torch.no_grad():
            features = [model.vlm.image_features(model.processor.pixels(p, views)) for p in (picture, background)]
        moved = stitch(features[0] - features[1], views).norm(dim=-1)  # [h, w]
        at = divmod(int(moved.argmax()), w)
        point = to_canvas(torch.tensor([[cx, cy]]), size, views)[0] * torch.tensor([w, h])
        assert abs(at[0] + 0.5 - float(point[1])) <= 1 and abs(at[1] + 0.5 - float(point[0])) <= 1


def test_forward_without_our_tokens_is_plain_hf(model):
    dialogue = Dialogue((Turn("what is red", (Answer("a circle"),)),), image_attention="causal")
    b = tiny.batch(model, [dialogue])
    with torch.no_grad():
        ours = model(b)
        hf = model.vlm.hf(input_ids=b.ids, attention_mask=torch.ones_like(b.ids), **b.pixels)
    assert torch.allclose(ours.logits(ours.hidden), hf.logits, atol=1e-4)


def test_parallel_answers_equal_separate_ones(model):
    dialogue = tiny.grid_dialogue(3)
    together = tiny.batch(model, [dialogue])
    with torch.no_grad():
        out = model(together)
        for number, answer in enumerate(dialogue.turns[0].answers):
            alone = tiny.batch(model, [Dialogue((replace(dialogue.turns[0], answers=(answer,)),))])
            single = model(alone)
            mine = out.hidden[0, together.segment[0] == number]
            assert torch.allclose(mine, single.hidden[0, alone.segment[0] == 0], atol=1e-5)
            assert torch.allclose(out.image_features[0], single.image_features[0], atol=1e-5)


def test_rows_of_a_batch_do_not_meet(model):
    """Two pictures of different size, two prompts of different length, one row with and one without points."""
    dialogues = [tiny.grid_dialogue(3), Dialogue((Turn("what is the red circle", (Answer("a square"),)),))]
    pictures = [tiny.image(0), tiny.image(1, (64, 30))]
    both = tiny.batch(model, dialogues, pictures)
    with torch.no_grad():
        out = model(both)
        for row in range(2):
            single = model(tiny.batch(model, [dialogues[row]], [pictures[row]]))
            length = single.hidden.shape[1]
            assert torch.allclose(out.hidden[row, :length], single.hidden[0], atol=1e-5)


def _loss(model, b):
    out = model(b)
    terms = {**NextToken()(b, out, None), **MaskRetrieval()(b, out, None)}
    return sum(t.total / t.count.clamp_min(1) for t in terms.values())


def test_gradient_checkpointing_gives_equal_gradients(model):
    b = tiny.batch(model, [tiny.grid_dialogue(3)])
    gradients = []
    for on in (False, True):
        if on:
            model.recompute_activations()
        model.train()
        model.zero_grad()
        _loss(model, b).backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 10
    for name, value in gradients[0].items():
        assert torch.allclose(value, gradients[1][name], atol=1e-6), name


def test_local_features_reach_the_gradient_and_change_states(model):
    b = tiny.batch(model, [tiny.grid_dialogue(1)])
    elsewhere = replace(tiny.grid_dialogue(1).turns[0].answers[0], point=(0.9, 0.1))
    other = tiny.batch(model, [Dialogue((Turn("detect red circle", (elsewhere,)),))])
    with torch.no_grad():
        first, moved = model(b), model(other)
        model.re_add_local = False
        once = model(b)
    at = b.local_index[0, 0]
    assert not torch.allclose(first.hidden[0, at], moved.hidden[0, at], atol=1e-4)
    assert not torch.allclose(first.hidden[0, at], once.hidden[0, at], atol=1e-4)


def _section(**changes):
    return ModelSection(base="x", **changes)


@pytest.mark.parametrize("language", ["lora", "frozen"])
def test_only_new_rows_train(model, language):
    """``train_tokens: new``: the rows of our tokens have gradients and change; all others stay bit-equal."""
    if language == "frozen":
        section = _section(language="frozen", projector="full")
    else:
        section = _section()
    lora.apply(model, section)
    model.train()
    effective = lambda layer: layer(torch.arange(rows)) if isinstance(rows, int) else None  # noqa: E731
    rows = len(model.processor.tokenizer)
    with torch.no_grad():
        table = effective(model.vlm.hf.get_input_embeddings()).clone()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    # two passes: LoRA's B starts at zero, so A moves only after the first
    for _ in range(2):
        optimizer.zero_grad()
        _loss(model, tiny.batch(model, [tiny.grid_dialogue(3)])).backward()
        optimizer.step()
    with torch.no_grad():
        after = effective(model.vlm.hf.get_input_embeddings())
    changed = (table != after).any(-1).nonzero().flatten().tolist()
    ours = set(model.new_token_ids())
    assert set(changed) <= ours
    tokenizer = model.processor.tokenizer
    assert {tokenizer.convert_tokens_to_ids(t) for t in ("<MASK>", "<box>", "</box>")} <= set(changed)


def test_head_rows_of_new_tokens_train(model):
    lora.apply(model, _section())
    model.train()
    hidden = torch.randn(1, model.vlm.hf.config.text_config.hidden_size)
    with torch.no_grad():
        before = model.vlm.logits(hidden).clone()
    optimizer = torch.optim.SGD([p for n, p in model.named_parameters() if p.requires_grad and "lm_head" in n], lr=1.0)
    b = tiny.batch(model, [tiny.grid_dialogue(3)])
    _loss(model, b).backward()
    optimizer.step()
    with torch.no_grad():
        changed = (model.vlm.logits(hidden) != before)[0].nonzero().flatten().tolist()
    assert changed and set(changed) <= set(model.new_token_ids())


def test_vision_tower_has_no_lora(model):
    lora.apply(model, _section())
    adapters = [n for n, _ in model.vlm.hf.named_parameters() if "lora_" in n]
    assert adapters and all("language_model" in n for n in adapters)


def _trained(model, tmp_path, **changes):
    """A run folder: adapter weights moved away from zero, as training would."""
    from torch import nn

    from ufo_tune.config import Recipe

    base = tmp_path / "prepared"
    model.save(base)
    recipe = Recipe.from_dict(
        {
            "model": {"base": str(base), **changes},
            "data": {"mixture": [{"task": "vqa", "dataset": "scenes"}]},
        }
    )
    fresh = load.load(base)
    fresh.settings |= {"base": str(base), "base_options": {}}
    lora.apply(fresh, recipe.model)
    with torch.no_grad():
        for n, p in fresh.vlm.hf.named_parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(n))))
    checkpoint.save(tmp_path / "run", 1, fresh, nn.ModuleDict(), recipe, {"step": 1})
    return fresh


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"projector": "full", "train_tokens": "full"},
        {"language": "full", "vision": "full", "projector": "full", "train_tokens": "full"},
    ],
    ids=["lora", "lora+projector+embeddings", "full"],
)
def test_save_load_and_merge_keep_the_model(model, tmp_path, changes):
    trained = _trained(model, tmp_path, **changes)
    expected = probe.outputs(trained)
    loaded = probe.outputs(load.load(tmp_path / "run"))
    for name, value in expected.items():
        assert torch.equal(value, loaded[name]), name
    differences = hub.merge(tmp_path / "run", tmp_path / "merged")
    assert max(differences.values()) <= 1e-4
    merged = probe.outputs(load.load(tmp_path / "merged"))
    for name, value in expected.items():
        assert torch.allclose(value, merged[name], atol=1e-4 * float(value.abs().max())), name
    with torch.no_grad():
        plain = probe.outputs(model)
    assert not torch.allclose(plain["text"], merged["text"], atol=1e-3), "the run must differ from its base"


def test_saved_folder_is_a_plain_hugging_face_model(model, tmp_path):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model.save(tmp_path / "saved")
    hf = AutoModelForImageTextToText.from_pretrained(tmp_path / "saved")
    processor = AutoProcessor.from_pretrained(tmp_path / "saved")
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is red ?"}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(images=Image.fromarray(tiny.image()), text=text, return_tensors="pt")
    out = hf.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert out.shape[1] > inputs["input_ids"].shape[1]


def test_text_loss_is_cross_entropy_of_the_full_logits(model):
    """Logits at supervised positions only == the textbook: full logits, shifted labels, one answer."""
    dialogue = Dialogue((Turn("what is red", (Answer("a circle"),)),))
    b = tiny.batch(model, [dialogue])
    out = model(b)
    term = NextToken()(b, out, None)["token"]
    full = out.logits(out.hidden)
    expected = torch.nn.functional.cross_entropy(full[0, :-1], b.labels[0, 1:], ignore_index=-100, reduction="sum")
    assert torch.allclose(term.total, expected, atol=1e-4)
    assert float(term.count) == len(predicting(b.labels, b.segment)[0]) == float(NextToken().counts(b)["token"])
