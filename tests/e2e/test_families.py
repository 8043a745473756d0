"""Every family through the commands that a user types: train on scenes, evaluate, merge, predict."""

import json

import pytest
import yaml
from PIL import Image

from tests import tiny
from ufo_tune.cli import main
from ufo_tune.datasets import scenes

FALLS_TO = 0.5
"""Of the first ten steps' token loss, in the last ten of 60."""


def recipe(kind, **changes):
    """Four scenes, boxes and masks, from random weights."""
    few = {"dataset": "scenes", "pack": 4, "options": {"size": 4, "phrases": 4}}
    words = [*scenes.WORDS, "detect", "segment", "box", "of", "background"]
    return {
        "model": {
            "family": kind.partition("/")[0],
            "base": f"tiny:{kind}",
            "options": {"words": words, "integers": 40, **changes},
            "codec": {"num_bins": 40, "slot_side": 2},
            **dict.fromkeys(("language", "vision", "projector", "train_tokens"), "full"),
        },
        "data": {
            "mixture": [
                {"task": "rec", "template": "scenes_rec", **few},
                {"task": "res", "template": "scenes_res", **few},
            ]
        },
        "train": {
            "max_steps": 60,
            "per_device_train_batch_size": 2,
            "learning_rate": 3e-3,
            "warmup_steps": 5,
            "adam_beta2": 0.98,
            "logging_steps": 10,
            "report_to": [],
        },
    }


def token_losses(run):
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [row["loss/token"] for row in rows if "loss/token" in row]


@pytest.mark.parametrize("kind", tiny.FAMILIES)
def test_trains_evaluates_merges_and_predicts(kind, tmp_path, capsys):
    file, run, merged, picture = (tmp_path / n for n in ("recipe.yaml", "run", "merged", "picture.png"))
    file.write_text(yaml.safe_dump(recipe(kind)))
    assert main(["train", str(file), "--out", str(run)]) == 0
    losses = token_losses(run)
    assert len(losses) == 6 and losses[-1] < FALLS_TO * losses[0], losses
    assert main(["eval", str(run), "--suite", "scenes_rec:val,scenes_res:val", "--limit", "8"]) == 0
    metrics = json.loads((run / "eval" / "metrics.json").read_text())["protocols"]
    assert metrics["scenes_rec"]["val"]["n"] == 8 == metrics["scenes_res"]["val"]["n"]
    assert main(["merge", str(run), "--out", str(merged)]) == 0
    Image.fromarray(scenes.scene(0, "val", 0).image).save(picture)
    capsys.readouterr()
    out = ["--out", str(tmp_path / "found"), "--json"]
    assert main(["predict", str(merged), str(picture), "--task", "rec", "--text", "the circle", *out]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 1
