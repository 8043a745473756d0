"""Use a model in Python: ``load`` it, ask it, and do something with what it found.

    model = ufo_tune.load("org/model")
    result = model.segment("street.jpg", "the red bus")
    result.save("seen.png")

``ufo_tune`` has these names too, imported when they are first used.
"""

from ufo_tune.api.model import Model, load
from ufo_tune.api.pipeline import pipeline
from ufo_tune.api.result import Result

__all__ = ["Model", "Result", "load", "pipeline"]
