"""What every dataset promises, on tiny files made by code."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import data_files
from ufo_tune import plugins
from ufo_tune.core import masks
from ufo_tune.core.types import Sample, Samples, Targets
from ufo_tune.data.images import open_image
from ufo_tune.data.inspect import sample_problems
from ufo_tune.errors import ConfigError, UfoTuneError

CASES = [(name, task) for name in plugins.names("datasets") for task in plugins.find("datasets", name).TASKS]
GRIDS = {"detection", "instance_segmentation", "semantic_segmentation"}


def _load(name: str, task: str, folder: Path) -> Samples:
    root, split, options = data_files.make(name, folder)
    samples: Samples = plugins.find("datasets", name).load(root, split, task=task, **options)
    return samples


def _targets(sample: Sample) -> Targets:
    assert sample.targets is not None
    return sample.targets


@pytest.mark.parametrize(("name", "task"), CASES)
def test_samples_keep_their_promises(name: str, task: str, tmp_path: Path) -> None:
    samples = _load(name, task, tmp_path)
    assert len(samples) > 0
    sources, asked = [], set()
    for sample in samples:
        height, width = sample.size
        assert open_image(sample.image).shape == (height, width, 3)
        assert sample.task == task and sample.image_id
        boxes = _targets(sample).boxes
        assert boxes.dtype == torch.float32 and boxes.shape[1:] == (4,)
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        for rle in _targets(sample).masks or ():
            assert tuple(rle["size"]) == (height, width) and masks.area([rle])[0] > 0
        labels = _targets(sample).labels
        assert labels.dtype == torch.long and (labels >= 0).all()
        if task in GRIDS:
            assert sample.classes and (labels < len(sample.classes)).all() and not sample.text
        elif task == "depth":
            depth = _targets(sample).depth
            assert depth is not None and depth.dtype == np.float32 and depth.shape == sample.size
            assert np.isfinite(depth).all() and (depth >= 0).all() and (depth > 0).any() and not sample.text
        elif task == "normals":
            normals = _targets(sample).normals
            assert normals is not None and normals.dtype == np.float32 and normals.shape == (*sample.size, 3)
            lengths = np.linalg.norm(normals, axis=-1)
            assert ((np.abs(lengths - 1) < 1e-5) | (lengths == 0)).all() and (lengths > 0).any() and not sample.text
        else:
            asked.add(bool(sample.text.strip()))
        sources.append(sample.source)
    # Questions may be the template's (captions), but then of all samples.
    assert asked <= {True} or (task == "caption" and asked == {False})
    assert list(sample_problems(samples)) == []
    assert all(source not in ("", "?") for source in sources)


@pytest.mark.parametrize(("name", "task"), CASES)
def test_masks_where_the_task_needs_them(name: str, task: str, tmp_path: Path) -> None:
    for sample in _load(name, task, tmp_path):
        truth = _targets(sample)
        if task in ("res", "instance_segmentation"):
            assert truth.masks is not None and len(truth.masks) == len(truth.boxes)
            torch.testing.assert_close(masks.boxes_of(truth.masks), truth.boxes, atol=1.0, rtol=0)
        if task in ("rec", "res"):
            assert len(truth.boxes) == 1
        if task in ("vqa", "caption", "conversation"):
            assert truth.text.strip()


@pytest.mark.parametrize(("name", "task"), CASES)
def test_deterministic_and_picklable(name: str, task: str, tmp_path: Path) -> None:
    root, split, options = data_files.make(name, tmp_path)
    module = plugins.find("datasets", name)
    first, second = (module.load(root, split, task=task, **options) for _ in range(2))
    third = pickle.loads(pickle.dumps(first))
    assert len(first) == len(second) == len(third)
    for number in reversed(range(len(first))):  # order of access must not matter
        a = first[number]
        for b in (second[number], third[number]):
            assert (a.text, a.classes, a.source, a.image_id, a.size) == (
                b.text,
                b.classes,
                b.source,
                b.image_id,
                b.size,
            )
            assert torch.equal(_targets(a).boxes, _targets(b).boxes) and _targets(a).masks == _targets(b).masks
            np.testing.assert_array_equal(open_image(a.image), open_image(b.image))


@pytest.mark.parametrize(("name", "task"), CASES)
def test_image_ids_for_packing(name: str, task: str, tmp_path: Path) -> None:
    samples = _load(name, task, tmp_path)
    ids = getattr(samples, "image_ids", None)
    if ids is None:
        pytest.skip("this dataset does not say which samples share an image")
    assert [s.image_id for s in samples] == list(ids)


@pytest.mark.parametrize("name", plugins.names("datasets"))
def test_end_and_slices(name: str, tmp_path: Path) -> None:
    samples = _load(name, plugins.find("datasets", name).TASKS[0], tmp_path)
    with pytest.raises(IndexError):
        samples[len(samples)]
    assert samples[-1].source == samples[len(samples) - 1].source
    assert [s.source for s in samples[:2]] == [samples[i].source for i in range(min(2, len(samples)))]


@pytest.mark.parametrize("name", plugins.names("datasets"))
def test_unknown_task_and_place(name: str, tmp_path: Path) -> None:
    module = plugins.find("datasets", name)
    root, split, options = data_files.make(name, tmp_path)
    with pytest.raises(ConfigError, match="wrong"):
        module.load(root, split, task="wrong", **options)
    with pytest.raises(UfoTuneError, match="absent"):
        module.load(root, "absent", task=module.TASKS[0], **options)


@pytest.mark.parametrize("name", plugins.names("datasets"))
def test_documented(name: str) -> None:
    module = plugins.find("datasets", name)
    assert inspect.getdoc(module) and inspect.getdoc(module.load)
    for parameter in list(inspect.signature(module.load).parameters.values())[2:]:
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY, parameter
