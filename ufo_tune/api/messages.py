"""Conversations as ``transformers`` writes them, turned into one sample: the last question after the turns before it.

    [{"role": "user", "content": [{"type": "image", "image": "street.jpg"}, {"type": "text", "text": "Where is it?"}]},
     {"role": "assistant", "content": "It is at <bbox>.", "boxes": [[12, 30, 80, 95]]},
     {"role": "user", "content": "Segment what is at <bbox>.", "boxes": [[12, 30, 80, 95]]}]

``boxes`` are xyxy pixels, one for each ``<bbox>`` and ``<mask>`` of the message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ufo_tune.core import placeholders
from ufo_tune.core.types import NO_SIZE, Sample, Targets
from ufo_tune.engine import predict
from ufo_tune.errors import DataError

Messages = Sequence[Mapping[str, Any]]
"""One conversation."""
_BOXES = "give `boxes` as [[x1, y1, x2, y2], ...] in pixels"
_ROLES = ("user", "assistant")
_FORM = '{"role": "user", "content": "..."}'


def in_batches(messages: Any) -> bool:
    """Whether these are several conversations.

    Raises:
        DataError: this is no list.
    """
    return bool(_listed(messages)) and not isinstance(messages[0], Mapping)


def to_sample(messages: Messages, task: str, image: Any = None) -> Sample:
    """The question that a conversation ends with.

    Args:
        messages: user and assistant in turn, the user first and last.
        task: that answers it.
        image: the picture, where no message holds it.
    Raises:
        DataError: another order or form, several pictures, or not one box for each ``<bbox>`` and ``<mask>``.
    """
    for number, message in enumerate(_listed(messages)):
        if not isinstance(message, Mapping):
            raise DataError(f"chat: message {number} is no mapping (got {message!r:.80}); give {_FORM}")
    if len(messages) % 2 == 0 or any(m.get("role") != _ROLES[i % 2] for i, m in enumerate(messages)):
        roles = [m.get("role") for m in messages]
        raise DataError(f"chat: roles do not take turns (got {roles}); begin and end with user, assistant between")
    texts, boxes, pictures = [], [], [] if image is None else [image]
    for number, message in enumerate(messages):
        text, shown = _content(message.get("content"), f"chat: message {number}")
        texts.append(text)
        pictures += shown
        boxes += _boxes(message, text, f"chat: message {number}")
    if len(pictures) > 1:
        raise DataError(f"chat: shows more than one image (got {len(pictures)}); give one, in the first message")
    sample = predict.to_sample(pictures[0], task) if pictures else Sample(None, NO_SIZE, task, source="chat")
    history = tuple(zip(texts[:-1:2], texts[1::2], strict=True))
    given = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)  # [N, 4]
    targets = Targets(given, labels=torch.zeros(len(given), dtype=torch.long)) if boxes else None
    return sample.with_(text=texts[-1], history=history, targets=targets)


def _content(content: Any, where: str) -> tuple[str, list[Any]]:
    """The words of a message and the pictures in it."""
    if isinstance(content, str):
        return content.strip(), []
    if not isinstance(content, list | tuple | None):
        raise DataError(f"{where}: content is no text (got {content!r:.80}); give a text, or a list of parts")
    texts, pictures = [], []
    for part in content or ():
        kind = part.get("type") if isinstance(part, Mapping) else None
        picture = None if kind != "image" else part.get("image", part.get("path"))
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif picture is not None:
            pictures.append(picture)
        else:
            raise DataError(
                f"{where}: is neither text nor an image that is here (got {part!r:.80}); give "
                '{"type": "text", "text": ...} or {"type": "image", "image": file or pixels}'
            )
    return " ".join(texts).strip(), pictures


def _boxes(message: Mapping[str, Any], text: str, where: str) -> list[Sequence[float]]:
    """A box for each place that the words point at."""
    kinds = placeholders.found(text)
    given = message.get("boxes")
    try:
        boxes: list[Sequence[float]] = [[float(v) for v in box] for box in (() if given is None else given)]
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: boxes are no lists of numbers (got {given!r:.80}); {_BOXES}") from error
    if wrong := [box for box in boxes if len(box) != 4]:
        raise DataError(f"{where}: a box has not four numbers (got {wrong[0]}); {_BOXES}")
    if not boxes and placeholders.BOX not in kinds:
        return [(0.0, 0.0, 0.0, 0.0)] * len(kinds)  # of a mask only its tokens are seen again
    if len(boxes) != len(kinds):
        raise DataError(
            f"{where}: points at {len(kinds)} places (got {len(boxes)} boxes for {text!r:.80}); give one of `boxes` "
            "for each <bbox> and <mask>, in their order"
        )
    return boxes


def _listed(messages: Any) -> Any:
    """Messages, or conversations, as they are.

    Raises:
        DataError: they are no list.
    """
    if not isinstance(messages, list | tuple):
        raise DataError(
            f"chat: is no list of messages (got {messages!r:.80}); give [{_FORM}], or ask a single question with `ask`"
        )
    return messages
