"""``publish`` against a local Hub: up and down again, and everything that can go wrong on the way."""

import hashlib
import json

import pytest
from huggingface_hub import constants, snapshot_download
from PIL import Image

from tests import hub_server
from tests.unit.conftest import GOOD, SHARDS, STRANGER, evaluated
from ufo_tune.cli import main
from ufo_tune.engine import remote
from ufo_tune.engine.load import load
from ufo_tune.errors import ModelError

DATA = {"data": {"mixture": [{"task": "res", "dataset": "scenes"}]}}


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
