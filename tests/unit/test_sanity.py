"""Sanity: models that are wrong in one known way are told so, and a perfect one is not."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ufo_tune import plugins
from ufo_tune.core import answers, masks
from ufo_tune.core.boxes import xyxy_to_cxcywh
from ufo_tune.core.codec import Codec
from ufo_tune.core.types import Generation, Prediction, Sample, Targets
from ufo_tune.data.open import open_dataset
from ufo_tune.engine import sanity
from ufo_tune.engine.baseline import About, Constant, about, perfect
from ufo_tune.engine.predictions import Case, from_row, to_row

CODEC = Codec()
N = 24
Spoil = Callable[[Sample], Prediction]


def scenes(task: str) -> list[Sample]:
    """Some of the synthetic scenes, with their truth."""
    samples = open_dataset("scenes", "", "val", task, {})
    return [samples[i * 5] for i in range(N)]


def case(sample: Sample, prediction: Prediction, texts: Sequence[str] = ("x",), codec: Codec = CODEC) -> Case:
    """As the evaluator reads it back from the disk."""
    row = json.loads(json.dumps(to_row(sample, prediction, texts, codec)))
    return Case(sample, from_row(row), row["said"], row["malformed"], tuple(row.get("answers", ())))


def looked(cases: Sequence[Case], metric: str, codec: Codec = CODEC, **options: object) -> dict[str, sanity.Line]:
    """All lines by name."""
    build = plugins.find("metrics", metric).Metric
    constant = Constant.of([about(c.sample) for c in cases])
    totals = build(**options), build(**options), build(**options)
    for c in cases:
        for total, said in zip(totals, (c.prediction, constant.prediction(c.sample), perfect(c.sample)), strict=True):
            total.update(c.sample, said)
    name, ours = next(iter(totals[0].compute().items()))
    others = {k: t.compute()[name] for k, t in zip(("constant", "truth"), totals[1:], strict=True)}
    lines = sanity.answer_lines([sanity.facts(c, codec) for c in cases])
    lines += sanity.constant_line(name, ours=ours, n=len(cases), **others)
    assert len({line.name for line in lines}) == len(lines)
    return {line.name: line for line in lines}


def warned(lines: dict[str, sanity.Line]) -> set[str]:
    return {line.name for line in sanity.warnings(lines.values())}


# -- boxes in words: what a model writes in one convention, read by the task in another ------------------------------


def spoken(sample: Sample, text: str, codec: Codec) -> Case:
    """A whole answer in words, understood by the task itself."""
    zero = torch.zeros(1, 1)
    one = Generation((text,), zero.long(), zero + 1, zero[..., None], zero[..., None], (), (None,), 900, 901)
    return case(sample, plugins.find("tasks", "rec").decode(one, sample, codec), (text,), codec)


def rec(write: Callable[[Sample], str], codec: Codec = CODEC) -> dict[str, sanity.Line]:
    return looked([spoken(s, write(s), codec) for s in scenes("rec")], "rec_accuracy", codec)


def bins(sample: Sample, box_format: str, **changes: object) -> list[int]:
    codec = replace(CODEC, box_format=box_format, **changes)
    return codec.encode_boxes(sample.targets.boxes, sample.size)[0].tolist()


@pytest.mark.parametrize("codec", [CODEC, replace(CODEC, box_format="cxcywh")])
def test_perfect_boxes_are_not_suspicious(codec: Codec) -> None:
    lines = rec(lambda s: answers.box(bins(s, codec.box_format), codec), codec)
    assert not warned(lines)
    assert "the truth itself 1.000" in lines["constant answer"].says
    assert lines["constant answer"].value < 0.7


@pytest.mark.parametrize(("written", "read"), [("cxcywh", "xyxy"), ("xyxy", "cxcywh"), ("xyxy", "cxcywh_local")])
def test_boxes_in_another_format(written: str, read: str) -> None:
    codec = replace(CODEC, box_format=read)
    line = rec(lambda s: answers.box(bins(s, written), codec), codec)["boxes in another convention"]
    assert line.warning and f"read as {written}: wrong convention?" in line.says
    assert line.value > 0.97


def test_corners_with_y_first_width_and_height_and_pixels() -> None:
    def y_first(s: Sample) -> str:
        x0, y0, x1, y1 = bins(s, "xyxy")
        return answers.box([y0, x0, y1, x1], CODEC)

    def sides(s: Sample) -> str:
        x0, y0, x1, y1 = bins(s, "xyxy")
        return answers.box([x0, y0, x1 - x0, y1 - y0], CODEC)

    def pixels(s: Sample) -> str:
        return answers.box([int(v) for v in s.targets.boxes[0].round()], CODEC)

    for write, name in ((y_first, "yxyx"), (sides, "xywh"), (pixels, "pixels")):
        line = rec(write)["boxes in another convention"]
        assert line.warning and f"read as {name}: wrong" in line.says, (name, line)


def test_numbers_from_0_to_1_and_of_more_bins_leave_the_range() -> None:
    def unit(s: Sample) -> str:
        return "<box>" + ",".join(f"{v / 1000:.3f}" for v in bins(s, "xyxy")) + "</box>"

    lines = rec(unit)
    assert {"unreadable answers", "out of range or torn", "constant answer"} <= warned(lines)
    assert lines["out of range or torn"].value == lines["unreadable answers"].value == 1.0
    lines = rec(lambda s: answers.box(bins(s, "xyxy", num_bins=1792), CODEC))
    assert "out of range or torn" in warned(lines) and 0 < lines["out of range or torn"].value < 1


def test_one_answer_to_everything() -> None:
    lines = rec(lambda s: "<box>250,250,750,750</box>")
    assert lines["commonest answer"].value == 1.0 and lines["commonest answer"].warning
    assert "boxes in another convention" not in warned(lines)


# -- many objects ----------------------------------------------------------------------------------------------------


def grid(spoil: Spoil, **options: object) -> dict[str, sanity.Line]:
    task = "instance_segmentation" if options.get("iou_type") == "segm" else "detection"
    return looked([case(s, spoil(s)) for s in scenes(task)], "coco_ap", **options)


def shifted(step: int) -> Spoil:
    def spoil(s: Sample) -> Prediction:
        return replace(perfect(s), labels=(s.targets.labels + step) % len(s.classes))

    return spoil


@pytest.mark.parametrize("options", [{}, {"iou_type": "segm"}])
def test_perfect_detections_are_not_suspicious(options: dict[str, object]) -> None:
    lines = grid(lambda s: replace(perfect(s), masks=perfect(s).masks if options else None), **options)
    assert not warned(lines)
    assert ("boxes without area" in lines) == ("boxes in another convention" in lines) == (not options)
    assert lines["called by their name"].value == 1.0


@pytest.mark.parametrize(("step", "reading"), [(1, "one lower"), (-1, "one higher")])
def test_class_names_shifted_by_one(step: int, reading: str) -> None:
    lines = grid(shifted(step))
    assert {"classes in another convention", "called by their name"} <= warned(lines)
    assert f"by 0.00 read as given; by 1.00 read as {reading}: wrong" in lines["classes in another convention"].says
    assert lines["called by their name"].value == 0.0
    # The tell in COCO's own terms: as boxes without classes they are perfect.
    build = plugins.find("metrics", "coco_ap").Metric
    named, nameless = build(), build(class_agnostic=True)
    for s in scenes("detection"):
        for metric in (named, nameless):
            metric.update(s, shifted(step)(s))
    assert nameless.compute()["AP50"] == pytest.approx(1) and named.compute()["AP50"] < 0.2


def test_detected_boxes_in_another_format() -> None:
    def as_centres(s: Sample) -> Prediction:
        raw = replace(CODEC, box_format="cxcywh").encode_boxes(s.targets.boxes, s.size)
        return replace(perfect(s), masks=None, boxes=CODEC.decode_boxes(raw, s.size))

    lines = grid(as_centres)
    assert "boxes without area" in warned(lines)  # the width is less than the centre's x


def turned(bitmap: np.ndarray) -> np.ndarray:
    """Transposed, and stretched to the image again."""
    height, width = bitmap.shape
    return np.asarray(Image.fromarray(bitmap.T).resize((width, height), Image.Resampling.NEAREST))


@pytest.mark.parametrize(
    ("change", "name"), [(turned, "transposed"), (np.fliplr, "mirrored"), (np.flipud, "upside down")]
)
@pytest.mark.parametrize("task", ["res", "instance_segmentation"])
def test_masks_the_wrong_way_round(task: str, change: Callable[[np.ndarray], np.ndarray], name: str) -> None:
    def spoil(s: Sample) -> Prediction:
        moved = np.stack([change(bitmap) for bitmap in masks.decode_many(s.targets.masks)])
        rles = masks.encode_many(moved)
        return replace(perfect(s), masks=rles, boxes=masks.boxes_of(rles))

    cases = [case(s, spoil(s)) for s in scenes(task)]
    metric, options = ("seg_iou", {}) if task == "res" else ("coco_ap", {"iou_type": "segm"})
    line = looked(cases, metric, **options)["maps in another convention"]
    assert line.warning and f"{name}: wrong convention?" in line.says
    assert line.value > 0.95


def test_perfect_masks_are_not_suspicious() -> None:
    assert not warned(looked([case(s, perfect(s)) for s in scenes("res")], "seg_iou"))


def test_masks_of_a_picture_that_is_not_square() -> None:
    bitmaps = np.zeros((N, 40, 100), dtype=bool)
    for i in range(N):
        bitmaps[i, 2 : 10 + i % 7, 60 + i : 90] = True
    samples = [
        Sample(None, (40, 100), "res", targets=Targets(masks.boxes_of(m), m, torch.zeros(1).long()), source=f"m#{i}")
        for i, m in enumerate(masks.encode_many(b[None]) for b in bitmaps)
    ]
    cases = [
        case(s, replace(perfect(s), masks=masks.encode_many(turned(b)[None])))
        for s, b in zip(samples, bitmaps, strict=True)
    ]
    line = looked(cases, "seg_iou")["maps in another convention"]
    assert line.warning and "transposed: wrong" in line.says


# -- maps and words --------------------------------------------------------------------------------------------------


def test_label_maps() -> None:
    rng = np.random.default_rng(0)
    classes = ("sky", "tree", "road", "house")
    truths = [np.repeat(np.repeat(rng.integers(0, 4, (4, 6)), 8, 0), 8, 1).astype(np.int16) for _ in range(N)]
    samples = [
        Sample(None, (32, 48), "semantic_segmentation", classes=classes, targets=Targets(label_map=m), source=f"m#{i}")
        for i, m in enumerate(truths)
    ]

    def lines(change: Callable[[np.ndarray], np.ndarray]) -> list[sanity.Line]:
        return sanity.answer_lines(
            [sanity.facts(case(s, Prediction(label_map=change(s.targets.label_map))), CODEC) for s in samples]
        )

    assert not sanity.warnings(lines(lambda m: m))
    (line,) = [line for line in sanity.warnings(lines(lambda m: (m + 1) % 4)) if line.name.startswith("classes")]
    assert "by 0.00 read as given; by 1.00 read as one lower: wrong" in line.says
    (line,) = [line for line in sanity.warnings(lines(np.fliplr)) if line.name.startswith("maps")]
    assert "mirrored: wrong" in line.says and line.value == 1.0


def test_depth_in_another_unit() -> None:
    depths = [np.linspace(1, 2 + i / N, 30 * 40, dtype=np.float32).reshape(30, 40) for i in range(N)]
    samples = [Sample(None, (30, 40), "depth", targets=Targets(depth=d), source=f"d#{i}") for i, d in enumerate(depths)]

    def warnings(factor: float) -> list[sanity.Line]:
        found = [sanity.facts(case(s, Prediction(depth=s.targets.depth * factor)), CODEC) for s in samples]
        return sanity.warnings(sanity.answer_lines(found))

    assert not warnings(1.0)
    (line,) = warnings(1000.0)
    assert line.name == "depth in another convention" and "millimetres: wrong" in line.says


def test_always_yes() -> None:
    samples = [
        Sample(None, (0, 0), "vqa", text="?", targets=Targets(text="yes" if i % 3 else "no"), source=f"q#{i}")
        for i in range(30)
    ]
    lines = looked([case(s, Prediction(text="Yes")) for s in samples], "exact_match")
    assert warned(lines) == {"commonest answer", "constant answer"}
    assert lines["constant answer"].value == pytest.approx(20 / 30)  # the commonest answer is right 20 times of 30
    assert lines["commonest answer"].says.startswith("100.0% of the samples (of the truth 66.7%)")
    assert not warned(looked([case(s, perfect(s)) for s in samples], "exact_match"))


def test_the_truth_may_be_uniform_and_few_samples_say_little() -> None:
    same = [Sample(None, (0, 0), "vqa", text="?", targets=Targets(text="yes"), source=f"q#{i}") for i in range(30)]
    lines = looked([case(s, perfect(s)) for s in same], "exact_match")
    assert (
        warned(lines) == {"constant answer"} and "cannot tell a model from a constant" in lines["constant answer"].says
    )
    assert not warned(looked([case(s, perfect(s)) for s in same[:5]], "exact_match"))


def test_way_that_is_better_is_told_by_the_truth() -> None:
    def one(**values: float) -> sanity.Line:
        (line,) = sanity.constant_line("RMSE", n=100, **values)
        return line

    assert not one(ours=0.3, constant=0.9, truth=0.0).warning  # less is better
    assert one(ours=1.2, constant=0.9, truth=0.0).warning
    assert one(ours=0.9, constant=0.9, truth=1.0).warning  # as good as a constant is not good enough
    assert not sanity.constant_line("AP", ours=-1.0, constant=-1.0, truth=-1.0, n=100)


# -- the constant answer ---------------------------------------------------------------------------------------------


def test_constant_answer_by_hand() -> None:
    truth = [
        About(boxes=((0.0, 0.0, 0.2, 0.5),), names=("cat",), depth=1.0, text="yes", pixels=(("sky", 5), ("sea", 1))),
        About(boxes=((0.1, 0.2, 0.4, 0.5),), names=("dog",), depth=4.0, text="no", pixels=(("sea", 3),)),
        About(boxes=((0.5, 0.1, 0.9, 0.8),), names=("dog",), depth=2.0, text="no", normal=(0.0, 0.0, -0.5)),
    ]
    constant = Constant.of(truth)
    assert constant == Constant.of(truth[::-1])
    said = constant.prediction(Sample(None, (10, 20), "any", classes=("bird", "sea", "dog")))
    assert said.boxes.tolist() == [pytest.approx([2.0, 1.0, 8.0, 5.0])]  # medians 0.1, 0.1, 0.4, 0.5 of 20 x 10
    assert (said.labels.tolist(), said.text) == ([2], "no")
    assert said.masks is None
    assert np.unique(said.label_map).tolist() == [1] and np.unique(said.depth).tolist() == [2.0]
    assert said.normals[3, 4].tolist() == [0.0, 0.0, -1.0]
    masked = replace(constant, masked=True).prediction(Sample(None, (10, 20), "any"))
    assert masks.area(masked.masks).tolist() == [6 * 4]


def test_where_most_samples_have_no_object_the_constant_has_none() -> None:
    some = About(boxes=((0.1, 0.1, 0.2, 0.2),), masked=True)
    said = Constant.of([some, About(masked=True), About(masked=True)]).prediction(Sample(None, (8, 8), "res"))
    assert len(said.boxes) == 0 and said.masks == ()


def test_crowds_and_ignored_pixels_are_no_part_of_it() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 5, 10, 10]])
    targets = Targets(
        boxes, labels=torch.tensor([0, 1]), crowd=torch.tensor([True, False]), label_map=np.full((10, 10), -1, np.int16)
    )
    found = about(Sample(None, (10, 10), "detection", classes=("a", "b"), targets=targets))
    assert found.boxes == ((0.5, 0.5, 1.0, 1.0),) and found.names == ("b",) and found.pixels == ()


def test_digest_tells_answers_apart() -> None:
    sample = Sample(None, (100, 200), "rec")
    box = torch.tensor([[10.0, 10, 50, 50]])
    one = sanity.digest(sample, Prediction(box, text="<box>1</box>"))
    assert one == sanity.digest(sample, Prediction(box + 0.1, text="<box>2</box>"))  # a tenth of a pixel
    assert one != sanity.digest(sample, Prediction(box + 5))
    assert sanity.digest(sample, Prediction(text="Yes ")) == sanity.digest(sample, Prediction(text="yes"))
    depth = np.ones((2, 2), np.float32)
    assert sanity.digest(sample, Prediction(depth=depth)) != sanity.digest(sample, Prediction(depth=2 * depth))


def test_centres_of_the_codec_are_the_formula() -> None:
    """The wrong model of ``test_boxes_in_another_format`` writes what the formula says."""
    (sample, *_) = scenes("rec")
    height, width = sample.size
    want = xyxy_to_cxcywh(sample.targets.boxes)[0] / torch.tensor([width, height, width, height]) * 1000
    assert bins(sample, "cxcywh") == pytest.approx(want.tolist(), abs=0.51)
