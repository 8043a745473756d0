"""``ufo_tune.load`` and what it gives: tasks from the training, lists in order, shared looks, conversations."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.pipelines import SUPPORTED_TASKS

import ufo_tune
from tests import tiny
from ufo_tune.api import messages, pipeline
from ufo_tune.api.pipeline import ALIASES, VERBS
from ufo_tune.errors import ConfigError, DataError, ModelError
from ufo_tune.plugins import names

EVERY = {task: "" for task in names("tasks")} | {"res": "scenes_res", "vqa": "scenes_vqa"}
ASKED: dict[str, tuple[Any, ...]] = {
    "segment": ("the cup",), "locate": ("the cup",), "detect": (["cup", "plate"],), "segment_all": (["cup", "plate"],),
    "semantic": (["cup", "plate"],), "depth": (), "normals": (), "caption": (), "ask": ("what is it?",),
}  # fmt: skip
TASK = {
    "segment": "res", "locate": "rec", "detect": "detection", "segment_all": "instance_segmentation",
    "semantic": "semantic_segmentation", "ask": "vqa",
}  # fmt: skip
GRID = {"rows": 2, "cols": 2}
GRID_TASKS = ("detection", "instance_segmentation", "semantic_segmentation")


def trained(folder: Path, templates: dict[str, str]) -> ufo_tune.Model:
    module = tiny.model("llava", folder)
    module.settings["templates"] = templates
    module.settings["task_options"] = {task: GRID for task in GRID_TASKS}
    return ufo_tune.Model(module, max_new_tokens=24)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ufo_tune.Model:
    return trained(tmp_path_factory.mktemp("api"), EVERY)


@pytest.fixture
def rows(model: ufo_tune.Model, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Samples in every row that the network was given, in order."""
    seen: list[int] = []
    real: Callable[..., Any] = model.module.predict

    def counted(batch: Any, *rest: Any) -> Any:
        seen.extend(len(samples) for samples in batch.samples)
        return real(batch, *rest)

    monkeypatch.setattr(model.module, "predict", counted)
    return seen


def same(a: ufo_tune.Result, b: ufo_tune.Result) -> bool:
    alike = a.sample.text == b.sample.text and a.text == b.text and np.allclose(a.scores, b.scores, atol=1e-5)
    return alike and (a.masks is None or bool((a.masks == b.masks).all()))


def test_importing_ufo_tune_imports_no_library() -> None:
    code = "import sys, ufo_tune; print(*sorted({m.split('.')[0] for m in sys.modules} - sys.stdlib_module_names))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "ufo_tune" in loaded and not {"torch", "numpy", "transformers", "PIL", "pydantic"} & set(loaded)


def test_public_names_are_there() -> None:
    assert all(hasattr(ufo_tune, name) for name in ufo_tune.__all__)


def test_load_reads_what_was_saved(tmp_path: Path) -> None:
    before = trained(tmp_path, {"rec": ""})
    before.module.save(tmp_path / "merged")
    after = ufo_tune.load(tmp_path / "merged", device="cpu", max_new_tokens=24)
    assert after.tasks == ("rec",) and after.device == torch.device("cpu") and not after.module.training
    image = tiny.image()
    np.testing.assert_array_equal(after.locate(image, "the cup").boxes, before.locate(image, "the cup").boxes)
    assert ufo_tune.load(tmp_path / "merged", dtype="bfloat16").module.vlm.hf.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "foo"}, r"no such dtype \(got 'foo'\); give one of auto, float32"),
        ({"quantization": "int4"}, r"no such kind \(got 'int4'\); give 'nf4', 'int8'"),
        ({"batch_size": 0}, r"batch_size: is out of range \(got 0\)"),
        ({"max_new_tokens": 0}, r"max_new_tokens: is out of range \(got 0\)"),
        ({"max_new_tokens": "many"}, r"max_new_tokens: is out of range \(got 'many'\)"),
        ({"device": "mps"}, r"no such accelerator is there \(got 'mps'\)"),
        ({"device": "cuda:99"}, r"no such accelerator is there \(got 'cuda:99'\)"),
        ({"device": "meta"}, r"no such accelerator is there \(got 'meta'\)"),
        ({"device": None}, r"no such device \(got None\)"),
    ],
)
def test_what_load_is_told_is_checked_first(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ufo_tune.load("org/nobody-asks-for-it", **options)


@pytest.mark.parametrize("device", ["gpu", "cuda"])
def test_a_device_that_is_not_there(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"load: .*{device}"):
        ufo_tune.load("nowhere", device=device)


@pytest.mark.parametrize("verb", VERBS)
def test_every_method_asks_for_its_task_with_the_options_of_the_training(model: ufo_tune.Model, verb: str) -> None:
    image, task = tiny.image(), TASK.get(verb, verb)
    found = getattr(model, verb)(image, *ASKED[verb])
    assert found.sample.task == task
    maps = {"depth": "depth", "normals": "normals", "semantic": "label_map"}
    assert [name for name in ("depth", "normals", "label_map") if getattr(found, name) is not None] == [
        name for asked, name in maps.items() if asked == verb
    ]
    told = ASKED[verb][0] if ASKED[verb] else ""
    text, classes = ("", told) if task in GRID_TASKS else (told, ())
    options = GRID if task in GRID_TASKS else None
    assert same(found, model.predict(image, task, text=text, classes=classes, options=options))
    assert found.draw().size[0] > 0 and found.size == (40, 56)


def test_lists_give_lists_in_their_order(model: ufo_tune.Model) -> None:
    a, b = tiny.image(1), tiny.image(2)
    alone = [model.segment(image, phrase) for image, phrase in ((a, "x"), (b, "y"), (a, "z"))]
    together = model.segment([a, b, a], ["x", "y", "z"])
    assert all(same(one, other) for one, other in zip(alone, together, strict=True))
    assert all(one.sample.image is image for one, image in zip(together, (a, b, a), strict=True))
    assert [r.sample.text for r in model.segment((a, b), "x")] == ["x", "x"]
    assert [r.sample.image is b for r in model.detect([a, b], ["cup"])] == [False, True]
    assert model.segment([], "x") == [] and model.segment(a, []) == [] and model.depth([]) == []
    with pytest.raises(DataError, match="2 images for 3 texts"):
        model.segment([a, b], ["x", "y", "z"])


def test_phrases_about_one_picture_share_a_look_where_the_wording_allows_it(
    model: ufo_tune.Model, rows: list[int]
) -> None:
    image, phrases = tiny.image(), [f"cup {n}" for n in range(18)]
    together = model.segment(image, phrases)
    assert rows == [16, 2]
    rows.clear()
    assert all(same(one, model.segment(image, phrase)) for one, phrase in zip(together, phrases, strict=True))
    assert rows == [1] * 18
    rows.clear()
    model.locate(image, ["x", "y"])  # its wording has the question before the image, whose tokens then depend on it
    model.detect([image, image], ["cup"])  # a grid has many answers to one question
    assert rows == [1] * 4


def test_a_name_alone_is_one_class(model: ufo_tune.Model) -> None:
    assert model.detect(tiny.image(), "cup").classes == ("cup",)


@pytest.mark.parametrize(
    ("verb", "asked", "message"),
    [
        ("segment", (None,), r"res: the phrase or question is no text \(got None\)"),
        ("segment", (["cup", 3],), r"no text \(got 3\)"),
        ("locate", (b"cup",), r"rec: the phrase or question is no text \(got b'cup'\)"),
        ("ask", (None,), r"vqa: the phrase or question is no text"),
        ("detect", (None,), r"detection: the classes are no names \(got None\)"),
        ("detect", (["cup", 3],), r"no names \(got \['cup', 3\]\)"),
        ("semantic", (3,), r"no names \(got 3\)"),
    ],
)
def test_what_is_no_text_is_refused(model: ufo_tune.Model, verb: str, asked: tuple[Any, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        getattr(model, verb)(tiny.image(), *asked)


@pytest.mark.parametrize("tile", [-1, 0.5, "large", True])
def test_tiles_of_no_size(model: ufo_tune.Model, tile: Any) -> None:
    with pytest.raises(ConfigError, match="tile: is out of range"):
        model.segment(tiny.image(), "the cup", tile=tile)


def test_addresses_are_not_read(model: ufo_tune.Model) -> None:
    with pytest.raises(DataError, match=r"a\.jpg: no such image \(got an address or data, which are not read\)"):
        model.segment("https://example.com/a.jpg", "the cup")


def test_what_a_model_was_not_trained_on_is_an_error_that_says_what_it_can(tmp_path: Path) -> None:
    model = trained(tmp_path, {"rec": "", "depth": "", "conversation": ""})
    with pytest.raises(ModelError, match=r"not trained on res \(got conversation, depth, rec\)"):
        model.segment(tiny.image(), "the cup")
    assert model.predict(tiny.image(), "res", text="the cup").masks is not None
    assert model.ask(tiny.image(), "what?").sample.task == "conversation"
    with pytest.raises(ModelError, match="no task at all"):
        trained(tmp_path / "bare", {}).chat([{"role": "user", "content": "hello"}])


def turns(image: Any) -> list[dict[str, Any]]:
    parts = [{"type": "image", "image": image}, {"type": "text", "text": "Where is the cup?"}]
    said = {"role": "assistant", "content": "At <bbox>: <mask>", "boxes": [[1, 2, 30, 20], [0, 0, 0, 0]]}
    asked = {"role": "user", "content": "What is at <bbox>?", "boxes": [[5, 6, 7, 8]]}
    return [{"role": "user", "content": parts}, said, asked]


def asked(boxes: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "What is at <bbox>?", "boxes": boxes}]


def test_boxes_are_lists_arrays_or_tensors() -> None:
    for boxes in ([[5, 6, 7, 8]], np.array([[5, 6, 7, 8]], np.float32), torch.tensor([[5, 6, 7, 8]])):
        targets = messages.to_sample(asked(boxes), "conversation", tiny.image()).targets
        assert targets is not None and targets.boxes.tolist() == [[5, 6, 7, 8]]


def test_a_model_that_only_talks_refuses_places(tmp_path: Path) -> None:
    model = trained(tmp_path, {"vqa": ""})
    with pytest.raises(DataError, match=r"task vqa cannot point \(got 1 boxes\)"):
        model.chat(asked([[5, 6, 7, 8]]), tiny.image())


def test_messages_become_one_sample() -> None:
    image = tiny.image()
    sample = messages.to_sample(turns(image), "conversation")
    assert sample.image is image and sample.size == (40, 56) and sample.text == "What is at <bbox>?"
    assert sample.history == (("Where is the cup?", "At <bbox>: <mask>"),)
    assert sample.targets is not None
    assert sample.targets.boxes.tolist() == [[1, 2, 30, 20], [0, 0, 0, 0], [5, 6, 7, 8]]
    other = [{"role": "user", "content": "Hello"}]
    assert messages.to_sample(other, "vqa").image is None and messages.to_sample(other, "vqa", image).image is image


def test_a_conversation_goes_on_with_its_own_answer(model: ufo_tune.Model) -> None:
    image = tiny.image()
    first = model.chat(turns(image))
    follow = {"role": "user", "content": "And then?"}
    again = model.chat([*turns(image), first.message, follow])
    assert again.sample.history[1] == ("What is at <bbox>?", first.text)
    hello = [{"role": "user", "content": "Hello"}]
    batch = model.chat([turns(image), hello, turns(tiny.image(3))])
    assert same(batch[0], first) and same(batch[1], model.chat(hello)) and batch[1].size == (0, 0)


@pytest.mark.parametrize(
    ("said", "image", "message"),
    [
        ([], None, "roles do not take turns"),
        ([{"role": "assistant", "content": "x"}], None, "roles do not take turns"),
        ([{"role": "system", "content": "x"}, {"role": "user", "content": "x"}], None, "roles do not take turns"),
        (turns("a.png"), "b.png", "more than one image"),
        ([{"role": "user", "content": [{"type": "video", "video": "x"}]}], None, "message 0: is neither text"),
        ([{"role": "user", "content": [{"type": "image", "url": "x"}]}], None, "message 0: is neither text"),
        ([{"role": "user", "content": "see <bbox>"}], None, r"message 0: points at 1 places \(got 0 boxes"),
        ("what colour is it?", "a.png", r"chat: is no list of messages \(got 'what colour is it\?'\).*`ask`"),
        ({"role": "user", "content": "x"}, None, "is no list of messages"),
        (["hi"], None, "is no list of messages .got 'hi'"),
        ([{"role": "user", "content": "x"}, "hi", {"role": "user", "content": "x"}], None, "message 1 is no mapping"),
        ([{"role": "user", "content": [{"type": "text"}]}], None, "message 0: is neither text"),
        ([{"role": "user", "content": [{"type": "text", "text": 5}]}], None, "message 0: is neither text"),
        ([{"role": "user", "content": 5}], None, r"message 0: content is no text \(got 5\)"),
        (asked(None), "a.png", "points at 1 places .got 0 boxes"),
        (asked(5), "a.png", "message 0: boxes are no lists of numbers .got 5"),
        (asked([1, 2, 3, 4]), "a.png", "message 0: boxes are no lists of numbers"),
        (asked([["a", 2, 3, 4]]), "a.png", "message 0: boxes are no lists of numbers"),
        (asked([[1, 2, 3]]), "a.png", "message 0: a box has not four numbers"),
        ([[{"role": "user", "content": "x"}]], "a.png", "one image for several conversations"),
    ],
)
def test_a_conversation_of_another_form(model: ufo_tune.Model, said: Any, image: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        model.chat(said, image)


def test_pipeline_is_one_question_with_the_outputs_of_transformers(model: ufo_tune.Model, tmp_path: Path) -> None:
    image = tiny.image()
    segment = pipeline("segment", model)
    (found,) = segment(image, "the cup")
    assert set(found) == {"score", "label", "mask"} and found["mask"].size == (56, 40)
    assert [len(answers) for answers in segment([image, image], "the cup")] == [1, 1]
    assert segment(image, "the cup", threshold=1.1) == []
    assert set(pipeline("depth-estimation", model)(image)) == {"predicted_depth", "depth"}
    assert set(ALIASES) <= set(SUPPORTED_TASKS)
    with pytest.raises(ConfigError, match="did you mean 'segment'"):
        pipeline("segmant", model)
    with pytest.raises(ConfigError, match="loaded already"):
        pipeline("segment", model, device="cpu")
    with pytest.raises(ModelError):
        pipeline("segment", tmp_path / "nothing")
