"""Wordings: one draw per generator state, a fixed wording for evaluation, fields checked on load."""

import numpy as np
import pytest

from ufo_tune import resources, templates
from ufo_tune.errors import ConfigError
from ufo_tune.resources import read_yaml

TEMPLATE = """
task: rec
questions: ["Where is {phrase}?", "Box of {phrase}."]
eval_question: "Locate {phrase}."
answers: ["It is {box}.", "{box}"]
image_position: before
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        (tmp_path / "mine.yaml").write_text(text)
        return str(tmp_path / "mine.yaml")

    return write


def test_evaluation_asks_one_wording(write):
    template = templates.load(write(TEMPLATE))
    assert (template.name, template.task, template.image_position) == ("mine", "rec", "before")
    assert template.question(None, phrase="a {cup}") == "Locate a {cup}."  # braces of a phrase are only text
    assert template.answer(None, box="<box>") == "It is <box>."


def test_training_draws_every_wording_and_is_reproducible(write):
    template = templates.load(write(TEMPLATE))
    draws = [[template.question(rng, phrase="x") for _ in range(50)] for rng in map(np.random.default_rng, (1, 1))]
    assert draws[0] == draws[1]
    assert set(draws[0]) == {"Where is x?", "Box of x."}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("{phrase}?", "{phrse}?", "questions.*phrse"),
        ("Locate {phrase}", "Locate {box}", "eval_question.*box"),
        ("is {box}", "is {phrase}", "answers.*phrase"),
        ("Where is {phrase}", "Where is {", "questions"),
        ("questions", "qestions", "did you mean 'questions'"),
        ("before", "left", "image_position"),
    ],
)
def test_bad_template_is_refused_by_place(write, old, new, says):
    with pytest.raises(ConfigError, match=f"mine.yaml: .*{says}" if "did" not in says else says):
        templates.load(write(TEMPLATE.replace(old, new)))


def test_field_that_the_task_does_not_fill(write):
    template = templates.load(write(TEMPLATE))
    with pytest.raises(ConfigError, match=r"template mine: .* needs \['phrase'\] \(got \['classes'\]\)"):
        template.question(None, classes="cup")


def test_template_without_answers(write):
    template = templates.load(write(TEMPLATE.replace('answers: ["It is {box}.", "{box}"]', "")))
    with pytest.raises(ConfigError, match="has no answers"):
        template.answer(None, box="b")


def test_wordings_with_text_are_for_samples_that_have_some(write):
    answers = '["{box} {text}", "{box}", "It is {box}: {text}"]'
    template = templates.load(write(TEMPLATE.replace('["It is {box}.", "{box}"]', answers)))
    rng = np.random.default_rng(0)
    assert {template.answer(rng, box="B") for _ in range(50)} == {"B"} == {template.answer(None, box="B")}
    assert {template.answer(rng, box="B", text="t") for _ in range(50)} == {"B t", "B", "It is B: t"}
    only = templates.load(write(TEMPLATE.replace('["It is {box}.", "{box}"]', '["{box} {text}"]')))
    with pytest.raises(ConfigError, match=r"needs \['text'\] \(got \['box'\]\)"):
        only.answer(rng, box="B")
    assert only.answers_in("text") and not only.answers_in("mask") and not only.no_target


def test_asks(write):
    template = templates.load(write(TEMPLATE))
    assert template.asks("phrase") and not template.asks("range") and not template.asks("box")


SHIPPED = resources.names("data_templates")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_wordings(name):
    """No wording twice, every one asks for the same fields, and only perception puts the image last."""
    template = templates.load(name)
    assert len(set(template.questions)) == len(template.questions)
    fields = {frozenset(templates._fields(question)) for question in template.questions}
    fields.add(frozenset(templates._fields(template.eval_question)))
    assert len(fields) == 1
    assert template.eval_question in template.questions, "evaluation asks what training has seen"
    assert template.description and template.source
    talk = set(template.answers) == {"{text}"} and name != "ufo_caption"
    first = talk or name.startswith("scenes_") or name == "drive"
    assert (template.image_position == "before") == first


@pytest.mark.parametrize("name", [n for n in SHIPPED if n.startswith("scenes_")])
def test_the_tiny_base_knows_the_words(name):
    known = set(read_yaml(resources.locate("recipes", "tiny_base"))["model"]["options"]["words"])
    template = templates.load(name)
    for question in (*template.questions, template.eval_question):
        assert {w for w in question.split() if not w.startswith("{")} <= known


def test_a_task_of_ones_own_fills_in_fields_of_its_own(write, tmp_path, monkeypatch):
    package = tmp_path / "ufo_tune_tasks_elsewhere"
    package.mkdir()
    for name, line in (("near", "FIELDS = ('region',)"), ("far", "")):
        (package / f"{name}.py").write_text(f"{line}\n\n\ndef encode(): ...\n\n\ndef decode(): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    wording = TEMPLATE.replace("task: rec", "task: ufo_tune_tasks_elsewhere.near").replace("{phrase}", "{region}")
    template = templates.load(write(wording))
    assert template.asks("region") and "B" in template.question(None, region="B")
    with pytest.raises(ConfigError, match=r"no such field \['region'\]"):
        templates.load(write(wording.replace("elsewhere.near", "elsewhere.far")))
    with pytest.raises(ConfigError, match=r"no such field \['reg'\] in .*use .*'region'"):
        templates.load(write(wording.replace("{region}", "{reg}")))
