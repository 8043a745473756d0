"""gRefCOCO, Flickr30k Entities, Visual Genome and ReferIt: exact truth, what is left out, faults."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat

from tests.data_files import SIZE, make, rectangle, write_json
from tests.data_files import flickr30k_entities as flickr_files
from tests.data_files import grefcoco as gref_files
from tests.data_files import referit as referit_files
from tests.data_files import visual_genome as genome_files
from ufo_tune.core import masks
from ufo_tune.core.types import Targets
from ufo_tune.datasets import flickr30k_entities, grefcoco, reason_seg, referit, visual_genome
from ufo_tune.datasets._phrases import Phrases
from ufo_tune.errors import ConfigError, DataError


def _truth(samples: Phrases, number: int) -> Targets:
    targets = samples[number].targets
    assert targets is not None
    return targets


def _mask(samples: Phrases, number: int) -> np.ndarray:
    found = _truth(samples, number).masks
    assert found is not None and len(found) == 1
    return masks.decode(found[0])


# Shared by all.


def test_workers_get_no_copy_and_ids_stay_on_disk(tmp_path: Path) -> None:
    regions = [
        {"id": 1, "regions": [genome_files.region(k, 5, 6, 10, 12, f"thing {k}") for k in range(5000)]},
        {"id": 7, "regions": [genome_files.region(9999, 0, 0, 60, 40, "the sky")]},
    ]
    root, _, _ = make("visual_genome", tmp_path)
    write_json(tmp_path / "region_descriptions.json", regions)
    samples = visual_genome.load(root, "all", task="rec")
    assert len(samples) == 5001 and len(pickle.dumps(samples)) < 20_000
    ids = samples.image_ids
    assert len(ids) == 5001 and ids[0] == "1" and ids[-1] == "7" and ids[4998:] == ["1", "1", "7"]
    assert np.unique(np.asarray(ids, dtype=str), return_counts=True)[1].tolist() == [5000, 1]  # as mixtures do
    with pytest.raises(IndexError):
        ids[5001]
    with pytest.raises(IndexError):
        samples[-5002]


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (
            grefcoco,
            {"no_target": "skip"},
            "datasets/grefcoco.no_target: no such choice .got 'skip'.; known: drop, keep",
        ),
        (reason_seg, {"sentences": "last"}, "datasets/reason_seg.sentences: no such choice .got 'last'"),
        (grefcoco, {"boxes": "all"}, "datasets/grefcoco.boxes: no such choice .got 'all'"),
        (flickr30k_entities, {"boxes": "all"}, "datasets/flickr30k_entities.boxes: no such choice .got 'all'"),
    ],
)
def test_wrong_choices(tmp_path: Path, module: Any, options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        module.load(str(tmp_path), "val", task=module.TASKS[0], **options)


# gRefCOCO.


def _gref(folder: Path, task: str = "res", **options: Any) -> Phrases:
    root, split, _ = make("grefcoco", folder)
    return grefcoco.load(root, split, task=task, **options)


def test_several_targets_are_one_object(tmp_path: Path) -> None:
    samples = _gref(tmp_path)
    assert [s.text for s in samples] == ["all cups", "the cup", "a cup and the rest"]
    both = rectangle(5, 6, 15, 18) | rectangle(20, 10, 30, 30) | rectangle(40, 10, 50, 20)
    np.testing.assert_array_equal(_mask(samples, 0), both)
    assert _truth(samples, 0).boxes.tolist() == [[5, 6, 50, 30]]
    np.testing.assert_array_equal(_mask(samples, 2), rectangle(5, 6, 15, 18))  # without the crowd
    assert _truth(_gref(tmp_path, "rec"), 0).boxes.tolist() == [[5, 6, 50, 30]]


def test_a_box_for_each_target(tmp_path: Path) -> None:
    """As GREC scores them; the mask stays one."""
    each = _gref(tmp_path, "rec", boxes="each", no_target="keep")
    joined = _gref(tmp_path, "rec", no_target="keep")
    assert [len(_truth(each, n).boxes) for n in range(len(each))] == [2, 0, 0, 1, 1]
    assert [len(_truth(joined, n).boxes) for n in range(len(each))] == [1, 0, 0, 1, 1]
    # annotations 101 and 102: the second has two pieces, and a box around both
    assert _truth(each, 0).boxes.tolist() == [[5, 6, 15, 18], [20, 10, 50, 30]]
    masked = _gref(tmp_path, "res", boxes="each")
    assert len(_truth(masked, 0).boxes) == len(_truth(masked, 0).masks or ()) == 1


def test_sentences_without_target(tmp_path: Path) -> None:
    assert _gref(tmp_path).dropped == {"no target": 2}
    kept = _gref(tmp_path, no_target="keep")
    assert [s.text for s in kept][1:3] == ["the dog", "a horse"] and kept.dropped == {}
    truth = _truth(kept, 1)
    assert truth.boxes.shape == (0, 4) and truth.masks == () and len(truth.labels) == 0
    rec = _truth(_gref(tmp_path, "rec", no_target="keep"), 1)
    assert rec.boxes.shape == (0, 4) and rec.masks is None


def test_only_crowds_is_a_fault(tmp_path: Path) -> None:
    _gref(tmp_path)
    data = gref_files.instances()
    data["annotations"].append({**data["annotations"][-1], "id": 105})
    write_json(tmp_path / "grefcoco" / "instances.json", data)
    write_json(tmp_path / "grefcoco" / "grefs(unc).json", [gref_files.ref(0, [104, 105], 9, "val", "crowds")])
    with pytest.raises(DataError, match=r"grefs\(unc\).json: ref 0: names crowds only \(got \[104, 105\]\)"):
        grefcoco.load(str(tmp_path), "val", task="res")


# Flickr30k Entities.


def _flickr(folder: Path, boxes: Any = "one", **files: Any) -> Phrases:
    return flickr30k_entities.load(str(flickr_files.write(folder, **files)), "val", task="rec", boxes=boxes)


def test_phrases_with_one_box(tmp_path: Path) -> None:
    samples = _flickr(tmp_path)
    assert [(s.text, s.source) for s in samples] == [
        ("A child", "flickr30k_entities/val#36979.0.0"),
        ("a pink dress", "flickr30k_entities/val#36979.0.1"),
        ("The Girl", "flickr30k_entities/val#36979.1.0"),
    ]
    assert _truth(samples, 0).boxes.tolist() == [[5, 6, 15, 18]] == _truth(samples, 2).boxes.tolist()
    assert samples.dropped == {"no box": 2, "several boxes": 1}
    assert samples[0].size == SIZE and samples[0].image_id == "36979"


def test_several_boxes_united(tmp_path: Path) -> None:
    samples = _flickr(tmp_path, "union")
    assert samples[3].text == "two Men" and _truth(samples, 3).boxes.tolist() == [[30, 4, 59, 39]]
    assert samples.dropped == {"no box": 2}


def test_an_object_may_be_in_several_chains_and_a_box_be_empty(tmp_path: Path) -> None:
    thing, bounds = flickr_files.thing, flickr_files.bounds
    things = (thing("1 4", bounds(6, 7, 16, 19)), thing("2", bounds(8, 10, 8, 18)))
    samples = _flickr(tmp_path, things=things)
    assert [s.text for s in samples] == ["A child", "The Girl", "two Men"]
    assert samples.dropped == {"boxes without area": 1, "no box": 3}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"captions": "ok\n[/EN#1/people A child in red\n"}, r"36979.txt:2: a phrase does not end"),
        ({"things": ("<object>",)}, "36979.xml: is not valid XML"),
        ({"things": (flickr_files.thing("1", "<bndbox><xmin>1</xmin></bndbox>"),)}, "xml: ymin is no whole number"),
        ({"things": (flickr_files.thing("1", "<bndbox><xmin>-1</xmin></bndbox>"),)}, "xml: xmin is no whole .*'-1'"),
    ],
)
def test_faults_of_entities(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _flickr(tmp_path, **files)


def test_captions_that_are_not_utf8(tmp_path: Path) -> None:
    flickr_files.write(tmp_path)
    (tmp_path / "Sentences" / "36979.txt").write_bytes("[/EN#1/other a café]".encode("latin-1"))
    with pytest.raises(DataError, match="36979.txt: is not UTF-8"):
        flickr30k_entities.load(str(tmp_path), "val", task="rec")


# Visual Genome.


def test_regions(tmp_path: Path) -> None:
    root, split, _ = make("visual_genome", tmp_path)
    samples = visual_genome.load(root, split, task="rec")
    assert [s.text for s in samples] == ["the clock is green", "Shade is along the street", "the sky"]
    assert samples[0].source == "visual_genome/all#1382" and samples[0].image == tmp_path / "VG_100K_2" / "1.jpg"
    assert samples[2].image == tmp_path / "VG_100K" / "7.jpg" and samples[2].image_id == "7"
    assert _truth(samples, 0).boxes.tolist() == [[5, 6, 15, 18]]
    assert _truth(samples, 1).boxes.tolist() == [[0, 30, 17, 40]]  # clipped
    assert samples.dropped == {"outside the image": 1, "no words": 1}


def test_splits_of_images(tmp_path: Path) -> None:
    root, _, _ = make("visual_genome", tmp_path)
    assert [s.text for s in visual_genome.load(root, "val", task="rec")] == ["the sky"]
    assert len(visual_genome.load(root, "train", task="rec")) == 2
    with pytest.raises(DataError, match="densecap_splits.json: no such split .got 'dev'.; it has train, val, test"):
        visual_genome.load(root, "dev", task="rec")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": 3}, r"region_descriptions.json: row 0: its image is not listed \(got 3\)"),
        ({"id": None}, "row 0: 'id' is not a whole number"),
        ({"regions": None}, "row 0: 'regions' is not a list"),
        ({"regions": [7]}, "row 0: region 0: 'phrase' is not a text"),
        ({"regions": [{"phrase": "x", "x": 1, "y": 2, "width": 3}]}, "row 0: region 0: is not 4 numbers"),
    ],
)
def test_faults_of_regions(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    root, split, _ = make("visual_genome", tmp_path)
    found = genome_files.regions()
    found[0].update(change)
    write_json(tmp_path / "region_descriptions.json", found)
    with pytest.raises(DataError, match=message):
        visual_genome.load(root, split, task="rec")


# ReferIt.


def test_boxes_run_to_the_end_of_their_last_pixel(tmp_path: Path) -> None:
    root, split, _ = make("referit", tmp_path)
    samples = referit.load(root, split, task="res")
    assert [(s.text, s.source, s.image_id) for s in samples] == [
        ("sunray at very top", "referit/val#8756_2.0", "8756"),
        ("SKY ", "referit/val#8756_2.1", "8756"),
        ("the water?", "referit/val#12_1.0", "12"),
        ("left cup", "referit/val#8756_1.0", "8756"),
    ]
    assert samples.dropped == {"no words": 1} and samples[0].size == SIZE
    assert _truth(samples, 0).boxes.tolist() == [[0, 0, 60, 20]]
    for number, bounds in enumerate([(0, 0, 60, 20), (0, 0, 60, 20), (30, 10, 50, 30), (5, 6, 15, 18)]):
        np.testing.assert_array_equal(_mask(samples, number), rectangle(*bounds))
        torch.testing.assert_close(_truth(samples, number).boxes, torch.tensor([bounds], dtype=torch.float32))
    assert _truth(referit.load(root, split, task="rec"), 3).masks is None


def test_the_first_edition_has_other_keys(tmp_path: Path) -> None:
    root, split, _ = make("referit", tmp_path)
    boxes = {f"{name}.png": box for name, box in referit_files.BOXES.items()}
    write_json(tmp_path / "referit_bbox.json", boxes)
    assert _truth(referit.load(root, split, task="rec"), 3).boxes.tolist() == [[5, 6, 15, 18]]


@pytest.mark.parametrize(
    ("file", "value", "message"),
    [
        ("query_val", {"99_1": ["x"]}, "referit_query_val.json: 99_1: '99_1' is not listed .got nothing in .*bbox"),
        ("query_val", {"12_1": "x"}, "referit_query_val.json: 12_1: is no list of texts"),
        ("bbox", {**referit_files.BOXES, "8756_2": [1, 2, 3]}, "referit_bbox.json: 8756_2: is not 4 numbers"),
        ("imsize", {"12.jpg": [60, 40]}, "8756_2: '8756' is not listed .got nothing in .*imsize"),
    ],
)
def test_faults_of_referit(tmp_path: Path, file: str, value: Any, message: str) -> None:
    root, split, _ = make("referit", tmp_path)
    write_json(tmp_path / f"referit_{file}.json", value)
    with pytest.raises(DataError, match=message):
        referit.load(root, split, task="rec")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((60, 40)), r"mask is \(60, 40\) but the image is \(40, 60\)"),
        (np.ones(SIZE), "mask is empty"),
        (b"no MATLAB", "cannot read the mask"),
        (None, "no such mask file"),
    ],
)
def test_faults_of_masks(tmp_path: Path, content: Any, message: str) -> None:
    root, split, _ = make("referit", tmp_path)
    path = tmp_path / "mask" / "8756_2.mat"
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        savemat(path, {"segimg_t": content})
    assert referit.load(root, split, task="rec")[0].text
    with pytest.raises(DataError, match=message):
        referit.load(root, split, task="res")[0]
