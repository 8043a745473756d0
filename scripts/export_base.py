"""Write the embedded base from a pre-training run: a plain Hugging Face LLaVA in bfloat16 without any of our tokens.

    python scripts/export_base.py runs/tiny_base ufo_tune/assets/tiny_base

``prepare`` adds the tokens again, as it does for every base: the quickstart starts where a user starts. Integers start
where the number words of the same place are.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from ufo_tune.config import Recipe
from ufo_tune.datasets._scene_language import BOARD, NUMBERS
from ufo_tune.engine.load import load
from ufo_tune.models import tiny

LIMIT = 8_000_000
"""Bytes that the base may weigh in the wheel."""


def export(run: Path, out: Path) -> int:
    """Write ``out`` and return the size of its weights in bytes.

    Raises:
        SystemExit: the weights are larger than ``LIMIT``.
    """
    model = load(run)
    options = Recipe.load("tiny_base").model.options
    plain = tiny.tokenizer(options["words"], options["integers"])
    owned = model.processor.tokenizer.get_vocab()
    if any(owned[token] != number for token, number in plain.get_vocab().items()):
        raise SystemExit(
            f"{run}: its vocabulary is not that of recipes/tiny_base.yaml; export with the recipe of the run"
        )
    hf: Any = model.vlm.hf
    integers_from_words(hf, plain, options["integers"])
    hf.resize_token_embeddings(len(plain))  # our tokens were added last
    shutil.rmtree(out, ignore_errors=True)
    hf.to(torch.bfloat16).save_pretrained(out)
    processor: Any = model.processor
    processor.hf.tokenizer = plain
    processor.save(out)
    size = sum(f.stat().st_size for f in out.glob("*.safetensors"))
    if size > LIMIT:
        raise SystemExit(f"{out}: {size} bytes of weights; at most {LIMIT} fit the wheel")
    return size


@torch.no_grad()
def integers_from_words(hf: Any, tokenizer: PreTrainedTokenizerFast, most: int) -> None:
    """Lay the rows of 0..``most`` between those of the places ("one" .. "twenty") that mean the same share of a side.

    Pre-training never says an integer, so all it learns about them is that they do not come: their rows drift together.
    What it learnt about places in words is what they are going to mean.
    """
    places = tokenizer.convert_tokens_to_ids(list(NUMBERS[1:]))
    integers = tokenizer.convert_tokens_to_ids([str(v) for v in range(most + 1)])
    at = (torch.arange(most + 1) / most * BOARD - 0.5).clamp(0, BOARD - 1)  # [I], in places
    low = at.long().clamp(max=BOARD - 2)
    part = (at - low)[:, None]
    for table in (hf.get_input_embeddings().weight, hf.get_output_embeddings().weight):
        words = table[places]  # [BOARD, D]
        table[integers] = torch.lerp(words[low], words[low + 1], part)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    print(f"{arguments.out}: {export(arguments.run, arguments.out)} bytes of weights")
