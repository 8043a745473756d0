"""What ``merge`` writes is a plain Hugging Face folder: the same model in a process that cannot import ufo-tune."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from ufo_tune.config import Recipe
from ufo_tune.engine import checkpoint
from ufo_tune.engine.hub import merge
from ufo_tune.engine.load import load
from ufo_tune.engine.trainable import Trainable
from ufo_tune.models import lora

TEXT = "MADE FOR THIS TEST LICENSE\n"
MEND = f"""
import runpy, sys
sys.modules["ufo_tune"] = None  # importing it would raise
mended = runpy.run_path({str(Path(__file__).resolve().parents[2] / "ufo_tune" / "_torchvision.py")!r})
mended["available"]()  # a CUDA-built torchvision beside a CPU torch, as on the machines that test this
"""
ALONE = """
import json, sys
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

folder, given = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
processor = AutoProcessor.from_pretrained(folder)
tensors = load_file(given)
expected = tensors.pop("logits")
logits = model(**tensors).logits
from PIL import Image
picture = Image.new("RGB", (60, 40), "red")
content = [{"type": "image", "image": picture}, {"type": "text", "text": "what is the red circle ?"}]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": content}],
    add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
)
out = model.generate(**inputs, max_new_tokens=4, do_sample=False, eos_token_id=None)
heads = [model.get_input_embeddings().weight.data_ptr(), model.get_output_embeddings().weight.data_ptr()]
print(json.dumps({
    "difference": float((logits - expected).abs().max() / expected.abs().max()),
    "same_inputs": all(torch.equal(inputs[k], tensors[k]) for k in tensors),
    "new": out.shape[1] - inputs["input_ids"].shape[1],
    "tied": heads[0] == heads[1],
}))
"""


def chat(processor: Any) -> dict[str, torch.Tensor]:
    """What transformers itself makes of a picture and a question."""
    from PIL import Image

    content = [{"type": "image", "image": Image.new("RGB", (60, 40), "red")}]
    content.append({"type": "text", "text": "what is the red circle ?"})
    return dict(
        processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
    )


def lora_run(kind: str, folder: Path, dtype: torch.dtype) -> Path:
    """A checkpoint with an adapter away from zero and heads of objectives, on a base of some precision."""
    built = tiny.model(kind, folder)
    built.vlm.hf.to(dtype)
    built.save(folder / "prepared")
    (folder / "prepared" / "LICENSE").write_text(TEXT)
    entry = {"task": "res", "dataset": "scenes", "template": "scenes_res", "root": str(folder)}
    recipe = Recipe.from_dict({"model": {"base": str(folder / "prepared")}, "data": {"mixture": [entry]}})
    model = load(folder / "prepared")
    model.settings |= {"base": str(folder / "prepared"), "base_options": {}, "templates": {"res": "scenes_res"}}
    lora.apply(model, recipe.model)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    weights = dict(Trainable(model, recipe.objectives).state_dict())
    weights["objectives.made.head.weight"] = torch.ones(3)
    checkpoint.write(folder / "run", model, weights, recipe, {"step": 1})
    return folder / "run"


@pytest.mark.parametrize(("kind", "dtype"), [("llava", torch.bfloat16), ("gemma3", torch.float32)])
def test_a_merged_run_is_a_plain_folder(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    run, out = lora_run(kind, tmp_path, dtype), tmp_path / "merged"
    assert (run / "objectives.safetensors").exists()
    adapter = load(run)
    inputs = chat(adapter.processor.hf)
    with torch.inference_mode():
        logits = adapter.vlm.hf(**inputs).logits  # type: ignore[operator]
    base_logits = load(tmp_path / "prepared").vlm.hf(**inputs).logits  # type: ignore[operator]
    moved = float((logits - base_logits).abs().max() / logits.abs().max())
    given = {k: v.contiguous() for k, v in inputs.items()} | {"logits": logits.contiguous()}
    save_file(given, tmp_path / "given.safetensors")
    differences = merge(run, out)
    assert set(differences) == {"text", "mask"}

    saved = load_file(out / "model.safetensors")
    assert {v.dtype for v in saved.values()} == {dtype}  # the base's own, though CPUs compute in float32
    assert not [n for n in saved if "lora" in n or "objectives" in n or "made" in n]
    names = {file.name for file in out.iterdir()}
    assert {"config.json", "generation_config.json", "chat_template.jinja", "recipe.yaml", "ufo_config.json"} <= names
    assert not names & {"objectives.safetensors", "training_state.pt", "adapter_config.json", "trained.safetensors"}
    assert (out / "LICENSE").read_text() == TEXT
    texts = [(out / name).read_text() for name in ("ufo_config.json", "recipe.yaml")]
    assert not [text for text in texts if str(tmp_path) in text]  # nobody needs to know this machine
    assert json.loads(texts[0])["trained"]["recipe"]["data"]["mixture"][0]["root"] == f"${{DATA}}/{tmp_path.name}"

    command = [sys.executable, "-c", MEND + ALONE, str(out), str(tmp_path / "given.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    tied = kind == "gemma3"
    assert found["tied"] == tied and ("lm_head.weight" not in saved) == tied
    assert found["same_inputs"] and found["new"] == 4
    bound = 1e-4 if dtype == torch.float32 else 2e-2  # 8 bits of mantissa, through two layers
    assert found["difference"] < bound < moved / 2, (found, moved)
