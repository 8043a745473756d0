"""What every family must keep; a new file in models/ with a tiny builder is tested on arrival."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from tests.contract import test_generate as generating
from ufo_tune.config import ModelSection
from ufo_tune.core.sequence import predicting
from ufo_tune.core.types import Answer, Dialogue, Turn
from ufo_tune.core.views import stitch, to_canvas, tokens_of
from ufo_tune.engine import checkpoint, hub, load, probe
from ufo_tune.engine.trainable import Trainable
from ufo_tune.errors import DataError, ModelError
from ufo_tune.models import lora
from ufo_tune.objectives.mask_retrieval import Objective as MaskRetrieval
from ufo_tune.objectives.next_token import Objective as NextToken


@pytest.fixture(params=tiny.FAMILIES)
def model(request, tmp_path):
    return tiny.model(request.param, tmp_path)


TILED = [(f, t) for f in tiny.FAMILIES for t in ("1x1", "2x3", "3x2", 9) if tiny.takes(f, "tiles", t)]


def seen(model, pictures, views):
    """The maps [n, h, w, D] that the decoder is given of pictures of one size."""
    pixels = model.processor.join_pixels([model.processor.pixels(p, views) for p in pictures])
    with torch.no_grad():
        features = model.vlm.image_features(pixels)[0]
    return torch.stack([stitch(f, views) for f in features.chunk(len(pictures))])


def check_locality(model, size):
    """Paint the pixels of one cell after the other: the cell of the map that moves most is that one.

    Over three pictures: the tower mixes cells, and on one alone two of them may move by the same to a per cent.
    """
    views = model.processor.plan(size)
    h, w = model.processor.grid(views)
    x0, y0, x1, y1 = model.processor.canvas(views)
    cells, total = [], 0
    for y in range(h):
        for x in range(w):
            top, bottom = (round(y0 + (y1 - y0) * (y + k) / h) for k in (0.0, 1.0))
            left, right = (round(x0 + (x1 - x0) * (x + k) / w) for k in (0.0, 1.0))
            if min(top, left) >= 0 and bottom <= size[0] and right <= size[1]:  # else in part padding
                cells.append((y, x, top, bottom, left, right))
    for seed in range(3):
        background = tiny.image(seed, size)  # no plain colour: norms would blow up the slightest change of empty cells
        pictures = [background]
        for *_, top, bottom, left, right in cells:
            picture = background.copy()
            picture[top:bottom, left:right] = 255 * (picture[top:bottom, left:right] < 128)
            pictures.append(picture)
        plain, *painted = seen(model, pictures, views)
        total = total + torch.stack([(p - plain).norm(dim=-1).flatten() for p in painted])  # [cells, h*w]
    moved = [divmod(i, w) for i in total.argmax(1).tolist()]
    assert moved == [c[:2] for c in cells] and len(cells) >= min(h * w, 3)


def test_words_that_spell_the_layout_are_refused(model):
    """A person who types "<image>" would else ask about two images, of which one has no pixels."""
    for token in (model.processor.image_token, model.processor.end_token):
        spelled = f"what is {token} here?"
        wanted = re.escape(f"tiny#0: the text spells the model's own {token} (got {spelled!r}); remove it")
        for question, answer in (
            (spelled, Answer("a")),
            ("a", Answer(spelled)),
            ("a", Answer("a", question=spelled)),
        ):
            with pytest.raises(DataError, match=wanted):
                tiny.batch(model, [Dialogue((Turn(question, (answer,)),))])


@pytest.mark.parametrize("size", [(96, 96), (64, 160), (160, 64), (110, 75)])
def test_tokens_come_in_raster_order(model, size):
    check_locality(model, size)


@pytest.mark.parametrize(("family", "tiles"), TILED)
def test_tokens_of_tiles_come_in_raster_order(family, tiles, tmp_path):
    model = tiny.model(family, tmp_path, tiles=tiles)
    for size in ((96, 144), (144, 100)):
        check_locality(model, size)


@pytest.mark.parametrize("size", [(40, 80), (80, 40), (33, 47)])
def test_a_painted_square_lands_in_its_cells(model, size):
    """Views are the only way from pixels to cells: paint around a point, find it in the map."""
    views = model.processor.plan(size)
    h, w = model.processor.grid(views)
    x0, y0, x1, y1 = model.processor.canvas(views)
    background = tiny.image(0, size)
    half = [max(2, round(length / 2)) for length in ((y1 - y0) / h, (x1 - x0) / w)]
    pictures = [background]
    for cx, cy in (points := ((0.25, 0.25), (0.5, 0.75))):
        picture = background.copy()
        x, y = int(cx * size[1]), int(cy * size[0])
        square = np.s_[max(0, y - half[0]) : y + half[0], max(0, x - half[1]) : x + half[1]]
        picture[square] = 255 * (picture[square] < 128)
        pictures.append(picture)
    plain, *painted = seen(model, pictures, views)
    for (cx, cy), picture in zip(points, painted, strict=True):
        moved = (picture - plain).norm(dim=-1)  # [h, w]
        at = divmod(int(moved.argmax()), w)
        point = to_canvas(torch.tensor([[cx, cy]]), size, views)[0] * torch.tensor([w, h])
        assert abs(at[0] + 0.5 - float(point[1])) <= 1.01 and abs(at[1] + 0.5 - float(point[0])) <= 1.01


def test_canvas_of_the_map_holds_the_image(model):
    """The map covers the image; what it shows beyond is padding of less than half the canvas."""
    for size in ((96, 96), (50, 140), (333, 77)):
        x0, y0, x1, y1 = model.processor.canvas(model.processor.plan(size))
        h, w = model.processor.grid(model.processor.plan(size))
        slack_x, slack_y = (x1 - x0) / w, (y1 - y0) / h  # a family may cut padding by whole cells
        assert x0 <= slack_x and y0 <= slack_y and x1 >= size[1] - slack_x and y1 >= size[0] - slack_y


def test_forward_without_our_tokens_is_plain_hf(model):
    """Logits of HF's own forward pass, its own positions included."""
    pictures = [tiny.image(0), tiny.image(1, (64, 30))]
    for picture in pictures:
        dialogue = Dialogue((Turn("what is red", (Answer("a circle"),)),), image_attention="causal")
        b = tiny.batch(model, [dialogue], [picture])
        is_image = (b.ids == model.processor.image_id).long()
        with torch.no_grad():
            ours = model(b)
            # Models with three axes of positions find them from this mark; the others take no notice of it.
            marks = {"mm_token_type_ids": is_image} if len(b.positions) == 3 else {}
            hf = model.vlm.hf(input_ids=b.ids, attention_mask=torch.ones_like(b.ids), **b.pixels, **marks)
        assert torch.allclose(ours.logits(ours.hidden), hf.logits, atol=1e-4)


def test_placeholders_are_those_of_the_hugging_face_processor(model):
    """As many image tokens, in the same text around them, as HF's processor makes of the same tiles."""
    picture = tiny.image(2, (48, 48))
    b = tiny.batch(model, [Dialogue((Turn("what is red", (Answer("a circle"),)),), image_position="before")], [picture])
    views = b.views[0]
    assert int((b.ids == model.processor.image_id).sum()) == tokens_of(views) == (b.image_index >= 0).sum()


def test_text_only_rows_are_plain_language(model):
    """A row without image equals HF's forward on text, alone and beside a row that has one."""
    text = Dialogue((Turn("what is red", (Answer("a circle"),)),))
    b = model.processor.batch([text], [None], [(tiny.sample(None),)], True)
    assert not b.pixels and b.views == ((),) and len(b.image_index[0]) == 0
    mixed = model.processor.batch(
        [text, tiny.grid_dialogue(2)],
        [None, tiny.image(0)],
        [(tiny.sample(None),), (tiny.sample(tiny.image(0)),)],
        True,
    )
    with torch.no_grad():
        alone, beside = model(b), model(mixed)
        hf = model.vlm.hf(input_ids=b.ids, attention_mask=torch.ones_like(b.ids))
    assert alone.image_features[0].shape[:2] == (0, 0) == beside.image_features[0].shape[:2]
    assert torch.allclose(alone.logits(alone.hidden), hf.logits, atol=1e-4)
    length = alone.hidden.shape[1]
    assert torch.allclose(alone.hidden[0], beside.hidden[0, :length], atol=1e-5)


def test_points_without_an_image_are_refused(model):
    with pytest.raises(ModelError, match="need an image"):
        model.processor.batch([tiny.grid_dialogue(1)], [None], [(tiny.sample(None),)], True)


def test_cached_decoding_equals_teacher_forcing(model):
    """Parallel answers of two images of different size, written by the decode loop, against one pass over them."""
    generating.varied(model)
    grammars = [generating.GRAMMAR] * len(generating.ROWS)  # free text of a random model may say image placeholders
    _, generations = generating.run(model, generating.ROWS, grammars)
    assert len({text for g in generations for text in g.texts}) > 1
    for number, (dialogue, generation) in enumerate(zip(generating.ROWS, generations, strict=True)):
        generating.check_against_forward(model, dialogue, tiny.image(number), generation, free=False)


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


@pytest.mark.parametrize("section", [{}, {"language": "frozen", "projector": "full"}], ids=["lora", "frozen"])
def test_head_rows_of_new_tokens_train(model, section):
    tied = model.vlm.hf.get_output_embeddings().weight is model.vlm.hf.get_input_embeddings().weight
    table = "embed_tokens" if tied else "lm_head"
    lora.apply(model, _section(**section))
    model.train()
    hidden = torch.randn(1, model.vlm.hf.config.text_config.hidden_size)
    with torch.no_grad():
        before = model.vlm.logits(hidden).clone()
    optimizer = torch.optim.SGD([p for n, p in model.named_parameters() if p.requires_grad and table in n], lr=1.0)
    b = tiny.batch(model, [tiny.grid_dialogue(3)])
    _loss(model, b).backward()
    optimizer.step()
    with torch.no_grad():
        changed = (model.vlm.logits(hidden) != before)[0].nonzero().flatten().tolist()
    assert changed and set(changed) <= set(model.new_token_ids())
    ids = torch.tensor([*model.new_token_ids(), 5, 3])
    weight, bias = model.vlm.head_rows(ids)
    with torch.no_grad():
        mine = torch.nn.functional.linear(hidden, weight, bias)
        assert torch.allclose(mine, model.vlm.logits(hidden)[:, ids], atol=1e-5)


def test_vision_tower_has_no_lora(model):
    lora.apply(model, _section())
    adapters = [n for n, _ in model.vlm.hf.named_parameters() if "lora_" in n]
    assert adapters and all(model.vlm.part_of(n) == "language" for n in adapters)
    assert not any(name in n for n in adapters for name in ("vision", "visual"))


def _trained(model, tmp_path, **changes):
    """A run folder: adapter weights moved away from zero, as training would."""
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
    part = checkpoint.part(tmp_path / "run", 1)
    checkpoint.write(part, fresh, Trainable(fresh, {}).state_dict(), recipe, {"step": 1})
    checkpoint.complete(part, tmp_path / "run", 1, limit=1)
    return fresh


@pytest.mark.parametrize(
    "changes",
    [
        {"projector": "full", "train_tokens": "full"},
        {"language": "frozen", "projector": "full"},
        {"language": "full", "vision": "full", "projector": "full", "train_tokens": "full"},
    ],
    ids=["lora+projector+embeddings", "projector+new rows", "full"],
)
@pytest.mark.parametrize("kind", ["llava", "qwen_vl/qwen3_vl"])  # one untied, one tied
def test_whatever_trains_is_saved_and_merged(kind, changes, tmp_path):
    check_saved_and_merged(tiny.model(kind, tmp_path), tmp_path, changes)


def test_save_load_and_merge_keep_the_model(model, tmp_path):
    check_saved_and_merged(model, tmp_path, {})


def check_saved_and_merged(model, tmp_path, changes):
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
