"""Wordings: the questions and answers of one task, from ``data_templates/*.yaml``.

    template = templates.load("rec")
    template.question(None, phrase="the red bus")  # the fixed wording of evaluation

Training draws a wording with its own generator; evaluation always asks ``eval_question``.
"""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from ufo_tune import plugins, resources
from ufo_tune.config import _Document
from ufo_tune.errors import ConfigError

QUESTION_FIELDS = frozenset({"phrase", "classes", "question", "range"})
"""What a question may ask the task to fill in, besides the ``FIELDS`` that the task's own file names."""
ANSWER_FIELDS = frozenset({"label", "box", "boxes", "mask", "depth", "normals", "text"})
"""What an answer may ask the task to fill in, besides those."""


class Template(_Document):
    """The wordings of one task. Braces in a wording name a field; a literal brace is doubled.

    ``answers`` is empty for tasks that spell their answers themselves (grid tasks). ``no_target`` says whether a phrase
    may name nothing; its answer is then one fixed text.
    """

    name: str = ""
    task: str
    questions: tuple[str, ...] = Field(min_length=1)
    eval_question: str
    answers: tuple[str, ...] = ()
    no_target: bool = False
    image_position: Literal["after", "before"] = "after"
    image_attention: Literal["full", "causal"] = "full"
    description: str = ""
    source: str = ""

    @field_validator("questions", "answers", "eval_question")
    @classmethod
    def _fields_are_known(cls, value: str | tuple[str, ...], info: ValidationInfo) -> str | tuple[str, ...]:
        known = ANSWER_FIELDS if info.field_name == "answers" else QUESTION_FIELDS
        for text in (value,) if isinstance(value, str) else value:
            unknown = _fields(text) - known
            if unknown and "task" in info.data:
                known = known | set(getattr(plugins.find("tasks", info.data["task"]), "FIELDS", ()))
                unknown -= known
            if unknown:
                raise ValueError(f"no such field {sorted(unknown)} in {text!r}; use {sorted(known)}")
        return value

    def asks(self, field: str) -> bool:
        """Whether a question fills in this field, in training or evaluation."""
        return any(field in _fields(text) for text in (*self.questions, self.eval_question))

    def answers_in(self, field: str) -> bool:
        """Whether an answer holds this field."""
        return any(field in _fields(text) for text in self.answers)

    def question(self, rng: np.random.Generator | None, **fields: str) -> str:
        """One question: drawn with ``rng``, or the wording of evaluation when it is None.

        Raises:
            ConfigError: the wording needs a field that was not given.
        """
        text = self.eval_question if rng is None else self.questions[int(rng.integers(len(self.questions)))]
        return self._fill(text, fields)

    def answer(self, rng: np.random.Generator | None, **fields: str) -> str:
        """One answer: drawn with ``rng``, or the first wording when it is None.

        Wordings with ``{text}`` are used only where text is given: not every sample has an explanation.

        Raises:
            ConfigError: the wording needs a field that was not given, or there is no wording.
        """
        if not self.answers:
            raise ConfigError(f"template {self.name}: has no answers (got none for task {self.task}); add 'answers:'")
        usable = [a for a in self.answers if "text" in fields or "text" not in _fields(a)] or self.answers
        return self._fill(usable[0 if rng is None else int(rng.integers(len(usable)))], fields)

    def _fill(self, text: str, fields: dict[str, str]) -> str:
        missing = _fields(text) - set(fields)
        if missing:
            raise ConfigError(
                f"template {self.name}: {text!r} needs {sorted(missing)} (got {sorted(fields)}); "
                f"mend the wording, task {self.task} cannot fill it"
            )
        return text.format(**fields)

    @classmethod
    def _folder(cls) -> str:
        return "data_templates"


Wording = str | Mapping[str, Any]
"""A template as a model keeps it: the name of a shipped one, or all of one's own, whose file may be elsewhere."""


def load(wording: Wording) -> Template:
    """Read a template by its name in ``data_templates/``, a YAML file of your own, or what ``kept`` made of it.

    Raises:
        ConfigError: no such template, bad YAML, unknown key or field.
    """
    if not isinstance(wording, str):
        return Template.from_dict(dict(wording), where=f"template {wording.get('name', '')}")
    path = resources.locate(Template._folder(), wording)
    return Template.from_dict({"name": path.stem, **resources.read_yaml(path)}, where=path.name)


def kept(wording: str) -> Wording:
    """What a model keeps of the template it is trained with.

    Raises:
        ConfigError: see ``load``.
    """
    return wording if wording in resources.names(Template._folder()) else load(wording).model_dump(mode="json")


def _fields(text: str) -> set[str]:
    """Names in braces. Stray braces raise ValueError, which the validator turns into a located message."""
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}
