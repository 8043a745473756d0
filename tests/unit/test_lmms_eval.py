"""The model that lmms-eval sees.

lmms-eval is no dependency. Where it is not installed, modules of its name stand in, with the interface that version
0.7.3 publishes: ``lmms_eval.api.model.lmms`` (``task_dict``, ``rank``, ``world_size``, three abstract methods),
``lmms_eval.models.registry_v2.ModelManifest`` and requests whose ``args`` are (context, generation options,
``doc_to_visual``, document, task, split). The questions below are the suite's own, word for word, and so is the
expression that its RefCOCO tasks read an answer with.
"""

from __future__ import annotations

import abc
import importlib
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests import spoken, tiny
from tests.spoken import CODECS
from ufo_tune.core.types import Prediction, Sample
from ufo_tune.engine.answering import Answering
from ufo_tune.errors import ConfigError, DataError, EvalError
from ufo_tune.tasks import rec
from ufo_tune.tasks.rec import NO_TARGET

ROOT = Path(__file__).resolve().parents[2]
FORMAT = (
    "Bounding box coordinates are specified in the format (top-left x, top-left y, bottom-right x, bottom-right y). "
    "All values are floating point numbers bounded between 0 and 1"
)
REFCOCO = f"{FORMAT}. Please provide the bounding box coordinate of the region this sentence describes: "
SCREENSPOT = (
    f"{FORMAT} with two decimal places of precision (e.g., 0.15). Please provide the bounding box coordinates of the "
    "region that corresponds to the command: "
)
READ_BOX = r"\[\s*(-?\d+(?:\.\d+)?),\s*(-?\d+(?:\.\d+)?),\s*(-?\d+(?:\.\d+)?),\s*(-?\d+(?:\.\d+)?)\s*\]"


class Lmms(abc.ABC):
    """As ``lmms_eval.api.model.lmms``."""

    is_simple = True

    def __init__(self) -> None:
        self._rank, self._world_size = 0, 1
        self.task_dict: dict[str, Any] = {}

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def world_size(self) -> int:
        return self._world_size

    @abc.abstractmethod
    def loglikelihood(self, requests: Any) -> Any: ...
    @abc.abstractmethod
    def generate_until(self, requests: Any) -> Any: ...
    @abc.abstractmethod
    def generate_until_multi_round(self, requests: Any) -> Any: ...


@dataclass(frozen=True)
class Manifest:
    """As ``lmms_eval.models.registry_v2.ModelManifest``."""

    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


@pytest.fixture(scope="module")
def bridge() -> Iterator[ModuleType]:
    contents = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.model": {"lmms": Lmms},
        "lmms_eval.models": {},
        "lmms_eval.models.registry_v2": {"ModelManifest": Manifest},
    }
    name = "ufo_tune.engine.lmms_eval"
    with pytest.MonkeyPatch.context() as patch:
        for module, members in contents.items():
            found = ModuleType(module)
            found.__dict__.update(members)
            patch.setitem(sys.modules, module, found)
        patch.delitem(sys.modules, name, raising=False)
        yield importlib.import_module(name)
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def model(bridge: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("model")
    tiny.model("llava", folder).save(folder / "model")
    built = bridge.UfoTune(str(folder / "model"), batch_size="2", device="cpu", max_batch_size=None)
    pictures = [Image.fromarray(tiny.image(n, (40, 56 + 8 * n))) for n in range(3)]
    built.task_dict = {"made": {"val": [[picture] for picture in pictures] + [[], pictures, ["film.mp4"]]}}
    return built


def request(context: str, doc: int = 0, **options: Any) -> Any:
    """What the suite's evaluator hands over for one document."""
    args = (context, options, lambda visuals: visuals, doc, "made", "val")
    return SimpleNamespace(args=args, task_name="made")


def answered(monkeypatch: pytest.MonkeyPatch, prediction: Prediction) -> list[tuple[int, str, str, int]]:
    """Every sample is answered so; (batch size, task, text, tokens allowed) of each is noted."""
    asked: list[tuple[int, str, str, int]] = []

    def predictions(self: Answering, samples: Any, groups: Any, log: Any = None) -> Any:
        for sample in samples:
            asked.append((self.decode.batch_size, sample.task, sample.text, self.decode.max_new_tokens))
            yield sample, prediction

    monkeypatch.setattr(Answering, "predictions", predictions)
    return asked


@pytest.mark.parametrize("question", [REFCOCO, SCREENSPOT])
def test_boxes_are_asked_our_way_and_written_the_suites_way(
    model: Any, monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    asked = answered(monkeypatch, Prediction(boxes=torch.tensor([[7.0, 10.0, 28.0, 40.0]])))
    (text,) = model.generate_until([request(f"<image>\n{question}the left cup", until=["\n\n"], max_new_tokens=20)])
    assert asked == [(2, "rec", "the left cup", 20)]
    found = re.search(READ_BOX, text)
    assert found is not None
    # The picture is 56 wide and 40 high: 7/56, 10/40, 28/56, 40/40.
    assert [float(v) for v in found.groups()] == [0.125, 0.25, 0.5, 1.0]


@pytest.mark.parametrize("words", ["[1, 2, 3, 4]", "no idea", NO_TARGET, ""])
def test_no_readable_box_is_nothing(model: Any, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    """What task ``rec`` makes of words without a box in our form, whether or not they look like one of the suite's."""
    sample = Sample(None, (40, 56), "rec", "the cup")
    prediction = rec.decode(spoken.words([words], CODECS[0], points=False), sample, CODECS[0])
    assert prediction.invalid == (words != NO_TARGET)
    answered(monkeypatch, prediction)
    assert model.generate_until([request(REFCOCO + "the cup")]) == [""]


def test_other_questions_are_asked_as_they_stand(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answered(monkeypatch, Prediction(text=" two cups. ASSISTANT: or\n\nthree "))
    texts = model.generate_until(
        [
            request("<image> How many?\nAnswer briefly."),
            request("Why?", doc=3, until=["ASSISTANT:", "\n\n"]),
            request("Where is the bounding box?", until="\n\n", max_new_tokens=7),
        ]
    )
    assert texts == ["two cups. ASSISTANT: or\n\nthree", "two cups.", "two cups. ASSISTANT: or"]
    assert sorted(asked) == [
        (2, "vqa", "How many?\nAnswer briefly.", 128),
        (2, "vqa", "Where is the bounding box?", 7),
        (2, "vqa", "Why?", 128),
    ]


def test_a_real_model_answers_in_the_order_of_the_requests(model: Any) -> None:
    """A tiny random model: each answer is the one it gives to that question alone."""
    mixed = [
        request("what is it?", doc=1, max_new_tokens=6, temperature=0, do_sample=False, num_beams=1),
        request(REFCOCO + "the cup", doc=2),
        request("and who?", doc=3, max_new_tokens=6),
        request(REFCOCO + "a plate", doc=0),
        request("what is it?", doc=0, max_new_tokens=6),
    ]
    together = model.generate_until(mixed)
    assert together == [model.generate_until([one])[0] for one in mixed]
    for text in (together[1], together[3]):  # only readable boxes can be written
        found = re.search(READ_BOX, text)
        assert found is not None
        x0, y0, x1, y1 = map(float, found.groups())
        assert 0 <= x0 <= x1 <= 1 and 0 <= y0 <= y1 <= 1
    pixels = np.asarray(model.task_dict["made"]["val"][2][0])
    box = model.predictor(pixels, "rec", text="the cup").boxes[0].tolist()
    wanted = [box[0] / 72, box[1] / 40, box[2] / 72, box[3] / 40]  # 72 wide, 40 high
    assert [float(v) for v in re.search(READ_BOX, together[1]).groups()] == pytest.approx(wanted, abs=1e-4)  # type: ignore[union-attr]


def test_images_are_opened_batch_by_batch(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark's images need not fit into memory: before the first answer no more than a batch is open."""
    opened: list[int] = []
    seen: list[int] = []
    answer = Answering._answer

    def noted(self: Answering, rows: Any) -> Any:
        seen.append(len(opened))
        yield from answer(self, rows)

    monkeypatch.setattr(Answering, "_answer", noted)
    picture = model.task_dict["made"]["val"][0]
    requests = [
        SimpleNamespace(
            args=(f"{n}?", {"max_new_tokens": 2}, lambda _: opened.append(1) or picture, 0, "made", "val"),
            task_name="made",
        )
        for n in range(6)
    ]
    assert len(model.generate_until(requests)) == 6
    assert seen == [2, 4, 6]  # two a batch


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        (request("compare", doc=4), EvalError, "lmms-eval/made/val#4: shows more than one image"),
        (request("watch", doc=5), EvalError, "more than one image .got .'str'"),
        (request("go", do_sample=True), EvalError, "asks for sampling or beams .*answers are greedy"),
        (request("go", temperature=0.7), EvalError, "sampling or beams"),
        (request("go", num_beams=3), EvalError, "sampling or beams"),
        (request("<image>"), DataError, "made/val#0: the question is empty"),
        (request("what is <MASK> here?"), DataError, "made/val#0.*<MASK>"),
    ],
)
def test_refuses_what_it_cannot_answer(model: Any, asked: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        model.generate_until([asked])


def test_refuses_other_kinds_of_requests(model: Any) -> None:
    with pytest.raises(EvalError, match="made: asks for likelihoods .*got 1 requests"):
        model.loglikelihood([request("a or b")])
    with pytest.raises(EvalError, match="asks in several rounds"):
        model.generate_until_multi_round([])


def test_refuses_a_batch_size_that_is_no_number(bridge: ModuleType) -> None:
    with pytest.raises(ConfigError, match="--batch_size is no number .got 'auto'"):
        bridge.UfoTune("nowhere", batch_size="auto")


def test_lmms_eval_finds_it_by_the_entry_point(bridge: ModuleType) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (place,) = project["entry-points"]["lmms_eval.models"].values()
    module, _, function = place.partition(":")
    found = getattr(importlib.import_module(module), function)()
    assert found.model_id == "ufo_tune"
    where, _, name = found.simple_class_path.rpartition(".")
    assert where == bridge.__name__ and issubclass(getattr(bridge, name), Lmms)
    assert getattr(bridge, name).is_simple
