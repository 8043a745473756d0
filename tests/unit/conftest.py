"""A Hub on loopback and a merged model to publish there, for several files of tests."""

import json
import types

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http
from PIL import Image

from tests import hub_server
from ufo_tune.core.codec import Codec

GOOD, STRANGER = "hf_" + "g" * 34, "hf_" + "s" * 34
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
