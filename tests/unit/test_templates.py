"""Wordings: one draw per generator state, a fixed wording for evaluation, fields checked on load."""

import numpy as np
import pytest

from ufo_tune import templates
from ufo_tune.errors import ConfigError

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
