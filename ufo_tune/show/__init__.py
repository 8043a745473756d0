"""Pictures: overlays, contact sheets, the map of each slot token, curves, bars. Pillow and numpy; no display needed.

show.draw(image, boxes=prediction.boxes, labels=["cat"], scores=prediction.scores).save("seen.png")
"""

from ufo_tune.show.bars import bars, charts
from ufo_tune.show.chart import curves
from ufo_tune.show.figures import draw_prediction, draw_truth, names, sheet, slot_maps
from ufo_tune.show.histogram import histogram
from ufo_tune.show.overlay import draw

__all__ = [
    "bars",
    "charts",
    "curves",
    "draw",
    "draw_prediction",
    "draw_truth",
    "histogram",
    "names",
    "sheet",
    "slot_maps",
]
