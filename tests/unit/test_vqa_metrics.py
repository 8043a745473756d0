"""VQA accuracy and POPE by hand, by closed forms, and by the definitions of their official scripts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ufo_tune.core.types import Prediction, Sample, Targets
from ufo_tune.errors import EvalError
from ufo_tune.metrics import pope, vqa_accuracy


def _sample(*references: str, source: str = "made/test#0") -> Sample:
    targets = Targets(text=references[0], references=references)
    return Sample(None, (0, 0), "vqa", text="What?", targets=targets, source=source)


# ---- vqa_accuracy ----


def _accuracy(said: str, *references: str) -> float:
    metric = vqa_accuracy.Metric()
    metric.update(_sample(*references), Prediction(text=said))
    return metric.compute()["VQA_accuracy"]


@pytest.mark.parametrize(("same", "wanted"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (7, 1), (10, 1)])
def test_vqa_worth_of_an_answer_that_so_many_gave(same, wanted):
    """Leave one out: with 2 of 10, (2 * 1/3 + 8 * 2/3) / 10."""
    assert _accuracy("red", *["red"] * same, *["blue"] * (10 - same)) == pytest.approx(wanted)


def test_vqa_is_the_mean_over_all_subsets_of_nine():
    rng = np.random.default_rng(0)
    for _ in range(50):
        references = rng.choice(["red", "blue", "green"], 10).tolist()
        subsets = list(itertools.combinations(references, 9))
        wanted = sum(min(1, subset.count("red") / 3) for subset in subsets) / len(subsets)
        assert _accuracy("red", *references) == pytest.approx(wanted)


def test_vqa_with_fewer_references_one_match_is_enough():
    assert _accuracy("Red.", "red") == 1
    assert _accuracy("red", "blue", "red") == 1
    assert _accuracy("red", *["blue"] * 9) == 0
    assert _accuracy("red", *["blue"] * 8, "red") == 1
    metric = vqa_accuracy.Metric()
    for text in ("two", "three"):
        metric.update(Sample(None, (0, 0), "vqa", targets=Targets(text="2")), Prediction(text=text))
    metric.update(Sample(None, (0, 0), "vqa", targets=Targets(text="2")), Prediction(invalid=1))
    assert metric.compute() == {"VQA_accuracy": pytest.approx(1 / 3), "n": 3, "invalid": 1}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (" The Red\tcar\n", "red car"),
        ("a", ""),
        ("Two", "2"),
        ("none", "0"),
        ("ten of an hour", "10 of hour"),
        ("twenty", "twenty"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("yall'd've", "y'all'd've"),
        ("twas 5 oclock", "'twas 5 o'clock"),
        ("well", "well"),  # a word of its own, not "we'll"
        ("lets", "lets"),  # not in the official list
        ("red/blue", "red blue"),
        ("red, blue", "red blue"),
        ("red,blue", "red blue"),
        ("black-and-white", "black and white"),
        ("yes!", "yes"),
        ("1,000", "1000"),
        ("1,000/day", "1000day"),  # a comma between digits: all marks go without leaving a blank
        ("red /blue-ish", "red blue ish"),  # '/' stands beside a blank, '-' does not
        ("cat/dog /bird", "catdog bird"),  # beside a blank anywhere: all of them go, as in the official script
        ("cat/dog/ bird", "catdog bird"),
        ("cat/dog/\n", "cat dog"),  # the line end is no blank: it is cut off before
        ("he'd", "he'd"),  # not "she'd" without its first letter
        ("2.5", "2.5"),
        ("no.5", "no.5"),
        ("p.m.", "pm"),
        ("man's", "man's"),
        ("5:30", "5:30"),
        ("$5", "$5"),
    ],
)
def test_vqa_normalisation(text, wanted):
    assert vqa_accuracy.normalise(text) == wanted
    assert vqa_accuracy.normalise(wanted) == wanted


# ---- pope ----


@pytest.mark.parametrize(
    ("text", "yes", "invalid"),
    [
        ("Yes", True, 0),
        ("yes, there is a dog.", True, 0),
        ("No, there is no dog", False, 0),
        ("no", False, 0),
        ("There is not", False, 0),
        ("Yes. No doubt", True, 0),  # only what stands before the first full stop
        ("I see none", True, 1),  # the official script takes whatever is no 'no' for a yes
        ("NO", True, 1),  # it knows no other case
        ("Nobody", True, 1),
        ("", True, 1),
        ("no!", True, 1),
    ],
)
def test_pope_reads_answers_as_the_official_script(text, yes, invalid):
    metric = pope.Metric()
    metric.update(_sample("yes"), Prediction(text=text))
    values = metric.compute()
    assert (values["yes_ratio"], values["invalid"]) == (float(yes), invalid)


def _scored(*rows: tuple[str, str, str]) -> dict[str, float]:
    metric = pope.Metric()
    for said, true, source in rows:
        metric.update(_sample(true, source=source), Prediction(text=said))
    return metric.compute()


def test_pope_by_hand():
    """3 TP, 1 FP, 2 TN, 2 FN."""
    answers = [("yes", "yes")] * 3 + [("yes", "no")] + [("no", "no")] * 2 + [("no", "yes")] * 2
    values = _scored(*[(said, true, f"pope/test#{i}") for i, (said, true) in enumerate(answers)])
    wanted = {"accuracy": 5 / 8, "precision": 3 / 4, "recall": 3 / 5, "F1": 2 * 0.75 * 0.6 / 1.35, "yes_ratio": 4 / 8}
    assert values == pytest.approx(wanted | {"n": 8, "invalid": 0})


def test_pope_of_a_model_that_always_says_yes():
    """The paper's sign of it: accuracy 1/2 on balanced questions, recall 1, yes ratio 1."""
    values = _scored(("Yes", "Yes", "a"), ("Yes", "No", "b"))
    assert [values[k] for k in ("accuracy", "precision", "recall", "yes_ratio")] == [0.5, 0.5, 1, 1]
    values = _scored(("No", "yes", "a"), ("No", "no", "b"))
    assert [values[k] for k in ("precision", "recall", "F1", "yes_ratio")] == [0, 0, 0, 0]


def test_pope_settings_apart():
    values = _scored(
        ("yes", "yes", "data/random/coco_pope_popular.jsonl:1"),
        ("no", "no", "data/random/coco_pope_popular.jsonl:2"),
        ("yes", "no", "pope/adversarial#1"),
    )
    assert (values["accuracy"], values["accuracy_popular"], values["F1_adversarial"]) == (2 / 3, 1, 0)
    assert not any(key.endswith("_random") for key in values)
    assert set(_scored(("yes", "yes", "pope/random#1"))) == {
        *("accuracy", "precision", "recall", "F1", "yes_ratio", "n", "invalid")
    }  # one setting needs no values of its own


def test_pope_an_unreadable_answer_is_counted_once():
    metric = pope.Metric()
    metric.update(_sample("no"), Prediction(invalid=1))
    assert metric.compute()["invalid"] == 1


def test_pope_refuses_other_truths():
    with pytest.raises(EvalError, match=r"made/test#0: pope needs a truth of yes or no \(got 'a dog'\)"):
        pope.Metric().update(_sample("a dog"), Prediction(text="yes"))
