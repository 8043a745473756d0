"""The command line: one line per mistake, exit code 2; arguments reach the functions behind it."""

import json
import subprocess
import sys

import pytest
import yaml

from ufo_tune import cli, resources
from ufo_tune.errors import ConfigError

RECIPE = {
    "model": {"base": "tiny:llava"},
    "data": {"mixture": [{"task": "rec", "dataset": "scenes", "root": "${UFO_TUNE_TEST_UNSET}"}]},
}


@pytest.fixture
def recipe(tmp_path):
    def recipe(**changes):
        data = yaml.safe_load(yaml.safe_dump(RECIPE))
        data["data"]["mixture"][0]["root"] = ""
        (tmp_path / "my.yaml").write_text(yaml.safe_dump({**data, **changes}))
        return str(tmp_path / "my.yaml")

    return recipe


def refused(capsys, *arguments):
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "required: COMMAND"),
        (["trian"], "invalid choice: 'trian'"),
        (["recipes"], "required: COMMAND"),
        (["train"], "required: RECIPE"),
        (["train", "no_such_recipe"], "recipes: no such name (got 'no_such_recipe')"),
        (["train", "nowhere.yaml"], "no such file (got 'nowhere.yaml')"),
        (["train", "x", "--ouut", "y"], "no such argument (got '--ouut')"),
        (["train", "x", "--train.max_steps"], "--train.max_steps has no value"),
        (["train", "x", "--train.max_steps", "--quiet"], "--train.max_steps has no value"),
        (["merge", "x", "--out", "y", "--train.seed", "1"], "no such argument (got '--train.seed')"),
        (["recipes", "show", "no_such_recipe"], "no such name"),
        (["templates", "copy", "no_such_template"], "data_templates: no such name"),
        (["predict", "ckpt", "nowhere.png", "--task", "rec"], "predict: no such file (got nowhere.png)"),
        (["predict", "ckpt", __file__, "--task", "recc"], "did you mean 'rec'?"),
        (["predict", "ckpt", __file__, "--task", "rec", "--text", "x"], "is not an image"),
        (["predict", "ckpt", "a" * 300, "--task", "rec"], "predict: no such file (got aaa"),
        (["prepare", "embedded", "--out", "x", "--codec.mask_token", "[1"], "--codec.mask_token: is no YAML value"),
        (["data", "validate", "nowhere.jsonl"], "nowhere.jsonl"),
        (["data", "validate", "a" * 300], "aaa: no such JSONL file"),
        (["eval", "ckpt", "--suite", ","], "suite: names no protocol"),
        (["eval", "ckpt", "--suite", "x", "--limit", "-1"], "--limit must not be negative"),
        (["eval", "ckpt", "--suite", "x", "--limit", "few"], "invalid int value: 'few'"),
    ],
)
def test_mistakes_are_one_line(capsys, arguments, says):
    assert says in refused(capsys, *arguments)


def test_misspelt_recipe_key(capsys, recipe):
    line = refused(capsys, "train", recipe(train={"learning_rat": 1}))
    assert "my.yaml: train.learning_rat: no such key (got 1); did you mean 'learning_rate'?" in line


def test_bad_override(capsys, recipe):
    assert "data.mixture.7.weight: no such entry" in refused(capsys, "train", recipe(), "--data.mixture.7.weight", "1")
    assert "train.max_steps" in refused(capsys, "check", recipe(), "--train.max_steps=-1")


def test_unset_variable(capsys, tmp_path):
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(RECIPE))
    line = refused(capsys, "train", str(tmp_path / "my.yaml"))
    assert "environment variable is not set (got ${UFO_TUNE_TEST_UNSET})" in line


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("--data.mixture.0.task=recc", "tasks: no such name (got 'recc'); did you mean 'rec'?"),
        ("--data.mixture.0.dataset=sceness", "did you mean 'scenes'?"),
        ("--data.mixture.0.options.sede=1", "sede: no such option"),
        ("--data.mixture.0.template=detection", "template detection: is for task detection"),
        ("--objectives.next_tokn={}", "did you mean 'next_token'?"),
        ("--tasks.rec.rows=3", "tasks.rec.rows: no such option"),
        ("--eval.protocols=[no_such_protocol]", "eval: no such name (got 'no_such_protocol')"),
        ("--model.family=lava", "did you mean 'llava'?"),
        ("--model.codec.num_bin=10", "num_bin: no such field"),
    ],
)
def test_check_refuses_every_unknown_name(capsys, recipe, override, says):
    assert says in refused(capsys, "check", recipe(), override)


def test_check_tells_what_a_recipe_resolves_to(capsys, recipe):
    assert cli.main(["check", recipe()]) == 0
    out = capsys.readouterr().out
    assert "data.mixture.0: rec on scenes/train" in out
    assert "asks" in out and "answers" in out and "<box>" in out
    assert "memory: " in out and "train;" in out


def test_overrides():
    words = ["--train.max_steps", "-1", "--tasks.a.b={c: 1}", "--model.base=x=y"]
    assert cli.parse_overrides(words, ("train", "tasks", "model")) == {
        "train.max_steps": "-1",
        "tasks.a.b": "{c: 1}",
        "model.base": "x=y",
    }
    with pytest.raises(ConfigError, match="no such argument"):
        cli.parse_overrides(["word"], ("train",))


def test_train_gets_the_recipe_and_its_overrides(capsys, monkeypatch, recipe, tmp_path):
    from ufo_tune.engine import train

    seen = {}

    def fake(recipe, out, *, resume, progress):
        seen.update(recipe=recipe, out=out, resume=resume, progress=progress)
        return out

    monkeypatch.setattr(train, "train", fake)
    arguments = ["train", recipe(), "--train.max_steps", "3", "--out", str(tmp_path / "run"), "--resume", "--quiet"]
    assert cli.main(arguments) == 0
    assert seen["recipe"].train.max_steps == 3
    assert (seen["out"], seen["resume"], seen["progress"]) == (tmp_path / "run", True, False)
    assert "ufo-tune merge" in capsys.readouterr().out


def test_lists_print_json_with_every_name(capsys):
    for arguments, kind in ((["recipes", "ls"], "recipes"), (["templates", "ls"], "data_templates")):
        assert cli.main([*arguments, "--json"]) == 0
        assert [row["name"] for row in json.loads(capsys.readouterr().out)] == resources.names(kind)
    assert cli.main(["data", "ls", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert {"scenes", "coco", "jsonl"} <= set(rows)
    assert "detection" in rows["coco"]["tasks"] and rows["coco"]["description"]


def test_show_prints_the_file_and_copy_does_not_overwrite(capsys, tmp_path):
    name = resources.names("recipes")[0]
    text = resources.locate("recipes", name).read_text()
    assert cli.main(["recipes", "show", name]) == 0
    assert capsys.readouterr().out == text
    target = tmp_path / "mine.yaml"
    assert cli.main(["recipes", "copy", name, str(target)]) == 0
    assert target.read_text() == text
    capsys.readouterr()
    assert "the file exists" in refused(capsys, "recipes", "copy", name, str(target))


def test_env_names_versions(capsys):
    assert cli.main(["env", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["python"] == sys.version.split()[0]
    assert facts["torch"].startswith("2.")


def test_interruption_is_130(capsys, monkeypatch):
    from ufo_tune.commands import lists

    def interrupt(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(lists, "env", interrupt)
    assert cli.main(["env"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_our_own_fault_keeps_its_traceback_and_exits_1():
    code = "from ufo_tune.commands import lists; lists.env = None; from ufo_tune.cli import main; main(['env'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_every_shipped_recipe_resolves_without_weights_or_data(capsys, monkeypatch):
    monkeypatch.delenv("COCO", raising=False)
    monkeypatch.delenv("UFO_TUNE_REAL_DATA", raising=False)
    assert cli.main(["recipes", "check", "--all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.partition(":")[0] for line in lines} == set(resources.names("recipes"))


def test_recipes_that_do_not_resolve_are_all_named(tmp_path, capsys):
    for name, family in (("a", "lava"), ("b", "qwenvl")):
        text = f"model: {{base: x, family: {family}}}\ndata: {{mixture: [{{task: rec, dataset: scenes}}]}}\n"
        (tmp_path / f"{name}.yaml").write_text(text)
    assert cli.main(["recipes", "check", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml"), "quickstart"]) == 2
    caught = capsys.readouterr()
    assert "'lava'" in caught.err and "'qwenvl'" in caught.err and "quickstart: model" in caught.out
