"""A LLaVA made of a language model and a tower keeps both: the same logits on text, the same tower, the same chat."""

import pytest
import torch
from transformers import CLIPImageProcessorPil, LlamaConfig, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel

from tests import tiny
from ufo_tune.core.types import Answer, Dialogue, Turn
from ufo_tune.engine.load import load
from ufo_tune.engine.prepare import prepare
from ufo_tune.errors import ConfigError, ModelError
from ufo_tune.models.tiny import tokenizer

CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' + message['content'] + ' <|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"
)
"""Takes texts only, as templates of language models do."""


@pytest.fixture
def language(tmp_path):
    words = tokenizer(["what", "is", "red", "a", "circle", "user", "assistant"], 20, {"turn": "<|im_start|>"})
    words.add_special_tokens({"eos_token": "<|im_end|>"})
    words.chat_template = CHAT
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "lm")
    words.save_pretrained(tmp_path / "lm")
    return tmp_path / "lm"


def test_text_is_answered_as_before_and_in_the_models_own_chat(language, tmp_path):
    sizes = {"image_size": 32, "patch": 8, "width": 64, "layers": 1}
    codec = tiny.CODEC.to_dict()
    model = load(prepare(str(language), tmp_path / "out", codec=codec, vision="random", tower=sizes)).eval()
    dialogue = Dialogue((Turn("what is red", (Answer("a circle"),)),))
    b = model.processor.batch([dialogue], [None], [(tiny.sample(None),)], True)
    words = model.processor.tokenizer
    said = words.decode(b.ids[0], skip_special_tokens=False)
    assert "<|im_start|> user what is red <|im_end|>" in said and said.endswith("assistant a circle <|im_end|>")
    lm = LlamaForCausalLM.from_pretrained(language, dtype=torch.float32)
    rows = lm.get_input_embeddings().weight.shape[0]
    with torch.no_grad():
        mine = model(b)
        assert torch.allclose(mine.logits(mine.hidden)[..., :rows], lm(input_ids=b.ids).logits, atol=1e-5)
        seen = model(tiny.batch(model, [tiny.grid_dialogue(2)]))
    assert seen.image_features[0].shape == (4, 4, 32)


def test_a_pretrained_tower_comes_along(language, tmp_path):
    torch.manual_seed(2)
    config = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=24, patch_size=8
    )
    tower = SiglipVisionModel(config)
    tower.save_pretrained(tmp_path / "tower")
    side = {"height": 24, "width": 24}
    CLIPImageProcessorPil(size=side, do_center_crop=False).save_pretrained(tmp_path / "tower")
    tower_path, codec = str(tmp_path / "tower"), tiny.CODEC.to_dict()
    model = load(prepare(str(language), tmp_path / "out", codec=codec, vision=tower_path))
    mine = dict(model.vlm.hf.model.vision_tower.named_parameters())
    theirs = dict(tower.named_parameters())
    assert mine.keys() == theirs.keys() and all(torch.equal(v, mine[n]) for n, v in theirs.items())
    with torch.no_grad():
        assert model(tiny.batch(model, [tiny.grid_dialogue(1)])).image_features[0].shape == (3, 3, 32)


def test_what_cannot_be_grafted_is_refused(language, tmp_path):
    with pytest.raises(ConfigError, match="multiple of patch"):
        prepare(str(language), tmp_path / "a", vision="random", tower={"image_size": 30})
    with pytest.raises(ConfigError, match="random tower"):
        prepare(str(language), tmp_path / "b", tower={"width": 64})
    with pytest.raises(ConfigError, match="no such option"):
        prepare(str(language), tmp_path / "c", vision="random", tower={"depth": 3})
    with pytest.raises(ModelError, match="no tower that a LLaVA can have"):
        prepare(str(language), tmp_path / "d", vision=str(language))
    (tmp_path / "file").write_text("{}")
    tiny.model("llava", tmp_path).save(tmp_path / "llava")
    for name, says in (
        ("tiny:llava", "tiny:llava: no such folder .*a causal language model"),
        (str(tmp_path / "file"), r"file: no such folder \(got a file\)"),
        (str(tmp_path / "gone.gguf"), "gone.gguf: no such GGUF file"),
        ("./gone", r"\./gone: no such folder"),
        ("three/parts/gone", "three/parts/gone: no such folder"),
        (str(tmp_path / "llava"), r"llava: cannot be read as a causal language model \(.*LlavaConfig"),
    ):
        with pytest.raises(ModelError, match=says):
            prepare(name, tmp_path / "f", vision="random")
    with pytest.raises(ModelError, match="gone: no such folder"):
        prepare(str(language), tmp_path / "f", vision=str(tmp_path / "gone"))
    with pytest.raises(ModelError, match="llava: no tower that a LLaVA can have"):
        prepare(str(language), tmp_path / "f", vision=str(tmp_path / "llava"))
    (tmp_path / "llava" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="llava: cannot be read as a vision tower"):
        prepare(str(language), tmp_path / "f", vision=str(tmp_path / "llava"))
    assert not (tmp_path / "f").exists()
    (language / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        prepare(str(language), tmp_path / "e", vision="random")
