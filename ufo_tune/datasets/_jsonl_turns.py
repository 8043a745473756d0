"""What a row of ``jsonl`` says: questions, answers, and the places that their placeholders stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ufo_tune.core import placeholders
from ufo_tune.core.answers import whole
from ufo_tune.errors import DataError

MAX_TEXT = 50_000
"""Letters of a question or answer: longer ones are files pasted in by mistake."""
_IMAGE, _REF = "<image>", "<ref-object>"
"""ms-swift's placeholders of an image, which our templates place, and of a phrase of ``objects.ref``."""

Turn = tuple[str, tuple[str, ...]]
"""A question and its true answers."""


def points(data: Mapping[str, Any]) -> bool:
    """Whether a row's words point: its task says so or, where it names none, they hold ``<bbox>`` or ``<mask>``.

    Where a row has ``classes`` or several images and names no task, templates say the words.
    """
    if "task" in data:
        return bool(data["task"] == "conversation")
    images = data.get("images")
    if "classes" in data or (isinstance(images, list) and len(images) > 1):
        return False
    messages = data.get("messages")
    contents = [m.get("content") for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []
    said = (data.get("question"), data.get("answer"), *contents)
    return any(placeholders.found(text) for text in said if isinstance(text, str))


def turns(data: Mapping[str, Any], where: str) -> list[Turn]:
    """Questions with their true answers, the last first asked about; one of nothing where the row has none.

    Raises:
        DataError: a text is missing, empty or too long, or messages do not alternate.
    """
    if "question" not in data and "answer" not in data:
        with_objects = bool(data.get("objects")) or "classes" in data
        if "messages" not in data or (with_objects and not points(data)):
            return [("", ())]
        said = data["messages"] if isinstance(data["messages"], list) else []
        spoken = [m for m in said if isinstance(m, dict) and m.get("role") != "system"]
        if not spoken or [m.get("role") for m in spoken] != ["user", "assistant"] * (len(spoken) // 2):
            raise DataError(f"{where}: messages: are not question, answer, ... (got {len(spoken)} turns); mend them")
        contents = [_without_image(m.get("content")) for m in spoken]
        texts = [_words(text, f"{where}: messages[{k}]") for k, text in enumerate(contents)]
        return [(question, (answer,)) for question, answer in zip(texts[::2], texts[1::2], strict=True)]
    # A caption answers a question that the template asks.
    question = _words(data["question"], f"{where}: question") if "question" in data else ""
    answers = data.get("answer")
    answers = answers if isinstance(answers, list) and answers else [answers]
    return [(question, tuple(_words(answer, f"{where}: answer") for answer in answers))]


def with_refs(said: Sequence[Turn], refs: Sequence[str], where: str) -> list[Turn]:
    """The same words with ``<ref-object>`` replaced by the phrases, in order.

    Raises:
        DataError: it does not stand there once for each phrase.
    """
    count = sum(text.count(_REF) for question, answers in said for text in (question, *answers[:1]))
    if not count:
        return list(said)
    if count != len(refs):
        raise DataError(f"{where}: {_REF} stands {count} times for {len(refs)} of objects.ref; give as many")
    phrases = iter(refs)

    def filled(text: str) -> str:
        head, *rest = text.split(_REF)
        return head + "".join(next(phrases) + part for part in rest)

    return [(filled(question), tuple(filled(answer) for answer in answers[:1])) for question, answers in said]


def check_places(said: Sequence[Turn], boxes: Sequence[Any] | None, masks: Sequence[Any] | None, where: str) -> None:
    """Check that every placeholder has its object, and every object its placeholder; ``[]`` is no box or mask.

    Raises:
        DataError: it has not.
    """
    for question, _ in said:
        if placeholders.MASK in placeholders.found(question):
            raise DataError(f"{where}: a question points by <mask> (got {question!r:.80}); point by <bbox>")
    texts = [text for question, answers in said for text in (question, *answers[:1])]
    kinds = [kind for text in texts for kind in placeholders.found(text)]
    count = len(boxes if boxes is not None else masks or ())
    if len(kinds) != count:
        raise DataError(
            f"{where}: <bbox> and <mask> stand {len(kinds)} times for {count} objects; give one object each, in their "
            "order, or name another task if they are only words"
        )
    for number, kind in enumerate(kinds):
        masked = masks is not None and masks[number] != []
        if not masked and (kind == placeholders.MASK or boxes is None or boxes[number] == []):
            what = "mask" if kind == placeholders.MASK else "bbox"
            raise DataError(f"{where}: object {number}: has no {what} for its {kind} (got none, or []); give one")


def refuse_long(text: str, most: int, where: str) -> None:
    """Refuse what no tokenizer should see: too many letters, or one half of a letter that JSON writes as two.

    Raises:
        DataError: it is so.
    """
    if len(text) > most:
        raise DataError(f"{where}: is too long (got {len(text)} letters: {text!r:.40}...); give at most {most}")
    if not whole(text):
        raise DataError(f"{where}: holds half a letter (got {text!a:.80}); write both halves, or save as UTF-8")


def _without_image(text: Any) -> Any:
    return text.replace(_IMAGE, "").strip() if isinstance(text, str) else text


def _words(text: Any, where: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where}: is empty (got {text!r:.80}); give words")
    refuse_long(text, MAX_TEXT, where)
    return text
