"""Can the tasks put a sample into words? What training refuses only when it comes to a sample, said beforehand.

for fault in faults(sample): ...  # "train.jsonl:121: the phrase spells the token <MASK> (got ...); remove it"

No model is needed: the codec is the default one, and the wording any shipped one that can hold the sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from types import ModuleType

import numpy as np

from ufo_tune import plugins, resources, templates
from ufo_tune.core.codec import Codec
from ufo_tune.core.types import Dialogue, Sample
from ufo_tune.errors import ConfigError, DataError
from ufo_tune.templates import Template

IMAGE = "<image>"
"""What stands for the image in the prompts of most families; each refuses its own."""


def faults(sample: Sample) -> Iterator[str]:
    """Why a sample cannot be put into words; one line with its source, or nothing."""
    try:
        for one in _variants(sample):
            _refuse_image(sample, _encoded(one))
    except DataError as error:
        yield str(error)


def _variants(sample: Sample) -> Iterator[Sample]:
    """The sample with each of its true texts, of which training draws one."""
    targets = sample.targets
    if targets is None or not targets.references:
        yield sample
        return
    for text in dict.fromkeys(targets.references):
        yield sample.with_(targets=replace(targets, references=(text,)))


def _encoded(sample: Sample) -> Dialogue:
    """The sample in the first wording that can hold it: some know phrases that name nothing, or several things.

    Raises:
        DataError: none can; what the task's own wording says.
    """
    encode, codec = _task(sample.task).encode, Codec()
    errors: list[DataError | ConfigError] = []
    for template in _wordings(sample.task):
        rng = None if sample.targets is None else np.random.default_rng(0)
        try:
            found: Dialogue = encode(sample, template, codec, rng)
            return found
        except (DataError, ConfigError) as error:
            errors.append(error)
    raise errors[0]


@lru_cache(maxsize=64)
def _task(name: str) -> ModuleType:
    """Cached because finding a plug-in lists folders, which takes longer than a sample's words do."""
    return plugins.find("tasks", name)


@lru_cache(maxsize=64)
def _wordings(task: str) -> tuple[Template, ...]:
    """The shipped templates of a task, its own first."""
    own = templates.load(_task(task).TEMPLATE)
    found = (templates.load(name) for name in resources.names("data_templates"))
    return (own, *(t for t in found if t.task == task and t.name != own.name))


def _refuse_image(sample: Sample, dialogue: Dialogue) -> None:
    said = [turn.question for turn in dialogue.turns]
    said += [words for turn in dialogue.turns for a in turn.answers for words in (a.question, a.text) if words]
    if words := next((words for words in said if IMAGE in words), ""):
        raise DataError(f"{sample.source}: the text spells a model's own {IMAGE} (got {words!r:.80}); remove it")
