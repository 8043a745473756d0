"""``publish`` against a local Hub: up and down again, and everything that can go wrong on the way."""

import hashlib
import json
import types

import pytest
import yaml
from huggingface_hub import constants, snapshot_download
from huggingface_hub.utils import _http
from PIL import Image

from tests import hub_server
from ufo_tune.cli import main
from ufo_tune.config import Recipe
from ufo_tune.core.codec import Codec
from ufo_tune.engine import remote
from ufo_tune.engine.load import load
from ufo_tune.errors import ModelError

GOOD, STRANGER = "hf_" + "g" * 34, "hf_" + "s" * 34
DATA = {"data": {"mixture": [{"task": "res", "dataset": "scenes"}]}}
SHARDS = {"model-00001-of-00002.safetensors": b"\x01" * 40_000, "model-00002-of-00002.safetensors": b"\x02" * 50_000}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Where huggingface_hub finds the Hub; it reads HF_ENDPOINT and the like when it is imported."""
    with hub_server.Hub({GOOD: "org", STRANGER: "stranger"}) as server:
        point_to(server, monkeypatch, tmp_path / "cache")
        yield server


def point_to(server, monkeypatch, cache):
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(_http, "time", types.SimpleNamespace(sleep=lambda _: None))  # before it tries again
    monkeypatch.setenv("HF_TOKEN", GOOD)


@pytest.fixture
def merged(tmp_path):
    """A folder as ``merge`` writes it; the weights are any bytes, for nothing loads them."""
    folder = tmp_path / "merged"
    folder.mkdir()
    settings = {
        "schema": 1,
        "family": "llava",
        "codec": Codec().to_dict(),
        "options": {"tiles": 1},
        "templates": {"res": "res"},
        "task_options": {},
        "origin": {"base": "llava-hf/llava-1.5-7b-hf", "licence": "llama2"},
        "trained": {"tasks": ["res"], "recipe": {}, "weights": {"run": "aaaa", "merged": "bbbb"}},
    }
    (folder / "ufo_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}" + " " * (30 << 10))  # large enough for LFS
    (folder / "LICENSE.txt").write_text("LLAMA 2 COMMUNITY LICENSE AGREEMENT\n")
    (folder / "model.safetensors.index.json").write_text("{}")
    for name, content in SHARDS.items():
        (folder / name).write_bytes(content)
    return folder


def evaluated(folder, weights="bbbb"):
    """Scores as ``eval`` writes them, with two pictures."""
    protocol = {"task": "res", "dataset": "refcoco", "metric": "seg_iou", "options": {"variant": "refcoco"}}
    protocol |= {"description": "RES on RefCOCO", "decode": {"batch_size": 8}}
    protocol["reference"] = [
        {"model": "UFO-InternVL2.5-8B", "split": "val", "cIoU": 0.81, "source": "UFO, table 3"},
        {"model": "UFO-InternVL2.5-8B", "split": "testA", "cIoU": 0.826, "source": "UFO, table 3"},
    ]
    values = {"cIoU": 0.625, "gIoU": float("nan"), "n": 40, "invalid": 3, "seconds": 1.5}
    document = {"protocol": protocol, "template": "res", "weights": weights, "ufo_tune": "0.1.0", "limit": 40}
    one = folder / "res_refcoco"
    pictures = one / "val" / "pictures"
    pictures.mkdir(parents=True)
    (one / "metrics.json").write_text(json.dumps(document | {"splits": {"val": values}, "sanity": {}}))
    (folder / "metrics.json").write_text(json.dumps({"protocols": {}, "weights": weights}))  # the summary of all
    captions = {"best_00.jpg": "“the red bus”: 1 found (cIoU 0.98)", "worst_00.jpg": "“left man”: 1 found (cIoU 0.01)"}
    for name in captions:
        Image.new("RGB", (8, 8)).save(pictures / name)
    (pictures / "captions.json").write_text(json.dumps(captions))
    return folder


def audited(suite, **changes):
    """A row of ``data audit --json``: two pictures of seven, one of which looks like three of the five."""
    pairs = [("train.jsonl:1", "a"), ("train.jsonl:1", "b"), ("train.jsonl:1", "c"), ("train.jsonl:4", "d")]
    overlaps = [{"ours": ours, "theirs": theirs, "by_name": False, "bits": 0} for ours, theirs in pairs]
    row = {"entry": "data.mixture.0", "suite": suite, "images": 7, "held_images": 5, "overlaps": overlaps}
    return row | {"samples": 9, "other_pictures": 0, "unreadable": 0} | changes


def local(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_up_and_down_again_byte_for_byte(hub, merged, tmp_path, capsys):
    (merged / "notes.txt").write_text("mine")
    assert main(["publish", str(merged), "org/name"]) == 0
    said = capsys.readouterr().out
    assert f"published: {hub.url}/org/name" in said and "left out  notes.txt" in said
    sent = {name: content for name, content in local(merged).items() if name != "notes.txt"}
    up = hub.files("org/name")
    assert up.keys() == sent.keys() | {"README.md"}
    assert {name: up[name] for name in sent} == sent
    snapshot_download("org/name", local_dir=tmp_path / "down")
    assert {name: content for name, content in local(tmp_path / "down").items() if not name.startswith(".cache")} == up
    assert local(remote.snapshot("org/name")).keys() == sent.keys() - {"LICENSE.txt"}  # what `load` needs


def test_a_private_repository_is_nobody_elses(hub, merged, monkeypatch, capsys):
    assert main(["publish", str(merged), "org/name", "--private"]) == 0
    assert hub.repos["org/name"].private
    monkeypatch.setenv("HF_TOKEN", STRANGER)
    with pytest.raises(ModelError, match=r"org/name: no such folder here, and no such model on the Hub, or a private"):
        remote.snapshot("org/name")


def test_private_is_refused_where_the_repository_is_public(hub, merged, capsys):
    hub.repos["org/name"] = hub_server.Repo(private=False)
    assert main(["publish", str(merged), "org/name", "--private"]) == 2
    assert "org/name: is there already and public" in capsys.readouterr().err
    assert hub.files("org/name") == {}


def test_an_existing_repository_gets_a_new_commit_without_stale_shards(hub, merged, capsys):
    old = {
        "model-00003-of-00003.safetensors": b"old",
        "images/old.jpg": b"old",
        "demo.gif": b"kept",
        "config.json": b"old",
    }
    hub.repos["org/name"] = hub_server.Repo(private=False, commits=[("1" * 40, old)])
    assert main(["publish", str(merged), "org/name"]) == 0
    assert f"updated: {hub.url}/org/name" in capsys.readouterr().out
    up = hub.files("org/name")
    assert up["demo.gif"] == b"kept" and up["config.json"] == b"{}"
    assert not {"model-00003-of-00003.safetensors", "images/old.jpg"} & up.keys()
    assert hub.repos["org/name"].commits[0][1] == old  # history


@pytest.mark.parametrize(
    ("token", "wrong"),
    [("hf_" + "x" * 34, "does not know the token (got 401)"), (STRANGER, "has no right to do this (got 403)")],
)
def test_a_bad_token_or_no_rights(hub, merged, monkeypatch, capsys, token, wrong):
    monkeypatch.setenv("HF_TOKEN", token)
    assert main(["publish", str(merged), "org/name"]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: org/name: ") and wrong in err
    assert token not in out + err
    assert hub.repos == {}


def test_without_a_token(hub, merged, monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert main(["publish", str(merged), "org/name"]) == 2
    assert "got no token" in capsys.readouterr().err


def test_broken_off_it_goes_on_where_it_was(hub, merged, capsys):
    first, second = (hashlib.sha256(content).hexdigest() for content in SHARDS.values())
    hub.broken = {second}
    assert main(["publish", str(merged), "org/name"]) == 2
    out, err = capsys.readouterr()
    assert "broke off" in err and "give the same command again" in err and GOOD not in out + err
    assert hub.files("org/name") == {}  # no half model
    assert hub.count("PUT", first) == 1
    assert hub.count("PUT", second) > 1  # it tried again by itself
    hub.broken = set()
    assert main(["publish", str(merged), "org/name"]) == 0
    assert hub.count("PUT", first) == 1  # not sent again
    assert {name: hub.files("org/name")[name] for name in SHARDS} == SHARDS


def test_nobody_listens(hub, merged, capsys):
    hub.__exit__()
    assert main(["publish", str(merged), "org/name"]) == 2
    assert "org/name: the Hub cannot be reached" in capsys.readouterr().err
    with pytest.raises(
        ModelError, match=r"org/name: no such folder here, and the Hub cannot be reached.*check the net"
    ):
        remote.snapshot("org/name")


def test_what_load_says_of_repositories(hub, merged):
    hub.repos["org/plain"] = hub_server.Repo(private=False, commits=[("1" * 40, {"config.json": b"{}"})])
    with pytest.raises(ModelError, match=r"org/plain: is on the Hub, but not a model of ufo-tune.*ufo-tune prepare"):
        remote.snapshot("org/plain")
    with pytest.raises(ModelError, match=r"org/none: no such folder here, and no such model on the Hub"):
        remote.snapshot("org/none")
    with pytest.raises(ModelError, match=r"org/plain: no such revision"):
        remote.snapshot("org/plain", "v9")


def test_what_a_mistyped_base_is_told(hub, tmp_path, monkeypatch, capsys):
    """What can be no repository is refused at once; of what can be one, the Hub is asked."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics" / "rgb.png").write_bytes(b"")
    for name in ("./bases/typo", "../typo", "/none/typo", "three/parts/typo", "pics/rgb.png"):
        for command in (["check", "quickstart", "--model.base", name], ["prepare", name, "--out", "out"]):
            assert main(command) == 2
            assert f"error: {name}: no such folder (got" in capsys.readouterr().err
        with pytest.raises(ModelError, match=rf"{name}: no such folder \(got"):
            load(name)
    Image.new("RGB", (8, 8)).save("red.png")
    for command in (
        ["predict", "./a/typo", "red.png", "--task", "res", "--text", "x"],
        ["eval", "./a/typo", "--suite", "scenes_res"],
    ):
        assert main(command) == 2
        assert "error: ./a/typo: no such folder (got nothing there)" in capsys.readouterr().err
    assert not hub.requests
    for command in (["check", "quickstart", "--model.base", "bases/typo"], ["prepare", "bases/typo", "--out", "o"]):
        assert main(command) == 2
        assert "error: bases/typo: no such folder here, and not loaded from the Hub" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["check", "quickstart", "--model.base", "empty"]) == 2
    assert "error: empty: holds no model (got no config.json)" in capsys.readouterr().err


def test_a_recipe_is_checked_without_a_network(hub, capsys):
    hub.__exit__()
    assert main(["check", "quickstart", "--model.base", "org/name"]) == 0
    said = capsys.readouterr().out
    assert "memory: not estimated (org/name: no such folder here, and not loaded from the Hub" in said


def test_an_untrained_base_is_told_to_train_first(hub, merged, capsys):
    file = merged / "ufo_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, "templates": {}}))
    assert main(["publish", str(merged), "org/name", "--dry-run"]) == 2
    assert "merged: was taught nothing yet" in capsys.readouterr().err and not hub.requests


def test_fewer_than_no_pictures(hub, merged, capsys):
    assert main(["publish", str(merged), "org/name", "--dry-run", "--pictures", "-1"]) == 2
    assert "--pictures must not be negative (got -1)" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["optimizer.pt", "pytorch_model.bin", "extra/state.pkl"])
def test_pickles_are_refused(hub, merged, capsys, name):
    (merged / name).parent.mkdir(exist_ok=True)
    (merged / name).write_bytes(b"x")
    assert main(["publish", str(merged), "org/name", "--dry-run"]) == 2
    assert f"{merged / name}: a pickle" in capsys.readouterr().err


@pytest.mark.parametrize("name", [".env", "id_rsa", "server.pem", "aws_credentials.json", ".git-credentials", "token"])
def test_secrets_are_refused_by_name(hub, merged, capsys, name):
    (merged / name).write_text("x")
    assert main(["publish", str(merged), "org/name"]) == 2
    assert f"{merged / name}: looks like a secret" in capsys.readouterr().err
    assert hub.requests == []


def test_secrets_are_refused_by_content_and_never_told(hub, merged, capsys):
    (merged / "recipe.yaml").write_text(f"hub_token: {GOOD}\n")
    assert main(["publish", str(merged), "org/name"]) == 2
    out, err = capsys.readouterr()
    assert "recipe.yaml: looks like a secret" in err and GOOD not in out + err


def test_a_run_is_told_to_merge_first(hub, tmp_path, capsys):
    (tmp_path / "run" / "last").mkdir(parents=True)
    assert main(["publish", str(tmp_path / "run"), "org/name"]) == 2
    assert f"ufo-tune merge {tmp_path / 'run'} --out {tmp_path / 'run'}-merged" in capsys.readouterr().err


@pytest.mark.parametrize("repo", ["name", "a/b/c", "org/na me", "../etc"])
def test_names_that_are_no_repositories(hub, merged, capsys, repo):
    assert main(["publish", str(merged), repo]) == 2
    assert f"not a repository's name (got {repo!r}); give ORG/NAME" in capsys.readouterr().err


def test_a_dry_run_asks_nobody_and_says_all(hub, merged, tmp_path, capsys):
    scores = evaluated(tmp_path / "scores")
    assert main(["publish", str(merged), "org/name", "--dry-run", "--results", str(scores)]) == 0
    said = capsys.readouterr().out
    assert hub.requests == []
    assert "         40,000  model-00001-of-00002.safetensors" in said
    assert "images/res_refcoco_val_worst_00.jpg" in said
    assert 'ufo_tune.load("org/name")' in said and "nothing was uploaded" in said


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
