"""Released weights: files of the exact key layout (small), read back and compared with arithmetic written out here."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ufo_tune.cli import main
from ufo_tune.core.types import Answer, Dialogue, Turn
from ufo_tune.engine import probe
from ufo_tune.engine.import_ufo import import_ufo, read
from ufo_tune.engine.load import load
from ufo_tune.errors import ModelError
from ufo_tune.models import tiny as builder
from ufo_tune.models.released.internvl import _heads

R, ALPHA = 2, 16
HEADS, GROUPS, SIZE, WIDTH = 4, 2, 16, 64


def noise(*shape, seed):
    return 0.05 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def llava(tmp_path):
    return builder.build("llava", tmp_path / "llava", width=WIDTH)


@pytest.fixture
def internvl(tmp_path):
    return builder.build("internvl/internvl2_5", tmp_path / "internvl", width=WIDTH, heads=HEADS, kv_heads=GROUPS)


def base_state(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def rows(folder: Path, extra: int) -> tuple[Tensor, Tensor]:
    """Embedding and head of the released vocabulary."""
    state = base_state(folder)
    old = len(state["lm_head.weight"])
    return noise(old + extra, WIDTH, seed=1), noise(old + extra, WIDTH, seed=2)


def llava_release(folder: Path, infix: str = "") -> dict[str, Tensor]:
    """What UFO's LLaVA saves: LoRA, embeddings, head, norm; ``infix`` is ``.base_layer`` since PEFT 0.6."""
    lm = "backbone.language_model.base_model.model."
    embed, head = rows(folder, 5)
    state = {
        f"{lm}model.embed_tokens.weight": embed,
        f"{lm}lm_head.weight": head,
        f"{lm}model.norm.weight": 1 + noise(WIDTH, seed=3),
        f"{lm}model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "backbone.vision_tower.vision_model.embeddings.position_ids": torch.zeros(1, 37, dtype=torch.long),
        "backbone.multi_modal_projector.linear_1.bias": noise(WIDTH, seed=4),
        f"{lm}model.layers.1.mlp.up_proj{infix}.weight": noise(192, WIDTH, seed=5),
    }
    for layer in range(2):
        for number, (name, n_in, n_out) in enumerate(
            [("self_attn.q_proj", 64, 64), ("self_attn.o_proj", 64, 64), ("mlp.up_proj", 64, 192)]
        ):
            stem = f"{lm}model.layers.{layer}.{name}"
            state[f"{stem}.lora_A.default.weight"] = noise(R, n_in, seed=10 * layer + number + 20)
            state[f"{stem}.lora_B.default.weight"] = noise(n_out, R, seed=10 * layer + number + 50)
    return state


def save(state, file, form):
    wrapped = {"bare": state, "mmengine": {"state_dict": state, "meta": {"epoch": 1}}}[form]
    torch.save(wrapped, file)
    return file


@pytest.mark.parametrize(("form", "infix"), [("bare", ""), ("mmengine", ".base_layer")])
def test_llava_lora_is_merged_into_the_base(llava, tmp_path, form, infix):
    release = llava_release(llava, infix)
    found = import_ufo(save(release, tmp_path / "ufo.pth", form), str(llava), tmp_path / "out", family="llava")
    assert found["keys"] == len(release) and found["lora"] == 12 and found["ignored"] == 2
    model = load(tmp_path / "out", dtype="float32")
    mine, old = dict(model.vlm.hf.named_parameters()), base_state(llava)
    lm = "backbone.language_model.base_model.model."
    a, b = (release[f"{lm}model.layers.1.mlp.up_proj.lora_{x}.default.weight"] for x in "AB")
    own = release[f"{lm}model.layers.1.mlp.up_proj{infix}.weight"]
    torch.testing.assert_close(mine["model.language_model.layers.1.mlp.up_proj.weight"], own + ALPHA / R * b @ a)
    a, b = (release[f"{lm}model.layers.0.self_attn.q_proj.lora_{x}.default.weight"] for x in "AB")
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    torch.testing.assert_close(mine[name], old[name] + ALPHA / R * b @ a)
    untouched = "model.language_model.layers.0.self_attn.k_proj.weight"
    assert torch.equal(mine[untouched], old[untouched])
    embed = release[f"{lm}model.embed_tokens.weight"]
    assert torch.equal(mine["model.language_model.embed_tokens.weight"][: len(embed)], embed)
    assert torch.equal(
        mine["model.multi_modal_projector.linear_1.bias"], release["backbone.multi_modal_projector.linear_1.bias"]
    )
    assert model.vlm.hf.config.vision_feature_layer == -1
    tokenizer, codec = model.processor.tokenizer, model.codec
    first = len(base_state(llava)["lm_head.weight"])
    order = ["<MASK>", "<box>", "</box>", "<im_start>", "<im_end>", "<DEPTH>"]
    assert tokenizer.convert_tokens_to_ids(order) == list(range(first, first + 6))
    assert (codec.num_bins, codec.box_format, codec.local_token) == (672, "cxcywh_local", "<s>")
    assert model.templates["rec"] == "ufo_rec" and model.processor.aspect == "warp"


def test_adapter_answers_as_the_merged_model(llava, tmp_path):
    file = save(llava_release(llava), tmp_path / "ufo.pth", "bare")
    import_ufo(file, str(llava), tmp_path / "merged", family="llava")
    import_ufo(file, str(llava), tmp_path / "adapter", family="llava", adapter=True)
    merged, adapter = (probe.outputs(load(tmp_path / n, dtype="float32")) for n in ("merged", "adapter"))
    for name, value in merged.items():
        torch.testing.assert_close(adapter[name], value, atol=1e-4, rtol=1e-4)
    plain = probe.outputs(load(tmp_path / "adapter" / "base", dtype="float32"))
    assert not torch.allclose(plain["text"], merged["text"], atol=1e-3)


def internvl_release(folder: Path, lora: bool) -> dict[str, Tensor]:
    """Everything in InternVL's names; wqkv and its LoRA in InternLM2's order of rows."""
    prefix = "backbone.language_model.base_model.model." if lora else "backbone.language_model."
    embed, head = rows(folder, 1)
    state = {f"{prefix}model.tok_embeddings.weight": embed, f"{prefix}output.weight": head}
    state[f"{prefix}model.norm.weight"] = 1 + noise(WIDTH, seed=3)
    qkv = (HEADS + 2 * GROUPS) * SIZE
    shapes = {
        "attention.wqkv": (qkv, 64),
        "attention.wo": (64, 64),
        "feed_forward.w1": (192, 64),
        "feed_forward.w3": (192, 64),
        "feed_forward.w2": (64, 192),
    }
    for layer in range(2):
        for number, (name, shape) in enumerate(shapes.items()):
            seed = 100 * layer + 10 * number
            stem = f"{prefix}model.layers.{layer}.{name}"
            state[f"{stem}.weight"] = noise(*shape, seed=seed + 4)
            if lora:
                state[f"{stem}.lora_A.default.weight"] = noise(R, shape[1], seed=seed + 5)
                state[f"{stem}.lora_B.default.weight"] = noise(shape[0], R, seed=seed + 6)
        for name in ("attention_norm", "ffn_norm"):
            state[f"{prefix}model.layers.{layer}.{name}.weight"] = 1 + noise(WIDTH, seed=layer + 7)
        vision = f"backbone.vision_model.encoder.layers.{layer}"
        state |= {
            f"{vision}.attn.qkv.weight": noise(192, 64, seed=layer + 300),
            f"{vision}.attn.qkv.bias": noise(192, seed=layer + 301),
            f"{vision}.attn.proj.weight": noise(64, 64, seed=layer + 302),
            f"{vision}.attn.proj.bias": noise(64, seed=layer + 303),
            f"{vision}.mlp.fc1.weight": noise(192, 64, seed=layer + 304),
            f"{vision}.mlp.fc1.bias": noise(192, seed=layer + 305),
            f"{vision}.mlp.fc2.weight": noise(64, 192, seed=layer + 306),
            f"{vision}.mlp.fc2.bias": noise(64, seed=layer + 307),
        }
        state |= {
            f"{vision}.{n}.{leaf}": 1 + noise(64, seed=layer + 308)
            for n in ("norm1", "norm2")
            for leaf in ("weight", "bias")
        }
        state |= {f"{vision}.{n}": 0.1 + noise(64, seed=layer + 309) for n in ("ls1", "ls2")}
    return state | {
        "backbone.vision_model.embeddings.class_embedding": noise(1, 1, 64, seed=400),
        "backbone.vision_model.embeddings.position_embedding": noise(1, 37, 64, seed=401),
        "backbone.vision_model.embeddings.patch_embedding.weight": noise(64, 3, 8, 8, seed=402),
        "backbone.vision_model.embeddings.patch_embedding.bias": noise(64, seed=403),
        "backbone.mlp1.0.weight": 1 + noise(256, seed=404),
        "backbone.mlp1.0.bias": noise(256, seed=405),
        "backbone.mlp1.1.weight": noise(64, 256, seed=406),
        "backbone.mlp1.1.bias": noise(64, seed=407),
        "backbone.mlp1.3.weight": noise(64, 64, seed=408),
        "backbone.mlp1.3.bias": noise(64, seed=409),
    }


def internlm2_attention(x: Tensor, state: dict[str, Tensor], layer: int, theta: float) -> Tensor:
    """InternLM2's attention as its code has it: one matrix, rows grouped by key head; rotary; causal. [T, D] -> [T, D].

    LoRA is applied beside the matrix, not merged into it.
    """
    stem = next(k for k in state if k.endswith(f"layers.{layer}.attention.wqkv.weight")).removesuffix("wqkv.weight")

    def linear(v, name):
        out = v @ state[f"{stem}{name}.weight"].T
        if f"{stem}{name}.lora_A.default.weight" in state:
            a, b = (state[f"{stem}{name}.lora_{letter}.default.weight"] for letter in "AB")
            out = out + ALPHA / R * (v @ a.T) @ b.T
        return out

    length, share = len(x), HEADS // GROUPS
    qkv = linear(x, "wqkv").view(length, GROUPS, share + 2, SIZE)  # 'b q (h gs d) -> b q h gs d'
    query = qkv[:, :, :share].reshape(length, HEADS, SIZE)
    key = qkv[:, :, -2].repeat_interleave(share, dim=1)
    value = qkv[:, :, -1].repeat_interleave(share, dim=1)
    angle = torch.arange(length)[:, None] / theta ** (torch.arange(0, SIZE, 2) / SIZE)  # [T, SIZE / 2]
    cos, sin = (torch.cat([f(angle)] * 2, dim=-1)[:, None] for f in (torch.cos, torch.sin))

    def turn(v):
        return v * cos + torch.cat([-v[..., SIZE // 2 :], v[..., : SIZE // 2]], dim=-1) * sin

    scores = torch.einsum("qhd,khd->hqk", turn(query), turn(key)) / math.sqrt(SIZE)
    scores = scores.masked_fill(~torch.ones(length, length, dtype=torch.bool).tril(), -math.inf)
    out = torch.einsum("hqk,khd->qhd", scores.softmax(-1), value).reshape(length, -1)
    return linear(out, "wo")


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full fine-tune"])
def test_internvl_attention_is_internlm2s(internvl, tmp_path, lora):
    release = internvl_release(internvl, lora)
    found = import_ufo(save(release, tmp_path / "ufo.pth", "bare"), str(internvl), tmp_path / "out", family="internvl")
    assert found["from_base"] == 0 and found["ignored"] == 0 and found["lora"] == (2 * 2 * 7 if lora else 0)
    model = load(tmp_path / "out", dtype="float32")
    text = model.vlm.text_model
    x = torch.randn(7, WIDTH, generator=torch.Generator().manual_seed(0))
    at = torch.arange(7)[None]
    with torch.no_grad():
        for layer in range(2):
            expected = internlm2_attention(x, release, layer, text.config.rope_parameters["rope_theta"])
            rope = text.rotary_emb(x[None], at)
            mask = torch.ones(1, 1, 7, 7, dtype=torch.bool).tril()
            got = text.layers[layer].self_attn(x[None], position_embeddings=rope, attention_mask=mask)[0][0]
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    mine = dict(model.vlm.hf.named_parameters())
    vision = "backbone.vision_model.encoder.layers.1"
    for number, name in enumerate("qkv"):
        for leaf in ("weight", "bias"):
            third = release[f"{vision}.attn.qkv.{leaf}"].view(3, 64, *release[f"{vision}.attn.qkv.{leaf}"].shape[1:])
            assert torch.equal(mine[f"model.vision_tower.encoder.layer.1.attention.{name}_proj.{leaf}"], third[number])
    assert torch.equal(mine["model.vision_tower.encoder.layer.1.lambda_2"], release[f"{vision}.ls2"])
    assert torch.equal(mine["model.multi_modal_projector.linear_2.bias"], release["backbone.mlp1.3.bias"])


def prompt(folder, size):
    processor = load(folder).processor
    dialogue = Dialogue((Turn("Where can we locate a bus in the image?", (Answer(None),)),))
    (text, _), *more = processor._render(dialogue, processor.image_text(processor.plan(size)))[0]
    assert not more
    return text


def test_prompts_are_those_of_the_release(llava, internvl, tmp_path):
    """Byte by byte as ufo.md 2.0 gives them; the image is one run of placeholders."""
    import_ufo(save(llava_release(llava), tmp_path / "l.pth", "bare"), str(llava), tmp_path / "l", family="llava")
    assert prompt(tmp_path / "l", (48, 48)) == (
        "<s>A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the human's questions. User: Where can we locate a bus in the image?\n"
        f"<im_start>{'<image>' * 36}<im_end> ASSISTANT: "
    )
    release = internvl_release(internvl, True)
    import_ufo(save(release, tmp_path / "i.pth", "bare"), str(internvl), tmp_path / "i", family="internvl")
    assert prompt(tmp_path / "i", (48, 48)) == (
        "<s><|im_start|>system\n你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型\uff0c英文名叫InternVL, "
        "是一个有用无害的人工智能助手。<|im_end|><|im_start|>user\nWhere can we locate a bus in the image?\n"
        f"<img>{'<IMG_CONTEXT>' * 9}</img><|im_end|><|im_start|>assistant\n"
    )


def test_rows_of_wqkv_written_out():
    """One row a head: groups of (two queries, key, value)."""
    value = torch.arange(8.0)[:, None]  # q0 q1 k0 v0 q2 q3 k1 v1
    found = {w: _heads(w, 4, 2, value)[:, 0].tolist() for w in "qkv"}
    assert found == {"q": [0, 1, 4, 5], "k": [2, 6], "v": [3, 7]}


def test_folders_of_shards_and_deepspeed(tmp_path):
    (tmp_path / "hf").mkdir()
    save_file({"a": torch.ones(1)}, tmp_path / "hf" / "model-00001-of-00002.safetensors")
    save_file({"b": torch.zeros(1)}, tmp_path / "hf" / "model-00002-of-00002.safetensors")
    assert set(read(tmp_path / "hf")) == {"a", "b"}
    (tmp_path / "ds" / "global_step9").mkdir(parents=True)
    torch.save(
        {"module": {"c": torch.ones(2)}, "global_steps": 9}, tmp_path / "ds/global_step9/mp_rank_00_model_states.pt"
    )
    assert set(read(tmp_path / "ds")) == {"c"}


class _Other:
    pass


def test_bad_files_are_one_clear_line(llava, tmp_path):
    torch.save({"state_dict": {}, "hook": _Other()}, tmp_path / "pickle.pth")
    with pytest.raises(ModelError, match="never unpickled"):
        read(tmp_path / "pickle.pth")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no weights there"):
        read(tmp_path / "empty")
    strange = llava_release(llava) | {"backbone.head.weight": torch.ones(1), "backbone.extra": torch.ones(1)}
    with pytest.raises(ModelError, match=r"2 keys fit nothing.*head.weight; extra"):
        import_ufo(save(strange, tmp_path / "a.pth", "bare"), str(llava), tmp_path / "out", family="llava")
    alone = {k: v for k, v in llava_release(llava).items() if "layers.0.mlp.up_proj.lora_A" not in k}
    with pytest.raises(ModelError, match="LoRA B alone"):
        import_ufo(save(alone, tmp_path / "b.pth", "bare"), str(llava), tmp_path / "out", family="llava")
    few = {k: v[:-1] if "embed_tokens" in k else v for k, v in llava_release(llava).items()}
    with pytest.raises(ModelError, match="rows for a vocabulary"):
        import_ufo(save(few, tmp_path / "c.pth", "bare"), str(llava), tmp_path / "out", family="llava")
    wide = llava_release(llava) | {"backbone.multi_modal_projector.linear_1.bias": torch.ones(3)}
    with pytest.raises(ModelError, match="do not fit the base.*linear_1"):
        import_ufo(save(wide, tmp_path / "d.pth", "bare"), str(llava), tmp_path / "out", family="llava")
    assert not (tmp_path / "out").exists()


def test_command(llava, tmp_path, capsys):
    file = save(llava_release(llava), tmp_path / "ufo.pth", "bare")
    out = tmp_path / "out"
    assert main(["import-ufo", str(file), "--base", str(llava), "--out", str(out), "--codec.num_bins", "50"]) == 0
    assert load(out).codec.num_bins == 50 and "19 keys" in capsys.readouterr().out
    assert main(["import-ufo", str(file), "--base", str(llava), "--out", str(tmp_path / "o2"), "--family", "qwen"]) == 2
