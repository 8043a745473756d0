"""Names of parts: classes written ``object:part`` become words that a person would use.

    PartNames("both", samples)(image, sample, rng)  # "dog:left ear" -> "dog left ear", or "the left ear of the dog"

Source: UFO's part datasets (ufo.md 2.10); "object part" is what it asks in evaluation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from ufo_tune.core.types import Sample, Samples
from ufo_tune.errors import ConfigError

STYLES: dict[str, Callable[[str, str], str]] = {
    "object_part": lambda whole, part: f"{whole} {part}",
    "part_of_object": lambda whole, part: f"the {part} of the {whole}",
}


class PartNames:
    """Writes the classes of a sample in words; their order, and so its labels, stay.

    Args:
        style: one of ``STYLES``, or ``both``: one of them by a coin for each sample.
        samples: looked at once, whether there is anything to write.
        where: the entry, for messages.

    Raises:
        ConfigError: an unknown style, or no class of the first sample is written ``object:part``.
    """

    def __init__(self, style: str, samples: Samples, *, where: str = "part_names") -> None:
        if style not in (*STYLES, "both"):
            raise ConfigError(f"{where}.part_names: unknown (got {style!r}); give {', '.join(STYLES)} or both")
        if not any(_split(name) for name in samples[0].classes):
            raise ConfigError(
                f"{where}.part_names: no class is written object:part (got {', '.join(samples[0].classes[:3])}, ...); "
                'set part_names: ""'
            )
        self._styles = tuple(STYLES) if style == "both" else (style,)

    def __call__(self, image: np.ndarray, sample: Sample, rng: np.random.Generator) -> tuple[np.ndarray, Sample]:
        """The image as it is, and the sample with its classes in words."""
        style = self._styles[int(rng.integers(len(self._styles)))]
        absent = None if sample.absent is None else in_words(sample.absent, style)
        return image, sample.with_(classes=in_words(sample.classes, style), absent=absent)


@lru_cache(maxsize=64)
def in_words(names: tuple[str, ...], style: str) -> tuple[str, ...]:
    """Class names in a style; those that are not written ``object:part`` as they are."""
    return tuple(STYLES[style](*parts) if (parts := _split(name)) else name for name in names)


def _split(name: str) -> tuple[str, str] | None:
    """Object and part."""
    whole, _, part = (p.strip() for p in name.partition(":"))
    return (whole, part) if whole and part else None
