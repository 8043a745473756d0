"""Which images two sets of samples share: by name, and by what the pictures look like.

    image_key("COCO_train2014_000000580957_4.jpg")     # "580957", as of train2017/000000580957.jpg
    kept, dropped = without(train, shared_images(train, val))
    audit(train, val).overlaps                         # near copies under other names too

RefCOCO's evaluation images are all in COCO's train2017, under other names: a model that saw them scores too well.
"""

from __future__ import annotations

import filecmp
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.fft import dctn
from tqdm.auto import tqdm

from ufo_tune.core.lazy import Lazy
from ufo_tune.core.types import Image, Sample, Samples
from ufo_tune.data.images import FORMATS, grey_thumbnail
from ufo_tune.errors import DataError

LOOK_BITS = 6
"""Hashes of 64 bits that differ in at most so many are of one picture."""
NAMED_BITS = 12
"""The same where the names agree already: a copy may have been cropped a little."""
_SUFFIXES = {"jpg", "tif", *(name.lower() for name in FORMATS)}
_COCO = re.compile(r"COCO_[a-z]+\d{4}_0*(\d+)(?:_\d+)?|0*(\d+)")
_SIDE, _LOW = 32, 8  # pixels of the thumbnail, and its lowest frequencies that are looked at
_BLOCK = 1 << 22  # pairs of hashes compared at once: 32 MiB


def image_key(name: str | Path) -> str:
    """What all names of one image have in common: a number without its zeros, else the file's stem.

    A number may stand alone, or as COCO writes it (``COCO_train2014_000000580957``, in RefCOCO's files followed by an
    annotation's). A name that is no number and has no image's suffix, such as a synthetic scene's, is kept whole.
    """
    last = str(name).replace("\\", "/").rsplit("/", 1)[-1]
    stem, _, suffix = last.rpartition(".")
    is_file = suffix.lower() in _SUFFIXES and bool(stem)
    found = _COCO.fullmatch(stem if is_file else last)
    if found:
        return found[1] or found[2]
    return stem if is_file else str(name)


def names_of(samples: Samples) -> Iterator[tuple[str, str]]:
    """The id and the key of every sample's image, from ``image_ids`` where the samples have it."""
    ids = getattr(samples, "image_ids", None)
    last, key = "", ""
    for image in (sample.image_id for sample in samples) if ids is None else ids:
        if image != last:  # samples of one image mostly follow each other
            last, key = image, image_key(image)
        yield image, key


def first_places(samples: Samples, wanted: Container[str] | None = None) -> dict[str, int]:
    """Image id -> number of the first sample that shows it; only of images with ``wanted`` keys, where given."""
    places: dict[str, int] = {}
    for number, (image, key) in enumerate(names_of(samples)):
        if image not in places and (wanted is None or key in wanted):
            places[image] = number
    return places


def shared_images(samples: Samples, held: Samples, places: dict[str, int] | None = None) -> frozenset[str]:
    """Ids, in ``samples``, of the images that both show.

    Names alone prove little (``0001.png`` is in every folder), so pictures whose keys agree are compared as well. One
    that cannot be opened counts as shared: to leave out too much is the smaller mistake.

    Args:
        samples: of training.
        held: of evaluation.
        places: ``first_places(samples, ...)`` with at least the keys of ``held``, where it is known.
    """
    theirs = _by_key(first_places(held))
    ours = first_places(samples, theirs) if places is None else places
    both = [(image, key) for image in ours if (key := image_key(image)) in theirs]
    pictures = {j: _image(held, j) for j in sorted({j for _, key in both for j in theirs[key]})}
    pairs = [(_image(samples, ours[image]), [pictures[j] for j in theirs[key]]) for image, key in both]
    with ThreadPoolExecutor() as pool:
        same = list(pool.map(lambda pair: any(same_picture(pair[0], other) for other in pair[1]), pairs))
    return frozenset(image for (image, _), found in zip(both, same, strict=True) if found)


def _by_key(places: Mapping[str, int]) -> dict[str, list[int]]:
    """Key -> the places of all images that have it."""
    numbers: dict[str, list[int]] = {}
    for image, place in places.items():
        numbers.setdefault(image_key(image), []).append(place)
    return numbers


def same_picture(a: Image | None, b: Image | None) -> bool:
    """Whether two images of the same name are equal as files or look alike; yes where one cannot be opened."""
    if a is None or b is None:  # text only
        return False
    try:
        if isinstance(a, Path) and isinstance(b, Path) and (a == b or filecmp.cmp(a, b, shallow=False)):
            return True
        return (perceptual_hash(a) ^ perceptual_hash(b)).bit_count() <= NAMED_BITS
    except (DataError, OSError):
        return True


def without(samples: Samples, images: Container[str]) -> tuple[Samples, int]:
    """The samples whose image id is none of ``images``, and how many others there were.

    ``image_ids`` and ``class_lists`` are those of the samples that stay, where the dataset has them.
    """
    rows = np.array([n for n, (image, _) in enumerate(names_of(samples)) if image not in images], dtype=np.int64)
    dropped = len(samples) - len(rows)
    return (Kept(samples, rows), dropped) if dropped else (samples, 0)


@dataclass(frozen=True)
class Kept(Lazy[Sample]):
    """Some samples of a dataset, in its order: ``rows`` [n] are their numbers there."""

    samples: Samples
    rows: np.ndarray

    @property
    def image_ids(self) -> tuple[str, ...]:
        """One per sample, where the dataset has them."""
        ids = list(self.samples.image_ids)  # type: ignore[attr-defined]
        return tuple(ids[i] for i in self.rows.tolist())

    @property
    def class_lists(self) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
        """What the dataset has of them."""
        return partial(self._class_lists, self.samples.class_lists)  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self.rows)

    def _make(self, number: int) -> Sample:
        return self.samples[int(self.rows[number])]

    def _class_lists(self, whole: Any) -> tuple[np.ndarray, np.ndarray]:
        """As the dataset's: classes [N] of all objects, and where each sample's end [n]."""
        classes, ends = whole()
        counts = np.diff(ends, prepend=0)
        stays = np.isin(np.arange(len(counts)), self.rows)
        return classes[np.repeat(stays, counts)], np.cumsum(counts[stays])


@dataclass(frozen=True, slots=True)
class Overlap:
    """One image in both sets: where it is in each, whether the names agree, and the bits that the looks differ in."""

    ours: str
    theirs: str
    by_name: bool
    bits: int | None

    def __str__(self) -> str:
        look = "not opened" if self.bits is None else f"{self.bits} bits"
        return f"{self.ours} = {self.theirs}  ({'same name, ' if self.by_name else ''}{look})"


@dataclass(frozen=True, slots=True)
class Audit:
    """What two sets share. ``other_pictures`` counts images whose names agree while the pictures do not.

    ``overlaps`` are pairs: one image of ours that looks like three of theirs stands in three of them, and is one of the
    ``shared``.
    """

    images: int
    held_images: int
    overlaps: tuple[Overlap, ...]
    samples: int  # of ours that show a shared image
    other_pictures: int
    unreadable: int

    @property
    def shared(self) -> int:
        """How many of our images are among theirs."""
        return len({overlap.ours for overlap in self.overlaps})

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"shared": self.shared, **asdict(self)}


def audit(samples: Samples, held: Samples, *, bits: int = LOOK_BITS, progress: bool = False) -> Audit:
    """Every image that two sets share, by name or by look. All images are opened, each once; text has none.

    Args:
        samples: of training.
        held: of evaluation.
        bits: hashes that differ in at most so many bits are of one picture.
        progress: show bars.
    """
    sides = [(samples, first_places(samples)), (held, first_places(held))]
    by_image = [_looks(side, places, progress) for side, places in sides]
    (our_images, their_images), (our_looks, their_looks) = map(list, by_image), [list(x.values()) for x in by_image]
    numbers = _by_key({image: j for j, image in enumerate(their_images)})
    named = {(i, j) for i, image in enumerate(our_images) for j in numbers.get(image_key(image), ())}
    found: dict[tuple[int, int], int | None] = {}
    for i, j in named:
        a, b = our_looks[i], their_looks[j]
        differ = None if a is None or b is None else (a ^ b).bit_count()
        if differ is None or differ <= NAMED_BITS:
            found[i, j] = differ
    other_pictures = len({i for i, _ in named} - {i for i, _ in found})
    found |= near_pairs(our_looks, their_looks, bits)
    shared = {our_images[i] for i, _ in found}
    (_, ours), (_, theirs) = sides
    return Audit(
        images=len(our_images),
        held_images=len(their_images),
        overlaps=tuple(
            Overlap(_place(samples, ours[our_images[i]]), _place(held, theirs[their_images[j]]), (i, j) in named, d)
            for (i, j), d in sorted(found.items())
        ),
        samples=sum(image in shared for image, _ in names_of(samples)),
        other_pictures=other_pictures,
        unreadable=sum(look is None for look in (*our_looks, *their_looks)),
    )


def perceptual_hash(image: Image) -> int:
    """64 bits of what a picture looks like; they hardly change when it is scaled, recompressed or brightened.

    Raises:
        DataError: the image cannot be opened.

    Source:
        Zauner 2010, "Implementation and benchmarking of perceptual image hash functions", DCT hash: the lowest 8 x 8
        frequencies of a 32 x 32 grey picture, each above the median or not.
    """
    low = dctn(grey_thumbnail(image, _SIDE).astype(np.float64))[:_LOW, :_LOW]  # [8, 8]
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def near_pairs(a: Sequence[int | None], b: Sequence[int | None], bits: int) -> dict[tuple[int, int], int]:
    """Pairs (i, j) of hashes that differ in at most so many bits, and in how many; None is near nothing."""
    rows, columns = ([i for i, look in enumerate(looks) if look is not None] for looks in (a, b))
    if not rows or not columns:
        return {}
    first, second = (np.array([x for x in looks if x is not None], dtype=np.uint64) for looks in (a, b))
    found: dict[tuple[int, int], int] = {}
    step = max(1, _BLOCK // len(second))
    for start in range(0, len(first), step):
        differ = np.bitwise_count(first[start : start + step, None] ^ second)  # [step, m] u8
        for i, j in np.argwhere(differ <= bits).tolist():
            found[rows[start + i], columns[j]] = int(differ[i, j])
    return found


def _looks(samples: Samples, places: Mapping[str, int], progress: bool) -> dict[str, int | None]:
    """Image id -> hash, None where it cannot be opened; those of samples that are text only are left out."""
    looks: dict[str, int | None] = {}
    rows = list(places.items())
    with ThreadPoolExecutor() as pool, tqdm(total=len(rows), desc="look", unit="image", disable=not progress) as bar:
        for start in range(0, len(rows), 256):  # few at once: some may be pixels in memory
            some = rows[start : start + 256]
            images = {name: image for name, place in some if (image := _image(samples, place)) is not None}
            looks |= zip(images, pool.map(_look, images.values()), strict=True)
            bar.update(len(some))
    return looks


def _look(image: Image) -> int | None:
    try:
        return _file_hash(image) if isinstance(image, Path) else perceptual_hash(image)
    except DataError:
        return None


@lru_cache(maxsize=1 << 20)
def _file_hash(path: Path) -> int:
    """Cached because entries of a recipe, and splits of a protocol, show the same files."""
    return perceptual_hash(path)


def _image(samples: Samples, place: int) -> Image | None:
    try:
        return samples[place].image
    except DataError:
        return Path()  # cannot be opened, which is told when somebody looks


def _place(samples: Samples, place: int) -> str:
    try:
        sample = samples[place]
    except DataError as error:
        return str(error).partition(": ")[0]
    return f"{sample.source} ({sample.image})" if isinstance(sample.image, Path) else sample.source
