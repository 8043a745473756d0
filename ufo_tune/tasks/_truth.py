"""What a task asks of a sample before it is put into words: text that can be asked, truth that fits the image.

Everything that is wrong is the data's fault and is said once, with the sample's source.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ufo_tune.core.answers import whole
from ufo_tune.core.codec import Codec
from ufo_tune.core.types import Rle, Sample, Targets
from ufo_tune.errors import DataError

_SLACK = 1.0
"""Pixels by which a box may leave the image: annotations round."""


def truth(sample: Sample) -> Targets:
    """The targets.

    Raises:
        DataError: the sample has none.
    """
    if sample.targets is None:
        raise DataError(f"{sample.source}: has no targets to train on (got None); use an annotated split")
    return sample.targets


def asked_text(sample: Sample, what: str, codec: Codec) -> str:
    """The phrase or question, without blanks around it.

    Raises:
        DataError: it is empty, or spells one of our tokens.
    """
    text = spoken(sample, what, sample.text)
    refuse_tokens(sample, what, text, codec)
    return text


def spoken(sample: Sample, what: str, text: str) -> str:
    """A text without blanks around it.

    Raises:
        DataError: nothing is left.
    """
    if not text.strip():
        raise DataError(f"{sample.source}: the {what} is empty (got {text!r}); give text, or drop the sample")
    return text.strip()


def refuse_tokens(sample: Sample, what: str, text: str, codec: Codec) -> None:
    """Refuse text that would be read as a place in an answer, or that no tokenizer takes.

    Raises:
        DataError: the text spells one of the codec's tokens, or has halves of characters.
    """
    if not whole(text):
        raise DataError(f"{sample.source}: the {what} holds half a letter (got {text!a:.80}); write it in UTF-8")
    spelled = [token for token in codec.special_tokens if token in text]
    if spelled:
        raise DataError(f"{sample.source}: the {what} spells the token {spelled[0]} (got {text!r}); remove it")


def boxes_inside(sample: Sample) -> Tensor:
    """The true boxes [N, 4] xyxy pixels, clamped to the image.

    Raises:
        DataError: a box is not finite, has a negative side, or leaves the image by more than a pixel.
    """
    boxes = truth(sample).boxes.float()
    height, width = sample.size
    low, high = torch.zeros(4), torch.tensor([width, height, width, height], dtype=torch.float32)
    # NaN fails every comparison, so it is refused as well.
    good = ((boxes >= low - _SLACK) & (boxes <= high + _SLACK)).all(1) & (boxes[:, 2:] >= boxes[:, :2]).all(1)  # [N]
    if not bool(good.all()):
        bad = int((~good).nonzero()[0])
        raise DataError(
            f"{sample.source}: box {bad} does not lie in the image of {width} x {height} pixels "
            f"(got {[round(v, 2) for v in boxes[bad].tolist()]}); give x1, y1, x2, y2 in pixels of the original image"
        )
    return boxes.clamp(low, high)  # [N, 4]


def whole_masks(sample: Sample) -> tuple[Rle, ...]:
    """The true masks, one per object.

    Raises:
        DataError: there are none, or one is of another size than the image.
    """
    masks = truth(sample).masks
    if masks is None:
        raise DataError(f"{sample.source}: has no masks (got targets without); use a dataset with masks")
    for number, mask in enumerate(masks):
        if tuple(mask["size"]) != tuple(sample.size):
            raise DataError(
                f"{sample.source}: mask {number} is {tuple(mask['size'])} but the image is {tuple(sample.size)}; "
                "delete the cached table or check the annotation file"
            )
    return masks


def nothing(sample: Sample) -> bool:
    """Whether the phrase names nothing: there are targets, of zero objects."""
    return not len(truth(sample).boxes)


def explanation(sample: Sample, codec: Codec) -> dict[str, str]:
    """The field ``text`` of an answer, where the sample explains itself in words.

    Raises:
        DataError: the words spell one of the codec's tokens.
    """
    text = truth(sample).text.strip()
    refuse_tokens(sample, "explanation", text, codec)
    return {"text": text} if text else {}


def one_object(sample: Sample) -> None:
    """Check that the sample is about exactly one object.

    Raises:
        DataError: it is about none or several.
    """
    count = len(truth(sample).boxes)
    if count != 1:
        raise DataError(f"{sample.source}: a phrase names one object (got {count} targets); join or drop them")


def whole_map(sample: Sample, values: np.ndarray | None, what: str) -> np.ndarray:
    """A true map of the whole image, [H, W] or [H, W, C].

    Args:
        sample: that it belongs to, for its size and source.
        values: the map.
        what: it is, for messages.

    Raises:
        DataError: there is none, or it is of another size than the image.
    """
    if values is None:
        raise DataError(f"{sample.source}: has no {what} (got targets without); use a dataset with one")
    if values.shape[:2] != tuple(sample.size):
        raise DataError(
            f"{sample.source}: {what} is {values.shape[:2]} but the image is {tuple(sample.size)}; "
            "check that they are a pair"
        )
    return values
