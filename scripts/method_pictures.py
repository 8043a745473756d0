"""Draw the pictures of docs/method.md: who sees whom in a row of tokens, and what sixteen slot tokens see.

    python scripts/method_pictures.py
    python scripts/method_pictures.py --slots quickstart/pictures/slot_maps.png

The first comes from the code that trains, the second out of the report of a quickstart.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from ufo_tune.core.sequence import AnswerIds, build, visible
from ufo_tune.show.palette import of_object
from ufo_tune.show.text import font

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
IMAGE, LOCAL, SLOT = 1, 2, 3
"""Ids of the example's special tokens."""
PROMPT = ["<user>", *["img"] * 9, "find", "cups"]
ANSWERS = [f"{text} end".split() for text in ("background", "cup <box> 4 7 6 9 </box>", "cup <box> 1 2 3 5 </box>")]
CELL, MARGIN, PAPER, INK = 22, 96, (255, 255, 255), (40, 40, 48)
HIDDEN, CAUSAL, BOTH_WAYS = (238, 239, 242), (120, 132, 150), (64, 160, 110)


def layout() -> Image.Image:
    """The attention rule of a prompt with nine image tokens and three answers, as ``core.sequence`` computes it."""
    words = [*PROMPT, *(word for answer in ANSWERS for word in ("<LOCAL>", *answer))]
    ids = {"img": IMAGE, "<LOCAL>": LOCAL}
    row = build(
        [([ids.get(word, 9) for word in PROMPT], False)],
        [AnswerIds([9] * len(answer), local=True) for answer in ANSWERS],
        local_id=LOCAL,
        slot_ids=frozenset({SLOT}),
        slot_tokens=16,
    )
    is_image = torch.tensor([row.ids]) == IMAGE  # [1, T]
    segment = torch.tensor([row.segment])  # [1, T]
    seen = visible(segment, is_image, torch.tensor([False]))[0, 0].numpy()  # [T, T]
    picture = Image.new("RGB", (MARGIN + CELL * len(words) + 12, MARGIN + CELL * len(words) + 12), PAPER)
    pen, face = ImageDraw.Draw(picture), font(13)
    for i, j in np.ndindex(seen.shape):
        colour = HIDDEN
        if seen[i, j]:
            own = row.segment[j]
            colour = of_object(own) if own >= 0 else BOTH_WAYS if j > i else CAUSAL
        x, y = MARGIN + j * CELL, MARGIN + i * CELL
        pen.rectangle((x, y, x + CELL - 2, y + CELL - 2), fill=colour)
    for number, word in enumerate(words):
        at = MARGIN + number * CELL + CELL // 2
        pen.text((MARGIN - 6, at), word, fill=INK, font=face, anchor="rm")
        side = Image.new("RGB", (MARGIN - 8, CELL), PAPER)
        ImageDraw.Draw(side).text((0, CELL // 2), word, fill=INK, font=face, anchor="lm")
        picture.paste(side.rotate(90, expand=True), (at - CELL // 2, 0))
    return picture


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=Path, help="a report's pictures/slot_maps.png")
    options = parser.parse_args()
    layout().save(IMAGES / "method_layout.png", optimize=True)
    if options.slots:
        Image.open(options.slots).convert("RGB").save(IMAGES / "method_slots.png", optimize=True)


if __name__ == "__main__":
    main()
