"""Open Images' CSV files (storage.googleapis.com/openimages, "Download", data formats)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.data_files import SIZE, Call, picture, rectangle

CLASSES = '/m/0cmf2,Airplane\n/m/01b9xk,"Hot dog"\n/m/0k4j,Car\n'
BOXES = """\
ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside
00b2,xclick,/m/0k4j,1,0.5,0.75,0.25,0.75,0,0,0,0,0
00a1,xclick,/m/0cmf2,1,0,1,0,0.5,0,0,1,0,0
00b2,activemil,/m/0cmf2,1,0.1,0.25,0.125,0.5,-1,-1,-1,-1,-1
00b2,xclick,/m/0k4j,1,0.5,0.75,0.25,0.75,0,0,0,1,0
00a1,xclick,/m/01b9xk,1,0,1,0,1,0,0,0,0,1
"""
LABELS = """\
ImageID,Source,LabelName,Confidence
00a1,verification,/m/0k4j,0
00b2,verification,/m/0k4j,1
00b2,verification,/m/01b9xk,0
00b2,verification,/m/01b9xk,0
00b2,verification,/m/0cmf2,0
00b2,verification,/m/unknown,0
00c3,verification,/m/0cmf2,0
"""
MASKS = """\
MaskPath,ImageID,LabelName,BoxID,BoxXMin,BoxXMax,BoxYMin,BoxYMax,PredictedIoU,Clicks
00b2_m0k4j_1.png,00b2,/m/0k4j,1,0.5,0.75,0.25,0.75,0.9,0.5 0.5 1
00a1_m0cmf2_2.png,00a1,/m/0cmf2,2,0,1,0,0.5,,
"""


def make(folder: Path) -> Call:
    """The CSV files of ``train`` with a box CSV not grouped by image, images, and masks of twice their resolution."""
    files = folder / "annotations"
    files.mkdir(parents=True)
    (files / "class-descriptions-boxable.csv").write_text(CLASSES)
    (files / "oidv6-train-annotations-bbox.csv").write_text(BOXES)
    (files / "train-annotations-human-imagelabels-boxable.csv").write_text(LABELS)
    (files / "train-annotations-object-segmentation.csv").write_text(MASKS)
    for number, name in enumerate(("00a1", "00b2", "00c3")):
        picture(folder / "train" / f"{name}.jpg", number)
    (folder / "masks" / "train").mkdir(parents=True)
    for name, bitmap in (("00b2_m0k4j_1", rectangle(30, 10, 45, 30)), ("00a1_m0cmf2_2", rectangle(0, 0, SIZE[1], 20))):
        double = np.kron(bitmap, np.ones((2, 2), dtype=bool))  # [2H, 2W]
        Image.fromarray(double).save(folder / "masks" / "train" / f"{name}.png")
    return str(folder), "train", {}
