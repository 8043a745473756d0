"""What every task promises, for each file of ufo_tune/tasks: truth goes into words and comes back."""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from tests.spoken import CELLS, CODECS, GRID, SIZE, WHOLE, WORDS, codec_name, encode, own_file, sample_of, spoken, words
from ufo_tune import plugins, resources, templates
from ufo_tune.core import answers, masks
from ufo_tune.core.boxes import iou
from ufo_tune.core.codec import Codec
from ufo_tune.core.types import Targets
from ufo_tune.errors import DataError, UfoTuneError
from ufo_tune.tasks._truth import boxes_inside

NAMES = plugins.names("tasks")
PHRASE = ("rec", "res")
TEXT = [n for n in NAMES if any(map(templates.load(plugins.find("tasks", n).TEMPLATE).asks, ("phrase", "question")))]
"""Tasks that are asked by the sample's own text."""
GARBAGE = (
    "", " ", "the cup", "cup", "cup,", ",", "<box>", "</box><box>", "cup,<box></box>", "cup,<box>1,2,3</box>",
    "cup,<box>1,2,3,4,5</box>", "cup,<box>a,b,c,d</box>", "cup,<box>1,2,3,99999</box>", "cup,<box>1,2,3,4",
    "<DEPTH>", "<DEPTH>" * 5, "<DEPTH>" * 13,
    "cup,<box>-1,2,3,4</box>", "cup,<MASK>", "dog,<box>1,2,3,4</box>", "<MASK>" * 5, "1e9" * 50, "\u00e9\n\0,<box>",
)  # fmt: skip


@pytest.fixture(params=CODECS, ids=codec_name)
def codec(request):
    return request.param


@pytest.fixture(params=NAMES)
def task(request):
    return plugins.find("tasks", request.param)


def name_of(task) -> str:
    return task.__name__.rpartition(".")[2]


def test_there_are_tasks():
    assert {"rec", "res", "caption", *WORDS, *GRID, *WHOLE} <= set(NAMES)
    assert set(TEXT) >= {"rec", "res", "vqa", "conversation"} and not {"caption", *GRID, *WHOLE} & set(TEXT)


def test_signatures(task):
    """Fixed arguments first, options by keyword only, each with a default: a recipe may leave them out."""
    for function, fixed in (("encode", 4), ("decode", 3)):
        parameters = list(inspect.signature(getattr(task, function)).parameters.values())
        assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in parameters[fixed:])
    assert templates.load(task.TEMPLATE).task == name_of(task)


def test_round_trip(task, codec):
    """decode(encode(truth), spoken perfectly) is the truth within one bin and one cell."""
    name = name_of(task)
    sample = sample_of(name)
    generation = spoken(encode(task, sample, codec), codec)
    found = task.decode(generation, sample, codec)
    assert found.invalid == 0
    if own := own_file(name):
        own.check(found, sample)
        return
    if name in WORDS:  # what a conversation points at: tests/unit/test_conversation.py
        assert found.text == WORDS[name]
        return
    truth = sample.targets
    if truth.label_map is not None:  # -1 is not scored: any class may be said there
        right = (found.label_map == truth.label_map)[truth.label_map >= 0]
        assert right.all() if codec.slot_side == 4 else right.mean() > 0.9
        assert found.label_map.shape == SIZE and found.label_map.dtype == np.int16 and (found.label_map >= 0).all()
        return
    if truth.depth is not None or truth.normals is not None:
        kind = "normals" if truth.depth is None else "depth"
        said, right = getattr(found, kind), getattr(truth, kind)
        assert said.dtype == np.float32 and said.shape == right.shape
        even = _even(right, step=SIZE[1] // (CELLS[1] * codec.slot_side))
        assert even.mean() > 0.25 and np.abs(said - right)[even].max() < 1e-3
        return
    best = [int(i) for i in iou(truth.boxes, found.boxes).argmax(1)]  # the prediction of each object
    assert len(set(best)) == len(truth.boxes)
    # A mask is given in sub-cells, so its edge may be half of one off; a box in bins.
    step = max(SIZE) / (codec.num_bins if found.masks is None else CELLS[1] * codec.slot_side)
    assert float((found.boxes[best] - truth.boxes).abs().max()) <= step
    if found.masks is not None:
        overlap = masks.iou(found.masks, truth.masks)
        assert all(float(overlap[b, i]) > 0.75 for i, b in enumerate(best))
        if codec.slot_side == 4:  # the rectangles lie on whole sub-cells
            assert all(float(overlap[b, i]) == 1 for i, b in enumerate(best))
    if name in GRID:
        assert torch.equal(found.labels[best], truth.labels)
        assert torch.equal(found.scores, found.scores.sort(descending=True).values)


def _even(values: np.ndarray, step: int) -> np.ndarray:
    """[H, W] where a map is the same for ``step`` pixels around: there interpolation of sub-cells changes nothing."""
    layers = values.reshape(*SIZE, -1)
    ends = [find(layers, (2 * step + 1, 2 * step + 1, 1)) for find in (ndimage.minimum_filter, ndimage.maximum_filter)]
    return (ends[0] == ends[1]).all(-1)


def test_encode_is_deterministic(task, codec):
    sample = sample_of(name_of(task))
    first, again = encode(task, sample, codec, 5), encode(task, sample, codec, 5)
    assert [t.question for t in first.turns] == [t.question for t in again.turns]
    for a, b in zip(first.turns[-1].answers, again.turns[-1].answers, strict=True):
        assert (a.text, a.point, a.question, len(a.slots)) == (b.text, b.point, b.question, len(b.slots))
        assert all(np.array_equal(x.target, y.target) for x, y in zip(a.slots, b.slots, strict=True))


def test_slots_are_spelled(task, codec):
    """The text of an answer holds exactly the tokens of its slots; the layout relies on it."""
    for answer in encode(task, sample_of(name_of(task)), codec).turns[-1].answers:
        kinds = [slot.kind for slot in answer.slots]
        for token, spelled in ((codec.mask_token, ("mask",)), (codec.depth_token, ("depth", "normal"))):
            assert (answer.text or "").count(token) == sum(k in spelled for k in kinds) * codec.slot_tokens
        assert all(slot.target.shape == SIZE for slot in answer.slots)
        assert all(slot.target.dtype == (bool if slot.kind == "mask" else np.float32) for slot in answer.slots)
        assert set(kinds) <= set(getattr(task, "SLOTS", ()))


def test_inference_needs_no_targets_and_leaves_answers_open(task, codec):
    sample = sample_of(name_of(task))
    blind = encode(task, sample.with_(targets=None), codec, None)
    seeing = encode(task, sample, codec, None)
    assert blind == seeing
    assert all(a.text is None and not a.slots for a in blind.turns[-1].answers)


def test_training_without_targets_is_refused(task, codec):
    with pytest.raises(DataError, match="#0: .*targets"):
        encode(task, sample_of(name_of(task)).with_(targets=None), codec)


def test_answers_are_what_the_grammar_gives(task, codec):
    if not hasattr(task, "grammar"):
        return
    sample, template = sample_of(name_of(task)), templates.load(task.TEMPLATE)
    for seed in range(8):
        dialogue = encode(task, sample, codec, seed)
        for grammar in (task.grammar(sample, codec), task.grammar(sample, codec, template)):
            for answer in dialogue.turns[-1].answers if grammar is not None else ():
                assert answers.matches(grammar, answer.text, codec), answer.text


def test_malformed_text_never_raises(task, codec):
    grid = name_of(task) in GRID
    sample = sample_of(name_of(task))
    for texts in [list(GARBAGE)] if grid else [[t] for t in GARBAGE]:
        found = task.decode(words(texts, codec, grid), sample, codec)
        assert found.invalid <= len(texts)
        assert bool(torch.isfinite(found.boxes).all()) and bool(torch.isfinite(found.scores).all())


@pytest.mark.parametrize(
    ("name", "text", "invalid"),
    [
        ("rec", "no box here", 1),
        ("rec", "<box>1,2,3</box>", 1),
        ("rec", "It is <box> 1, 2,30 ,40 </box>.", 0),
        ("res", "It is <MASK><MASK><MASK>.", 1),
        ("res", "no mask", 1),
        ("res", "<MASK><MASK><MASK><MASK><MASK>", 0),
        ("depth", "far away", 1),
        ("depth", "<DEPTH><DEPTH><DEPTH>", 1),
        ("depth", "<MASK><MASK><MASK><MASK>", 1),
        ("depth", "<DEPTH><DEPTH><DEPTH><DEPTH><DEPTH>", 0),
        ("normals", "<DEPTH>" * 11, 1),
        ("normals", "<DEPTH>" * 12, 0),
        ("rec", "There is no such object.", 0),
        ("res", " there is NO such object", 0),
        ("conversation", "only words", 0),
        ("conversation", "<MASK><MASK> <MASK><MASK> at <box>1, 2, 30,40</box>.", 0),
        ("conversation", "<box>1,2,3</box>", 1),
        ("conversation", "</box> it is", 1),
        ("conversation", "<MASK><MASK><MASK>", 1),
        ("conversation", "<DEPTH>", 1),
        ("detection", "background", 0),
        ("detection", "", 1),
        ("detection", " CUP ,<box>1,2,30,40</box>", 0),
        ("detection", "cap,<box>1,2,30,40</box>", 1),
        ("detection", "cup,<MASK><MASK><MASK><MASK>", 1),
        ("instance_segmentation", "background", 0),
        ("instance_segmentation", "dining Table,<MASK><MASK><MASK><MASK>", 0),
        ("instance_segmentation", "cup,<MASK><MASK><MASK>", 1),
        ("instance_segmentation", "cup,<MASK><MASK><MASK><MASK><MASK>", 1),
        ("instance_segmentation", "cup,<box>1,2,30,40</box>", 1),
        ("semantic_segmentation", "dining Table,<MASK><MASK><MASK><MASK>", 0),
        ("semantic_segmentation", "cup,<MASK><MASK><MASK>", 1),
        ("semantic_segmentation", "cap,<MASK><MASK><MASK><MASK>", 1),
    ],
)
def test_what_is_invalid(name, text, invalid):
    codec = Codec(num_bins=100, slot_side=2)
    sample = sample_of(name)
    found = plugins.find("tasks", name).decode(words([text], codec, name in GRID), sample, codec)
    assert found.invalid == invalid
    if invalid and name in PHRASE:
        assert found.boxes.tolist() == [[0, 0, 0, 0]]
        assert found.masks is None or masks.area(found.masks).tolist() == [0]


@pytest.mark.parametrize(
    ("name", "text", "says", "boxes"),
    [
        ("rec", "It is <box>1,2,30,40</box>.", "It is <bbox>.", 1),
        ("rec", "<box>1,2</box><box>1,2,30,40</box><box>2,2,3,4</box>", "<bbox><bbox>", 2),  # what can be read
        ("rec", "<box>1,2,3</box>", "", 1),
        ("rec", "There is no such object.", "There is no such object.", 0),
        ("res", "It is <MASK><MASK><MASK><MASK>.", "It is <mask>.", 1),
        ("depth", "<DEPTH><DEPTH><DEPTH><DEPTH>", "", 0),
        ("normals", "<DEPTH>" * 12, "", 0),
    ],
)
def test_words_hold_placeholders_and_no_bins(name, text, says, boxes):
    codec = Codec(num_bins=100, slot_side=2)
    found = plugins.find("tasks", name).decode(words([text], codec, False), sample_of(name), codec)
    assert found.text == says and len(found.boxes) == boxes


@pytest.mark.parametrize("name", [n for n in TEXT if f"scenes_{n}" in resources.names("data_templates")])
def test_packing_puts_the_question_into_the_answer(name, codec):
    task, sample = plugins.find("tasks", name), sample_of(name)
    for seed in (0, None):
        before = encode(task, sample, codec, seed, "scenes_" + name)
        assert before.image_position == "before" and before.turns[0].question == ""
        assert "the left cup" in before.turns[0].answers[0].question
    if name in PHRASE:
        after = encode(task, sample, codec)
        assert after.image_position == "after" and after.turns[0].answers[0].question is None
        assert after.turns[0].answers[0].phrase == "the left cup"


@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize(("text", "says"), [("", "is empty"), (" \n", "is empty"), ("a <MASK> b", "token <MASK>")])
def test_text_that_cannot_be_asked(name, codec, text, says):
    for seed in (0, None):
        with pytest.raises(DataError, match=f"^made/{name}#0: the (phrase|question) .*{says}"):
            encode(plugins.find("tasks", name), sample_of(name).with_(text=text), codec, seed)


def test_caption_asks_its_own_question(codec):
    caption, sample = plugins.find("tasks", "caption"), sample_of("caption")
    for name in ("caption", "scenes_caption"):
        (answer,) = encode(caption, sample, codec, None, name).turns[0].answers
        assert answer.question == templates.load(name).eval_question
    said = Targets(text="a cat", references=("a cat", "one cat"))
    drawn = {encode(caption, sample.with_(targets=said), codec, seed).turns[0].answers[0].text for seed in range(20)}
    assert drawn == {"a cat", "one cat"}
    for text, says in (("", "the caption is empty"), ("a <box>", "the caption spells the token <box>")):
        with pytest.raises(DataError, match=f"^made/caption#0: {says}"):
            encode(caption, sample.with_(targets=Targets(text=text)), codec)


@pytest.mark.parametrize("name", ["rec", "detection"])
@pytest.mark.parametrize(
    "box", [[-20.0, 0, 10, 10], [10, 10, 70, 20], [30, 10, 20, 20], [float("nan"), 0, 1, 1], [0, 0, 5, float("inf")]]
)
def test_box_outside_the_image(name, codec, box):
    sample = sample_of(name)
    boxes = sample.targets.boxes.clone()
    boxes[-1] = torch.tensor(box)
    with pytest.raises(DataError, match=rf"box {len(boxes) - 1} does not lie in the image of 64 x 48 pixels \(got \["):
        encode(plugins.find("tasks", name), sample.with_(targets=replace(sample.targets, boxes=boxes)), codec)


def test_a_box_may_leave_the_image_by_a_pixel_and_is_cut():
    sample = sample_of("rec")
    for number, limit in enumerate((-1.0, -1.0, 65.0, 49.0)):  # the image is 64 x 48
        box = torch.tensor([[20.0, 20.0, 30.0, 30.0]])
        box[0, number] = limit
        found = boxes_inside(sample.with_(targets=replace(sample.targets, boxes=box)))
        assert found[0, number] == (0, 0, 64, 48)[number] and (found == box).sum() == 3
        box[0, number] += 0.1 if number > 1 else -0.1
        with pytest.raises(DataError, match="box 0 does not lie in the image"):
            boxes_inside(sample.with_(targets=replace(sample.targets, boxes=box)))


@pytest.mark.parametrize("name", ["res", "instance_segmentation"])
def test_masks_that_do_not_fit(name, codec):
    task, sample = plugins.find("tasks", name), sample_of(name)
    with pytest.raises(DataError, match="has no masks"):
        encode(task, sample.with_(targets=replace(sample.targets, masks=None)), codec)
    with pytest.raises(DataError, match=r"mask 0 is \(48, 64\) but the image is \(64, 48\)"):
        encode(task, sample.with_(size=(64, 48)), codec)


@pytest.mark.parametrize("name", WHOLE)
def test_maps_that_do_not_fit(name, codec):
    task, sample = plugins.find("tasks", name), sample_of(name)
    with pytest.raises(DataError, match="made/.*#0: has no (depth map|map of normals)"):
        encode(task, sample.with_(targets=Targets()), codec)
    with pytest.raises(DataError, match=r"is \(48, 64\) but the image is \(64, 48\)"):
        encode(task, sample.with_(size=(64, 48)), codec)


@pytest.mark.parametrize("name", PHRASE)
def test_phrase_names_one_object(name, codec):
    for count in (0, 2):
        truth = sample_of("detection", count).targets
        with pytest.raises(UfoTuneError, match=rf"one object \(got {count} targets\)"):
            encode(plugins.find("tasks", name), sample_of(name).with_(targets=truth), codec)
