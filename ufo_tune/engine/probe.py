"""A fixed input and what a model says to it: the evidence that two sets of weights are the same model.

``python -m ufo_tune.engine.probe FOLDER FILE`` writes the outputs of a model to a safetensors file; ``merge`` runs it
in a fresh process, so that nothing that lives only in memory can make the comparison pass.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ufo_tune.core import answers
from ufo_tune.core.retrieval import mask_logits
from ufo_tune.core.sequence import predicting
from ufo_tune.core.types import Answer, Batch, Dialogue, Sample, Slot, Turn
from ufo_tune.engine.load import load
from ufo_tune.models.ufo import UfoModel

_SIZE = (48, 64)


def batch(model: UfoModel) -> Batch:
    """One image, two parallel answers with grid points, a box and a mask, all from a formula."""
    y, x = np.mgrid[: _SIZE[0], : _SIZE[1]]
    image = np.stack([(x * 4) % 256, (y * 5) % 256, (x * y) % 256], axis=-1).astype(np.uint8)
    box = answers.box((1, 2, 30, 40), model.codec)
    mask = Slot("mask", np.ones(_SIZE, dtype=bool))
    given = (
        Answer(f"thing,{box}", point=(0.3, 0.4)),
        Answer(f"thing,{answers.slots(model.codec)}", (mask,), point=(0.8, 0.6)),
    )
    dialogue = Dialogue((Turn("Detect thing in the image.", given),))
    return model.processor.batch([dialogue], [image], [(Sample(image, _SIZE, "probe"),)], train=True).to(model.device)


@torch.inference_mode()
def outputs(model: UfoModel) -> dict[str, Tensor]:
    """``text``: [Q, V] logits at supervised positions; ``mask``: [1, h, w] mask logits; float32 on CPU."""
    model.eval()
    fixed = batch(model)
    out = model(fixed)
    row, at, _ = predicting(fixed.labels, fixed.segment)
    masks = mask_logits(out.hidden[fixed.slot_owner[:, None], fixed.slot_index], out.image_features[0])
    return {"text": out.logits(out.hidden[row, at]).float().cpu(), "mask": masks.float().cpu()}


if __name__ == "__main__":
    torch.manual_seed(0)
    save_file(outputs(load(Path(sys.argv[1]))), sys.argv[2])
