"""A picture of two cats."""

from __future__ import annotations

import numpy as np

from ufo_tune.core.types import Prediction, Sample, Targets


def sample() -> Sample:
    """One caption."""
    picture = np.zeros((48, 64, 3), np.uint8)
    return Sample(picture, (48, 64), "caption", targets=Targets(text="two cats"), source="made/caption#0")


def check(found: Prediction, sample: Sample) -> None:
    """The words themselves."""
    assert sample.targets is not None and found.text == sample.targets.text == "two cats"
