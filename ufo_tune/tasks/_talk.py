"""What ``vqa`` and ``conversation`` share: a question with an answer in words, after the turns of ``history``.

In training every answer is learnt, the earlier ones too; at inference those are given as they were said.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ufo_tune.core.codec import Codec
from ufo_tune.core.types import Answer, Dialogue, Sample, Slot, Turn
from ufo_tune.errors import ConfigError
from ufo_tune.tasks import _single_answer as single
from ufo_tune.tasks._truth import refuse_tokens, spoken, truth
from ufo_tune.templates import Template


class Words:
    """Texts of a sample as the model sees them; here they are words and nothing else."""

    def __init__(self, sample: Sample, codec: Codec) -> None:
        self.sample = sample
        self.codec = codec

    def question(self, text: str, what: str) -> str:
        """A question.

        Args:
            text: as the sample has it.
            what: which one, for messages.

        Raises:
            DataError: it is empty, or spells one of our tokens.
        """
        said = spoken(self.sample, what, text)
        refuse_tokens(self.sample, what, said, self.codec)
        return said

    def answer(self, text: str, what: str) -> tuple[str, tuple[Slot, ...]]:
        """An answer, and the slots in it; arguments and errors are those of ``question``."""
        return self.question(text, what), ()


def dialogue(sample: Sample, template: Template, rng: np.random.Generator | None, words: Words) -> Dialogue:
    """All turns in their order. Earlier questions stand in the prompt, so that what follows sees them.

    Args:
        sample: ``text`` is the last question; ``targets.text`` (training only) its answer.
        template: wordings; fills ``{question}`` and ``{text}``.
        rng: draws the wordings; None asks the evaluation's wording and leaves the last answer open.
        words: of the sample.

    Raises:
        ConfigError: the template asks a question of its own.
        DataError: an empty question or answer; in training no targets.
    """
    if not template.asks("question"):
        raise ConfigError(
            f"template {template.name}: asks its own question (got {template.eval_question!r} for task "
            f"{template.task}); put {{question}} into it, or use a template and samples of task caption"
        )
    said_last = None if rng is None else truth(sample).text
    turns = []
    for number, (question, answer) in enumerate(sample.history):
        asked = template.question(rng, question=words.question(question, f"question of turn {number}"))
        said, slots = words.answer(answer, f"answer of turn {number}")
        turns.append(Turn(asked, (Answer(template.answer(rng, text=said), slots),)))
    question = template.question(rng, question=words.question(sample.text, "question"))
    if said_last is None:
        last = single.dialogue(template, question, None)
    else:
        said, slots = words.answer(said_last, "answer")
        last = single.dialogue(template, question, template.answer(rng, text=said), slots)
    return replace(last, turns=(*turns, *last.turns))
