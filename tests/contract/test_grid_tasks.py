"""What the grid tasks promise: which points speak, of what, and what is made of many answers at once."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.spoken import CELLS, CLASSES, CODECS, GRID, OBJECTS, SIZE, codec_name, encode, sample_of, spoken, words
from ufo_tune import plugins
from ufo_tune.core import masks
from ufo_tune.core.codec import Codec
from ufo_tune.core.types import View
from ufo_tune.errors import ConfigError, DataError


@pytest.fixture(params=CODECS, ids=codec_name)
def codec(request):
    return request.param


@pytest.fixture(params=OBJECTS)
def name(request):
    return request.param


@pytest.fixture(params=GRID)
def any_name(request):
    """Of the grid tasks whose answers are no single objects, too."""
    return request.param


def test_repeated_objects_are_one_after_nms(name):
    """Three points speak of each object; what the first says stays at its score, the others fall behind."""
    task, codec = plugins.find("tasks", name), Codec(num_bins=256)
    sample = sample_of(name)
    found = task.decode(spoken(encode(task, sample, codec), codec), sample, codec)
    assert len(found.scores) <= 9
    assert float(found.scores[:3].min()) == pytest.approx(0.9, abs=0.01)  # mask edges are interpolated
    assert float(found.scores[3:].max() if len(found.scores) > 3 else 0) < 0.2
    assert sorted(found.labels[:3].tolist()) == [0, 1, 2]


def test_first_token_gives_the_score():
    codec, sample = Codec(num_bins=100), sample_of("detection")
    texts = ["cup,<box>0,0,20,20</box>", "cat,<box>50,50,90,90</box>", "background"]
    generation = words(texts, codec, True)
    generation.scores[:, 0] = torch.tensor([0.3, 0.8, 0.99])
    generation.scores[:, 1:] = 0.01
    found = plugins.find("tasks", "detection").decode(generation, sample, codec)
    assert found.scores.tolist() == pytest.approx([0.8, 0.3])
    assert found.labels.tolist() == [2, 0]
    h, w = SIZE
    assert found.boxes[0].tolist() == pytest.approx([0.5 * w, 0.5 * h, 0.9 * w, 0.9 * h])
    most = plugins.find("tasks", "detection").decode(generation, sample, codec, max_per_image=1)
    assert most.labels.tolist() == [2]


@pytest.mark.parametrize(
    ("options", "scores"),
    [
        ({}, [0.8, 0.6]),  # up to an IoU of 0.5 nothing is lost, as in mmcv
        ({"iou_threshold": 0.4}, [0.8, 0.6]),
        ({"iou_threshold": 0.3}, [0.8, 0.4]),
        ({"iou_threshold": 0.3, "min_score": 0.5}, [0.8]),
        ({"min_score": 0.7}, [0.8]),
    ],
)
def test_options_of_detection_reach_its_nms(options, scores):
    """Two cups that share a third of their union: the worse one keeps two thirds of its 0.6 where that is too much."""
    generation = words(["cup,<box>0,0,40,40</box>", "cup,<box>20,0,60,40</box>"], Codec(num_bins=100), True)
    generation.scores[:, 0] = torch.tensor([0.8, 0.6])
    task, sample = plugins.find("tasks", "detection"), sample_of("detection")
    found = task.decode(generation, sample, Codec(num_bins=100), **options)
    assert found.scores.tolist() == pytest.approx(scores)


@pytest.mark.parametrize(
    ("options", "scores"),
    [
        ({}, [0.8, 0.6 * math.exp(-2)]),
        ({"sigma": 0.5}, [0.8, 0.6 * math.exp(-0.5)]),
        ({"sigma": 0.0}, [0.8, 0.6]),
        ({"sigma": 0.0, "min_score": 0.7}, [0.8]),
        ({"sigma": 0.0, "max_per_image": 1}, [0.8]),
    ],
)
def test_options_of_instances_reach_their_nms(options, scores):
    """Two cups on the same pixels, each sure of all of them: matrix-NMS lowers the worse one by exp(-sigma)."""
    codec = Codec(num_bins=100, slot_side=1)
    generation = words(["cup,<MASK>"] * 2, codec, True)
    generation.scores[:, 0] = torch.tensor([0.8, 0.6])
    h, w = CELLS
    generation.image_features = torch.eye(h * w).reshape(h, w, h * w)
    generation.hidden = torch.zeros(2, 3, h * w)
    generation.hidden[:, 2] = 40 * math.sqrt(h * w)
    generation.views = (View((0.0, 0.0, float(w), float(h)), CELLS),)
    sample = sample_of("instance_segmentation").with_(size=CELLS, targets=None)
    found = plugins.find("tasks", "instance_segmentation").decode(generation, sample, codec, **options)
    assert found.scores.tolist() == pytest.approx(scores)


@pytest.mark.parametrize(
    ("name", "text", "certainty"), [("instance_segmentation", "cup,<MASK>", 0.8), ("res", "it,<MASK>", 0.2 ** (1 / 3))]
)
def test_mask_score_is_the_mean_inside(name, text, certainty):
    """Tokens .8, .5, .5: the first's, or the mean. Logits of +-2 on half of the image: sigmoid(2) inside on average."""
    codec = Codec(num_bins=100, slot_side=1)
    generation = words([text], codec, name in GRID)
    generation.scores[:, 0] = 0.8
    h, w = CELLS
    generation.image_features = torch.eye(h * w).reshape(h, w, h * w)
    logit = torch.full(CELLS, -2.0)
    logit[:, : w // 2] = 2.0
    generation.hidden = torch.zeros(1, 3, h * w)
    generation.hidden[0, 2] = logit.flatten() * math.sqrt(h * w)
    # Views of one pixel a cell: nothing is interpolated.
    generation.views = (View((0.0, 0.0, float(w), float(h)), CELLS),)
    sample = sample_of(name).with_(size=CELLS, targets=None)
    found = plugins.find("tasks", name).decode(generation, sample, codec)
    assert found.scores.tolist() == pytest.approx([certainty / (1 + math.exp(-2))])
    assert found.boxes.tolist() == [[0, 0, w // 2, h]]


def test_no_object(name, codec):
    task, sample = plugins.find("tasks", name), sample_of(name, 0)
    dialogue = encode(task, sample, codec)
    assert {a.text for a in dialogue.turns[0].answers} == {"background" if codec.negative == "background" else ""}
    found = task.decode(spoken(dialogue, codec), sample, codec)
    assert (len(found.boxes), len(found.scores), len(found.labels), found.invalid) == (0, 0, 0, 0)
    assert found.masks is None or found.masks == ()


def test_more_objects_than_points(name, codec):
    task, sample = plugins.find("tasks", name), sample_of(name, 6)
    dialogue = encode(task, sample, codec, rows=1, cols=2)
    said = dialogue.turns[0].answers
    assert len(said) == 2 and all("<" in a.text for a in said)
    assert len(task.decode(spoken(dialogue, codec), sample, codec).boxes) == 2


def test_one_answer_per_point_at_inference(any_name, codec):
    dialogue = encode(plugins.find("tasks", any_name), sample_of(any_name), codec, None, rows=2, cols=3)
    said = dialogue.turns[0].answers
    expected = [((j + 0.5) / 3, (i + 0.5) / 2) for i in range(2) for j in range(3)]
    assert np.allclose([a.point for a in said], expected)
    assert all(name in dialogue.turns[0].question for name in CLASSES)


def test_kept_points(name, codec):
    task, sample = plugins.find("tasks", name), sample_of(name)
    for keep, speaks in ((20, 6), (4, 4)):
        said = encode(task, sample, codec, keep=keep, repeat=2).turns[0].answers
        assert len(said) == keep and len({a.point for a in said}) == keep
        assert sum("<" in a.text for a in said) == speaks


def test_points_of_masks_lie_on_them(any_name, codec):
    task, sample = plugins.find("tasks", any_name), sample_of(any_name)
    for answer in encode(task, sample, codec, repeat=1, rows=20, cols=20).turns[0].answers:
        for slot in answer.slots:
            assert slot.target[int(answer.point[1] * SIZE[0]), int(answer.point[0] * SIZE[1])]


def test_sampled_classes(name, codec):
    task = plugins.find("tasks", name)
    names = tuple(f"class {i:02}" for i in range(50))
    sample = sample_of(name, 2).with_(classes=names)
    seen = set()
    for seed in range(6):
        dialogue = encode(task, sample, codec, seed, "scenes_" + name, sample_prob=1.0, absent=3)
        listed = dialogue.turns[0].question.partition(" ")[2].split(",")
        assert len(listed) == len(set(listed)) == 8 and set(listed) <= set(names)  # 2 present + 3 x 2
        assert {"class 00", "class 01"} <= set(listed)
        seen.add(tuple(listed))
    assert len(seen) == 6
    full = encode(task, sample, codec, 0, "scenes_" + name, sample_prob=0.0).turns[0].question
    assert full.partition(" ")[2] == ",".join(names)
    for absent, wanted in ((0, 1), (2, 2)):  # without a class that is there, so many others as beside one
        nobody = encode(task, sample_of(name, 0).with_(classes=names), codec, 0, sample_prob=1.0, absent=absent)
        assert nobody.turns[0].question.count("class ") == wanted


def test_only_classes_that_somebody_looked_for_are_asked_in_vain(name, codec):
    """Of cup (there), table and cat somebody looked for the cat, and for what is no class here."""
    task, sample = plugins.find("tasks", name), sample_of(name, 1).with_(absent=(" cat", "dog"))

    def asked(**options):
        return encode(task, sample, codec, 0, "scenes_" + name, **options).turns[0].question.partition(" ")[2]

    assert set(asked().split(",")) == {"Cup", "cat"}
    assert asked(negatives="any") == ",".join(CLASSES)
    with pytest.raises(ConfigError, match=r"negatives is unknown \(got 'all'\)"):
        asked(negatives="all")


def test_crowds_are_neither_objects_nor_background(name, codec):
    task, sample = plugins.find("tasks", name), sample_of(name, 2)
    sample = sample.with_(targets=replace(sample.targets, crowd=torch.tensor([False, True])))
    said = encode(task, sample, codec, keep=100).turns[0].answers
    assert {a.text.partition(",")[0] for a in said if "<" in a.text} == {"Cup"}
    x0, y0, x1, y1 = sample.targets.boxes[1].tolist()
    at = [(a.point[0] * SIZE[1], a.point[1] * SIZE[0]) for a in said]
    assert len(said) < 100 and not any(x0 < x < x1 and y0 < y < y1 for x, y in at)


def test_a_crowd_without_a_mask_is_its_box_and_ignored_pixels_are_not_background(codec):
    task, sample = plugins.find("tasks", "detection"), sample_of("detection", 3)
    ignored = np.zeros(SIZE, dtype=bool)
    ignored[30:, 40:] = True
    crowd = torch.tensor([False, True, True])
    sample = sample.with_(targets=replace(sample.targets, masks=None, crowd=crowd, ignore=masks.encode(ignored)))
    said = encode(task, sample, codec, keep=400, rows=20, cols=20, repeat=1).turns[0].answers

    def hidden(x, y):
        boxes = sample.targets.boxes[1:].tolist()
        return any(x0 <= x <= x1 and y0 <= y <= y1 for x0, y0, x1, y1 in boxes) or ignored[int(y), int(x)]

    every = [((c + 0.5) / 20, (r + 0.5) / 20) for r in range(20) for c in range(20)]
    wanted = [(x, y) for x, y in every if not hidden(x * SIZE[1], y * SIZE[0])]
    assert [a.point for a in said] == [pytest.approx(p) for p in wanted]


def test_the_point_that_speaks_is_the_nearest_in_shares_of_an_oblong_image(codec):
    sample = sample_of("detection", 1)
    sample = sample.with_(targets=replace(sample.targets, boxes=torch.tensor([[36.0, 26.0, 44.0, 34.0]])))
    said = encode(plugins.find("tasks", "detection"), sample, codec, keep=1, rows=20, cols=20, repeat=1)
    assert said.turns[0].answers[0].point == pytest.approx((40 / 64, 30 / 48))  # a cell's centre: 12.5 / 20


def test_an_object_without_a_pixel_is_not_spoken_of(codec):
    sample = sample_of("instance_segmentation", 2)
    empty = masks.encode(np.zeros(SIZE, dtype=bool))
    sample = sample.with_(targets=replace(sample.targets, masks=(sample.targets.masks[0], empty)))
    said = encode(plugins.find("tasks", "instance_segmentation"), sample, codec, keep=100).turns[0].answers
    assert {a.text.partition(",")[0] for a in said if "<" in a.text} == {"Cup"}


def test_names_as_written_come_before_names_in_another_case():
    box, sample = "<box>0,0,20,20</box>", sample_of("detection").with_(classes=("cup", "Cup ", "cat"), targets=None)
    texts = [f"Cup,{box}", f"cup,{box}", f"CUP,{box}", " Background ", f"dog,{box}"]
    codec = Codec(num_bins=100)
    found = plugins.find("tasks", "detection").decode(words(texts, codec, True), sample, codec, iou_threshold=1.0)
    assert found.labels.tolist() == [1, 0, 0] and found.invalid == 1


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        ((), "has no classes"),
        (("cup, big", "b", "c"), r"comma.*\(got 'cup, big'\)"),
        (("cup", " ", "c"), "empty"),
        (("cup", "cat", "cup "), "listed twice.*'cup'"),
        (("cup", "a<MASK>b", "c"), "spells the token <MASK>"),
    ],
)
def test_bad_class_names(any_name, codec, classes, says):
    for seed in (0, None):
        with pytest.raises(DataError, match=f"^made/{any_name}#0: .*{says}"):
            encode(plugins.find("tasks", any_name), sample_of(any_name).with_(classes=classes), codec, seed)


def test_class_that_means_nothing(name):
    sample = sample_of(name).with_(classes=("cup", "Background", "cat"))
    with pytest.raises(DataError, match="'Background'"):
        encode(plugins.find("tasks", name), sample, Codec())
    encode(plugins.find("tasks", name), sample, Codec(negative="end"))


def test_unknown_class(name, codec):
    sample = sample_of(name)
    sample = sample.with_(targets=replace(sample.targets, labels=torch.tensor([0, 3, 1])))
    with pytest.raises(DataError, match=r"object 1 is of an unknown class \(got 3\); use 0..2"):
        encode(plugins.find("tasks", name), sample, codec)


@pytest.mark.parametrize("option", [{"rows": 0}, {"keep": 0}, {"repeat": 1.5}, {"sample_prob": 2}, {"absent": -1}])
def test_bad_option(any_name, codec, option):
    with pytest.raises(ConfigError, match=next(iter(option))):
        encode(plugins.find("tasks", any_name), sample_of(any_name), codec, **option)


def test_template_with_other_answers(any_name, codec, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(f'task: {any_name}\nquestions: ["a"]\neval_question: "a"\nanswers: ["there: {{label}}"]\n')
    with pytest.raises(ConfigError, match="template mine: the answers of .* are fixed"):
        encode(plugins.find("tasks", any_name), sample_of(any_name), codec, None, str(file))


def test_full_size_masks_are_held_a_few_at_a_time(monkeypatch):
    task, codec = plugins.find("tasks", "instance_segmentation"), Codec(slot_side=2)
    sample = sample_of("instance_segmentation")
    generation = spoken(encode(task, sample, codec), codec)
    whole = task.decode(generation, sample, codec)
    most = []
    original = task.crop_logits

    def counting(logits, *args):
        most.append(len(logits))
        return original(logits, *args)

    monkeypatch.setattr(task, "_CHUNK_PIXELS", 2 * SIZE[0] * SIZE[1])
    monkeypatch.setattr(task, "crop_logits", counting)
    parts = task.decode(generation, sample, codec)
    assert max(most) == 2 and sum(most) == 9
    assert parts.masks == whole.masks and torch.equal(parts.scores, whole.scores)
