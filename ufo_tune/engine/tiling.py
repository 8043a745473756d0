"""Ask about a picture tile by tile, at its own resolution, and let the task join what was said of each.

A task that can be asked so has ``join(parts, sample, codec)`` beside ``decode``: ``parts`` are (``Tile``,
``Generation``) as they are answered, so that no more than a batch of tiles is in memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ufo_tune.config import TilingSection
from ufo_tune.core.images import sample_image
from ufo_tune.core.tiles import TURNS, Tile, boxes
from ufo_tune.core.types import Generation, Prediction, Sample
from ufo_tune.data.windows import turn_map, turnable
from ufo_tune.engine.sources import Asked
from ufo_tune.errors import ConfigError, DataError, EvalError

Ask = Callable[[Sequence[Sample]], Sequence[Generation | Prediction]]
"""One batch of samples, each in a row of its own."""


def check_tiling(tiling: TilingSection | None, asked: Asked, where: str) -> None:
    """Refuse tiles for a task that cannot join them.

    Raises:
        ConfigError: the task has no ``join``.
    """
    if tiling is not None and not hasattr(asked.task, "join"):
        name = asked.task.__name__.rpartition(".")[2]
        raise ConfigError(
            f"{where}: task {name} cannot join the answers of tiles (got side {tiling.side}); ask about whole "
            "pictures, or give the task's file a `join`"
        )


def tiles_of(sample: Sample, tiling: TilingSection) -> Iterator[tuple[Tile, Sample]]:
    """The parts of a picture as samples of their own: same question, own pixels, no truth.

    With ``turns`` each comes eight times, turned and mirrored, unless words such as "left" forbid that.

    Raises:
        DataError: the picture cannot be read, or there is none.
    """
    image = sample_image(sample)
    if image is None:
        raise DataError(f"{sample.source}: text only, so there is nothing to tile (got no image); leave tiling out")
    turns = TURNS if tiling.turns and turnable(sample) else TURNS[:1]
    for box in boxes(sample.size, tiling.side, tiling.stride or max(1, tiling.side // 2)):
        x0, y0, x1, y1 = box
        for turn in turns:
            tile = Tile(box, turn)
            shown = np.ascontiguousarray(turn_map(image[y0:y1, x0:x1], *turn))
            yield tile, sample.with_(image=shown, size=tile.size, targets=None)


def parts(sample: Sample, tiling: TilingSection, ask: Ask, batch_size: int) -> Iterator[tuple[Tile, Generation]]:
    """Every tile and its answer, asked ``batch_size`` at a time.

    Raises:
        EvalError: the model gives predictions, which cannot be joined.
    """
    tiles = tiles_of(sample, tiling)
    while some := list(itertools.islice(tiles, batch_size)):
        for (tile, _), answer in zip(some, ask([shown for _, shown in some]), strict=True):
            if isinstance(answer, Prediction):
                raise EvalError(
                    f"{sample.source}: the model understands itself, so tiles cannot be joined (got a Prediction); "
                    "ask it about whole pictures"
                )
            yield tile, answer
