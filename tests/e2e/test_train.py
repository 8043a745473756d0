"""The loop on a tiny random model: it learns, resumes bit for bit, and never leaves half a checkpoint."""

import json

import pytest
import torch
from safetensors.torch import load_file

from ufo_tune.config import Protocol, Recipe
from ufo_tune.datasets.scenes import WORDS
from ufo_tune.engine import checkpoint
from ufo_tune.engine.check import check
from ufo_tune.engine.load import load
from ufo_tune.engine.predict import Predictor
from ufo_tune.engine.sources import ask_protocol
from ufo_tune.engine.train import train
from ufo_tune.errors import ConfigError, ModelError, UfoTuneError


def recipe(**changes):
    """Three tasks on scenes, full fine-tuning of a random model of 60k parameters."""
    scenes = {"dataset": "scenes", "options": {"size": 12}}
    data = {
        "model": {
            "base": "tiny:llava",
            "options": {"words": [*WORDS, "detect", "segment", "box", "of", "background"], "integers": 40},
            "codec": {"num_bins": 40, "slot_side": 2},
            "language": "full",
            "vision": "full",
            "projector": "full",
            "train_tokens": "full",
        },
        "tasks": {"detection": {"rows": 3, "cols": 3, "keep": 4}},
        "data": {
            "mixture": [
                {"task": "rec", "template": "scenes_rec", "pack": 2, **scenes},
                {"task": "res", "template": "scenes_res", "pack": 2, **scenes},
                {"task": "detection", "template": "scenes_detection", **scenes},
            ]
        },
        "train": {
            "max_steps": 6,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "learning_rate": 1e-3,
            "save_steps": 3,
            "logging_steps": 1,
            "report_to": [],
        },
    }
    for section, values in changes.items():
        data[section] = {**data.get(section, {}), **values}
    return Recipe.from_dict(data)


def _log(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


LORA = {"language": "lora", "vision": "frozen", "projector": "frozen", "train_tokens": "new"}


@pytest.mark.parametrize("model", [{}, LORA], ids=["full", "lora"])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, model):
    whole = train(recipe(model=model), tmp_path / "whole", progress=False)
    # The same run, killed after its checkpoint at step 3: later files are gone, the log has lines too many.
    train(recipe(model=model), str(tmp_path / "cut"), progress=False)  # a folder may be a str, too
    for late in ("checkpoint-6",):
        for file in (tmp_path / "cut" / late).iterdir():
            file.unlink()
        (tmp_path / "cut" / late).rmdir()
    checkpoint.point(tmp_path / "cut" / "last", "checkpoint-3")
    resumed = train(recipe(model=model), tmp_path / "cut", resume=True, progress=False)
    name = "trained.safetensors" if model else "model.safetensors"
    first, second = load_file(whole / name), load_file(resumed / name)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
    start = load_file(tmp_path / "whole" / "checkpoint-3" / name)
    assert any(not torch.equal(first[k], start[k]) for k in first), "steps 4 to 6 must have moved the weights"


def test_a_killed_save_leaves_the_last_complete_checkpoint(tmp_path, monkeypatch):
    def dies(*_args, **_kwargs):
        raise KeyboardInterrupt

    real = checkpoint.torch.save
    calls = []

    def save_then_die(state, file):
        calls.append(file)
        return real(state, file) if len(calls) == 1 else dies()

    monkeypatch.setattr(checkpoint.torch, "save", save_then_die)
    with pytest.raises(KeyboardInterrupt):
        train(recipe(), tmp_path / "run", progress=False)
    assert checkpoint.steps(tmp_path / "run") == [3]
    assert (tmp_path / "run" / "last").resolve().name == "checkpoint-3"
    monkeypatch.undo()
    load(tmp_path / "run")
    train(recipe(), tmp_path / "run", resume=True, progress=False)
    assert (tmp_path / "run" / "last").resolve().name == "checkpoint-6"


def test_a_truncated_checkpoint_is_one_clear_error(tmp_path):
    last = train(recipe(train={"max_steps": 1}), tmp_path / "run", progress=False)
    weights = last / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"checkpoint-1.*incomplete"):
        load(tmp_path / "run")
    with pytest.raises(ModelError, match=r"checkpoint-1.*incomplete"):
        train(recipe(train={"max_steps": 2}), tmp_path / "run", resume=True, progress=False)


def test_an_existing_run_is_not_overwritten(tmp_path):
    train(recipe(train={"max_steps": 1}), tmp_path / "run", progress=False)
    with pytest.raises(ConfigError, match="--resume"):
        train(recipe(train={"max_steps": 1}), tmp_path / "run", progress=False)


def test_losses_are_logged_and_fall(tmp_path):
    out = tmp_path / "run"
    many = recipe(train={"max_steps": 60, "save_steps": 0, "logging_steps": 10, "learning_rate": 3e-3})
    train(many, out, progress=False)
    lines = _log(out)
    assert [line["step"] for line in lines] == [10, 20, 30, 40, 50, 60]
    assert lines[-1]["loss/token"] < 0.7 * lines[0]["loss/token"]
    assert lines[-1]["loss/dice"] < lines[0]["loss/dice"]


def test_accumulation_equals_one_big_batch(tmp_path):
    """Losses are sums over counts of the whole window, so 1 x 4 rows and 4 x 1 rows give the same step."""
    only = {"mixture": [{"task": "rec", "dataset": "scenes", "template": "scenes_rec", "options": {"size": 12}}]}
    results = []
    for batch, accumulation in ((4, 1), (1, 4)):
        out = tmp_path / f"b{batch}"
        section = {"max_steps": 1, "per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
        section["max_grad_norm"] = 0.5
        last = train(recipe(data=only, train={**section, "save_steps": 0}), out, progress=False)
        state = torch.load(last / "training_state.pt", weights_only=True)
        # After one step of AdamW the first moment is a tenth of the clipped gradient: what is compared.
        moments = [s["exp_avg"] for s in state["optimizer"]["state"].values()]
        results.append(torch.cat([m.flatten() for m in moments]))
    assert float(results[0].norm()) == pytest.approx(0.1 * 0.5, rel=1e-4), "clipped to the recipe's norm"
    assert torch.allclose(results[0], results[1], atol=1e-6)


def test_own_wording_travels_with_the_weights(tmp_path):
    """A template of one's own, even by the name of a shipped one, is asked wherever its file is no more."""
    own = tmp_path / "res.yaml"
    own.write_text(
        'task: res\nquestions: ["segment {phrase}"]\neval_question: "segment {phrase}"\nanswers: ["{mask}"]\n'
    )
    scenes = {"task": "res", "dataset": "scenes", "options": {"size": 12}}
    entries = [{**scenes, "template": str(own), "weight": 7}, {**scenes, "template": "reason_seg"}]
    step = {"max_steps": 1, "gradient_accumulation_steps": 1}
    last = train(recipe(data={"mixture": entries}, train=step), tmp_path / "run", progress=False)
    own.unlink()
    model = load(last)
    merged = tmp_path / "merged"
    model.save(merged)
    for asked in (Predictor(model).asked("res"), Predictor(load(merged)).asked("res")):
        assert asked.template.question(None, phrase="the ball") == "segment the ball"
    protocol = Protocol(task="res", dataset="scenes", splits=("test",), metric="seg_iou")
    assert ask_protocol(protocol, model).template.eval_question == "segment {phrase}"


def test_a_protocol_asks_as_training_did_on_its_dataset(tmp_path):
    """Seven phrases to one sentence: phrases are asked as phrases, and the sentences' dataset as sentences."""
    row = {"messages": [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "a ball"}]}
    (tmp_path / "train.jsonl").write_text(json.dumps(row))
    entries = [
        {"task": "vqa", "template": "scenes_vqa", "dataset": "jsonl", "root": str(tmp_path), "weight": 1},
        {"task": "vqa", "template": "vqa", "dataset": "scenes", "options": {"size": 12}, "weight": 7},
    ]
    step = {"max_steps": 1, "gradient_accumulation_steps": 1}
    model = load(train(recipe(data={"mixture": entries}, train=step), tmp_path / "run", progress=False))
    shared = {"task": "vqa", "splits": ("test",), "metric": "seg_iou", "template": "short_answer"}
    names = [ask_protocol(Protocol(dataset=d, **shared), model).template.name for d in ("jsonl", "scenes", "gqa")]
    assert names == ["scenes_vqa", "vqa", "short_answer"] and Predictor(model).asked("vqa").template.name == "vqa"


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"best": "scenes_rec/val/Acc"}, r"eval.best: no such value .*did you mean.*Acc@0.5"),
        ({"protocols": ["scenes_rec:val", "own_masks:val"]}, r"none/val\.jsonl: no such JSONL file"),
    ],
)
def test_what_cannot_be_evaluated_is_told_before_the_first_step(tmp_path, monkeypatch, section, says):
    monkeypatch.setenv("DATA", str(tmp_path / "none"))
    plan = recipe(eval={"every": 3, "protocols": ["scenes_rec:val"], **section})
    with pytest.raises(UfoTuneError, match=says):
        train(plan, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UfoTuneError, match=says):
        check(plan)
