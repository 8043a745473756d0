"""Model cards: what is said of scores, data and licences, read back from the Hub."""

import json

import pytest
import yaml

from tests.unit.conftest import audited, evaluated
from ufo_tune.cli import main
from ufo_tune.config import Recipe

DATA = {"data": {"mixture": [{"task": "res", "dataset": "scenes"}]}}


def card_of(hub, repo="org/name"):
    text = hub.files(repo)["README.md"].decode()
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_card_has_licence_scores_and_references(hub, merged, tmp_path):
    scores = evaluated(tmp_path / "scores")
    (scores / "audit.json").write_text(json.dumps({"missing": [], "overlaps": [audited("res_refcoco:val")]}))
    assert main(["publish", str(merged), "org/name", "--results", str(scores)]) == 0
    front, body = card_of(hub)
    assert front["license"] == "llama2" and front["base_model"] == "llava-hf/llava-1.5-7b-hf"
    assert front["pipeline_tag"] == "image-text-to-text" and {"ufo-tune", "res"} <= set(front["tags"])
    (result,) = front["model-index"][0]["results"]
    assert result["dataset"]["type"] == "refcoco" and result["dataset"]["split"] == "val"
    assert result["dataset"]["args"]["n"] == 40 and result["dataset"]["args"]["invalid"] == 3
    (metric,) = result["metrics"]  # a score that is not a number is no score
    assert metric["type"] == "cIoU" and metric["value"] == 0.625
    assert metric["args"]["protocol"] == "res_refcoco" and metric["args"]["measured_on"] == "these weights"
    assert "| **this one** | val | 40 | 3 | 0.625 | measured |" in body
    assert "| UFO-InternVL2.5-8B | val |  |  | 0.81 | UFO, table 3 |" in body
    assert "0.826" not in body  # of a split that was not measured
    assert "only the first 40 samples" in body.lower()
    assert "data.mixture.0 and res_refcoco:val: 2 of 7 pictures of this data are among the 5 of evaluation, by" in body
    assert "or look.\n" in body and "not checked" not in body
    assert "[LICENSE.txt](LICENSE.txt)" in body
    for kind in ("best", "worst"):
        name = f"images/res_refcoco_val_{kind}_00.jpg"
        assert f"]({name})" in body
        assert hub.files("org/name")[name] == (scores / f"res_refcoco/val/pictures/{kind}_00.jpg").read_bytes()


@pytest.mark.parametrize(
    ("audit", "protocols", "says"),
    [
        (None, [], ["res_refcoco:val: not checked (`ufo-tune data audit`)."]),
        ([], [], ["res_refcoco:val: not checked (`ufo-tune data audit`)."]),  # no suite of it could be opened
        ([audited("res_refcoco:testA", overlaps=[])], [], ["val: not checked", "testA: 0 of 7 pictures of this data"]),
        ([audited("res_refcoco:val", overlaps=[])], [], ["res_refcoco:val: 0 of 7 pictures of this data are among"]),
        ([audited("res_refcoco:val", unreadable=2, skipped=3)], [], ["look; 2 could not be opened; 3 bad rows were"]),
        (None, ["${DATA}/res_refcoco.yaml:val"], ["res_refcoco:val: training left out its pictures"]),
        (None, ["rec_refcoco", "res_refcoco"], ["res_refcoco:val: training left out its pictures"]),
        (None, ["rec_refcoco:val", "res_refcoco:testA"], ["res_refcoco:val: not checked"]),
    ],
)
def test_the_card_says_of_every_score_whether_training_saw_it(hub, merged, tmp_path, audit, protocols, says):
    scores = evaluated(tmp_path / "scores")
    settings = json.loads((merged / "ufo_config.json").read_text())
    recipe = Recipe.from_dict({"model": {"base": "tiny:llava"}} | DATA).model_dump(mode="json")
    settings["trained"]["recipe"] = recipe | {"eval": {**recipe["eval"], "protocols": protocols}}
    (merged / "ufo_config.json").write_text(json.dumps(settings))
    if audit is not None:
        (scores / "audit.json").write_text(json.dumps({"missing": [], "overlaps": audit}))
    assert main(["publish", str(merged), "org/name", "--results", str(scores)]) == 0
    section = card_of(hub)[1].partition("## Pictures of evaluation that training saw\n")[2].partition("\n## ")[0]
    assert section.count("\n- ") == len(says) and "Nothing was evaluated" not in section
    for line in says:
        assert line in section


@pytest.mark.parametrize(
    ("metric", "values", "kept"),
    [
        ("coco_ap", {"AP": 0.25, "AP50": 0.5, "APs": 0.0, "APl": -1.0}, {"AP": 0.25, "AP50": 0.5, "APs": 0.0}),
        ("lvis_ap", {"AP": 0.25, "APr": -1.0}, {"AP": 0.25}),
        ("miou", {"mIoU": 0.5, "n_classes": 6}, {"mIoU": 0.5}),
        ("normal_error", {"mean": 21.5, "within_30": 0.75, "n_pixels": 180224}, {"mean": 21.5, "within_30": 0.75}),
        ("tests.fixtures.plugins.made_eval.signed", {"skill": -1.0, "n_tries": 3}, {"skill": -1.0}),
    ],
)
def test_counts_and_what_is_not_defined_are_no_scores(hub, merged, tmp_path, metric, values, kept):
    """-1 is COCO's word for "no such true object"; a metric that does not say so may score below zero."""
    scores = evaluated(tmp_path / "scores")
    file = scores / "res_refcoco" / "metrics.json"
    document = json.loads(file.read_text())
    document["protocol"] |= {"metric": metric, "reference": []}
    document["splits"]["val"] = {**values, "n": 40, "invalid": 3, "seconds": 1.5}
    file.write_text(json.dumps(document))
    assert main(["publish", str(merged), "org/name", "--results", str(scores)]) == 0
    front, body = card_of(hub)
    (result,) = front["model-index"][0]["results"]
    assert {m["type"]: m["value"] for m in result["metrics"]} == kept
    assert f"| model | split | n | invalid | {' | '.join(kept)} | source |" in body


def test_no_pictures_where_none_are_wanted(hub, merged, tmp_path):
    scores = evaluated(tmp_path / "scores")
    assert main(["publish", str(merged), "org/name", "--results", str(scores), "--pictures", "0"]) == 0
    assert not [name for name in hub.files("org/name") if name.startswith("images/")]


def test_scores_of_the_run_are_called_so_and_those_of_other_weights_refused(hub, merged, tmp_path, capsys):
    assert main(["publish", str(merged), "org/name", "--results", str(evaluated(tmp_path / "run", "aaaa"))]) == 0
    assert "measured on the run before it was merged" in card_of(hub)[1]
    assert main(["publish", str(merged), "org/name", "--results", str(evaluated(tmp_path / "other", "cccc"))]) == 2
    assert "scores of other weights (got cccc" in capsys.readouterr().err


def test_a_card_of_ones_own_goes_up_as_it_is(hub, merged):
    (merged / "README.md").write_text("---\nlicense: mit\n---\nmine\n")
    assert main(["publish", str(merged), "org/name"]) == 0
    assert hub.files("org/name")["README.md"] == b"---\nlicense: mit\n---\nmine\n"


def test_what_is_unknown_is_called_unknown(hub, merged):
    settings = json.loads((merged / "ufo_config.json").read_text())
    del settings["origin"], settings["trained"]  # merged by an older ufo-tune
    (merged / "ufo_config.json").write_text(json.dumps(settings))
    assert main(["publish", str(merged), "org/name"]) == 0
    front, body = card_of(hub)
    assert "license" not in front and "base_model" not in front
    assert "licence is not known to ufo-tune" in body and "Not measured." in body
