"""``coco``: COCO's files as they are: instances JSON, panoptic JSON with id PNGs; also YOLO's text files.

    samples = load("/data/coco", "val2017", task="instance_segmentation")
    samples = load("/data/coco", "train2017", task="detection", layout="panoptic", images=16, classes="present")

Layouts below ``root`` (every path can be given as an option, ``{split}`` is replaced):

============ ======================================== =============================================
layout       ``annotations``                          masks and boxes
============ ======================================== =============================================
instances    ``annotations/instances_{split}.json``   polygons or run lengths; ``iscrowd`` is kept
panoptic     ``annotations/panoptic_{split}.json``    ``things`` of the id PNGs beside the JSON file
yolo         ``data.yaml`` (``names``)                ``{labels}/<image>.txt``: boxes, or polygons
============ ======================================== =============================================

Images lie in ``image_dir``: ``{split}`` (COCO's own), else ``images/{split}``. Classes are category names in the order
of their ids. Images without objects stay in, because evaluation counts false alarms on them. COCO has 118,287 images
in train2017, 5,000 in val2017, and 80 classes; its annotations are CC BY 4.0, each image has its own licence.

Source: cocodataset.org, "Data format"; docs.ultralytics.com, "Detection / segmentation datasets".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, overload

import numpy as np
import torch

from ufo_tune.core import masks
from ufo_tune.core.images import open_image
from ufo_tune.core.types import Rle, Sample, Targets
from ufo_tune.datasets import _coco_layouts as layouts
from ufo_tune.datasets import _readers as readers
from ufo_tune.datasets._coco_layouts import Picture, Thing
from ufo_tune.errors import ConfigError, DataError
from ufo_tune.plugins import did_you_mean

TASKS = ("detection", "instance_segmentation")


@dataclass(frozen=True, slots=True)
class Coco(Sequence[Sample]):
    """Samples made on access; only the annotations are in memory."""

    task: str
    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    name: str

    @property
    def image_ids(self) -> tuple[str, ...]:
        """One per sample."""
        return tuple(p.id for p in self.pictures)

    def __len__(self) -> int:
        return len(self.pictures)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """One sample.

        Raises:
            DataError: a box outside its image, a mask of another size or damaged, an id PNG that does not fit.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        picture = self.pictures[index]
        source = f"{self.name}#{picture.id}"
        boxes = [readers.box(t.box, picture.size, f"{source}: {t.name}") for t in picture.things]
        targets = Targets(
            boxes=readers.boxes_tensor(boxes),
            masks=_masks(picture, source) if self.task == "instance_segmentation" else None,
            labels=torch.tensor([self.classes.index(t.category) for t in picture.things], dtype=torch.long),
            crowd=torch.tensor([t.crowd for t in picture.things], dtype=torch.bool),
        )
        return Sample(
            image=picture.path,
            size=picture.size,
            task=self.task,
            classes=self.classes,
            targets=targets,
            source=source,
            image_id=picture.id,
        )


def load(
    root: str,
    split: str,
    *,
    task: str,
    layout: Literal["instances", "panoptic", "yolo"] = "instances",
    annotations: str = "",
    image_dir: str = "",
    labels: str = "labels/{split}",
    images: int | Sequence[int | str] = 0,
    classes: Sequence[str] | Literal["present"] = (),
    min_size: float = 1.0,
    min_area: float = 0.0,
    keep_empty: bool = True,
) -> Coco:
    """Detection or instance segmentation samples, one per image, in the order of image ids.

    Args:
        root: folder that all other paths are below.
        split: such as ``train2017``.
        task: one of ``TASKS``.
        layout: which files; see the module.
        annotations: path of the annotation file.
        image_dir: folder of the images.
        labels: folder of YOLO's text files.
        images: so many images from the start, or the ids or file names of those wanted; 0: all.
        classes: ask only for these and drop other objects; ``present``: those that the chosen images have.
        min_size: objects whose box is narrower or lower than this, in pixels, are dropped.
        min_area: objects whose area (COCO's ``area``) is below this, in pixels, are dropped.
        keep_empty: whether images without objects stay in.

    Raises:
        ConfigError: an unknown task, layout, class or image.
        DataError: a file is missing or does not hold what its layout asks for.
    """
    if task not in TASKS:
        raise ConfigError(f"datasets/coco: no such task (got {task!r}); {did_you_mean(task, TASKS)}")
    if layout not in layouts.READERS:
        raise ConfigError(f"datasets/coco.layout: unknown (got {layout!r}); {did_you_mean(layout, layouts.READERS)}")
    folder = Path(root)
    names, pictures = layouts.READERS[layout](
        layouts.Places(
            annotations=folder / (annotations or layouts.ANNOTATIONS[layout]).format(split=split),
            images=_image_folder(folder, split, image_dir),
            labels=folder / labels.format(split=split),
        )
    )
    wanted = _wanted(names, classes)
    chosen = [
        replace(p, things=tuple(t for t in p.things if t.category in wanted and _large(t, min_size, min_area)))
        for p in (pictures if isinstance(images, int) else _select(pictures, images))
    ]
    chosen = [p for p in chosen if p.things or keep_empty]
    if isinstance(images, int) and images:
        chosen = chosen[:images]
    if classes == "present":
        present = {t.category for p in chosen for t in p.things}
        wanted = tuple(n for n in wanted if n in present)
    return Coco(task, wanted, tuple(chosen), f"coco/{split}")


def _wanted(names: tuple[str, ...], classes: Sequence[str] | str) -> tuple[str, ...]:
    if not classes or classes == "present":
        return names
    for name in classes:
        if name not in names:
            raise ConfigError(f"datasets/coco.classes: no such class (got {name!r}); {did_you_mean(name, names)}")
    return tuple(n for n in names if n in classes)


def _select(pictures: Sequence[Picture], images: Sequence[int | str]) -> list[Picture]:
    """Those asked for by id, by file name or by its stem, in the order asked for."""
    known = {key: p for p in pictures for key in (p.path.stem, p.path.name, p.id)}
    for name in images:
        if str(name) not in known:
            raise ConfigError(
                f"datasets/coco.images: no such image (got {name!r}); give ids such as {pictures[0].id}"
                if pictures
                else f"datasets/coco.images: the annotation file has no images (got {name!r}); check annotations"
            )
    return [known[str(name)] for name in images]


def _large(thing: Thing, min_size: float, min_area: float) -> bool:
    x0, y0, x1, y1 = thing.box
    return min(x1 - x0, y1 - y0) >= min_size and thing.area >= min_area


def _image_folder(root: Path, split: str, image_dir: str) -> Path:
    choices = [image_dir.format(split=split)] if image_dir else [split, f"images/{split}"]
    for choice in choices:
        if (root / choice).is_dir():
            return root / choice
    raise DataError(f"{root}: no folder of images (got none of {choices}); check root and split, or give image_dir")


def _masks(picture: Picture, source: str) -> tuple[Rle, ...]:
    if picture.ids is None:
        return tuple(
            readers.mask(t.segmentation, picture.size, f"{source}: {t.name}", picture.path.parent)
            for t in picture.things
        )
    colours = open_image(readers.existing(picture.ids, "id PNG")).astype(np.int64)  # [H, W, 3]
    if colours.shape[:2] != tuple(picture.size):
        raise DataError(f"{source}: mask is {colours.shape[:2]} but the image is {picture.size}; check {picture.ids}")
    ids = colours @ np.array([1, 256, 256 * 256])  # [H, W]
    found = np.stack([ids == t.segmentation for t in picture.things]) if picture.things else np.zeros((0, *ids.shape))
    for thing, bitmap in zip(picture.things, found, strict=True):
        if not bitmap.any():
            raise DataError(f"{source}: {thing.name} has no pixels in {picture.ids}; download both files again")
    return masks.encode_many(found)
