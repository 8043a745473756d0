"""An answer as HTML: the picture with its masks and boxes, each of which can be hovered, focused or pinned.

Plain strings without scripts; ``assets/panel.js`` moves the class ``on`` between elements of one ``data-object``. Every
text of people or models is escaped, braces too, because gradio's templates read them.
"""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image as Pillow
from torch import Tensor

from ufo_tune import show
from ufo_tune.core import masks, placeholders
from ufo_tune.core.answers import parse
from ufo_tune.core.codec import Codec
from ufo_tune.core.images import sample_image
from ufo_tune.core.types import Prediction, Sample
from ufo_tune.demo.asking import Answer, Turn
from ufo_tune.show import palette
from ufo_tune.show.overlay import layer

_SIDE = 960
"""Long side of the picture in pixels: enlarged or shrunk to it, so that outlines are smooth."""
_STROKE = 5
"""Width of outlines, in its pixels."""
_HIT = 192
"""Long side of the shapes that feel the pointer."""
_SURE = 0.3
"""Objects of a question about classes that score less are not drawn (as in ``show.draw_prediction``)."""


def clean(text: str) -> str:
    """Text for HTML, and for the templates that it goes through."""
    return escape(text).replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;").replace("`", "&#96;")


def shown(sample: Sample, prediction: Prediction) -> list[int]:
    """Which objects are drawn, from large to small: those of some extent, and sure enough where classes were asked for.

    Large ones first, so that small ones lie on top and feel the pointer.
    """
    areas = _areas(prediction)
    sure = [True] * len(areas)
    if sample.classes and len(prediction.scores) == len(areas):
        sure = (prediction.scores >= _SURE).tolist()
    return sorted((i for i in range(len(areas)) if sure[i] and areas[i] > 0), key=lambda i: -areas[i])


def picture(answer: Answer) -> str:
    """The whole panel of one answer."""
    sample, prediction = answer.sample, answer.prediction
    if any(a is not None for a in (prediction.depth, prediction.normals, prediction.label_map)):
        drawn = show.draw_prediction(sample, prediction, scale_to=_SIDE)
        alt = f"{sample.task.replace('_', ' ')} of the picture"
        return f'<div class="ufo-panel"><img class="ufo-map" src="{_url(drawn)}" alt="{clean(alt)}"></div>'
    pixels = sample_image(sample)
    assert pixels is not None  # the page asks about pictures
    order = shown(sample, prediction)
    height, width = _canvas(sample.size)
    photo = Pillow.fromarray(pixels).resize((width, height), Pillow.Resampling.BICUBIC)
    names = show.names(sample, prediction)
    colours = _colours(names)
    shapes = "".join(_shape(answer, i, names[i], colours[i], (height, width)) for i in order)
    tags = "".join(_tag(answer, i, names[i], colours[i]) for i in order)
    count = f"{len(order)} object{'' if len(order) == 1 else 's'}" if order else "nothing marked"
    figure = (
        f'<figure class="ufo-figure" style="--aspect:{width / height:.4f}">'
        f'<svg viewBox="0 0 {width} {height}" role="group" aria-label="The picture, {count}">'
        f'<image href="{_url(photo)}" width="{width}" height="{height}"/>{shapes}</svg>{tags}</figure>'
    )
    listed = sorted(order)
    items = "".join(_item(prediction, i, names[i], colours[i]) for i in listed)
    closeups = "".join(_closeup(alone, i, names[i]) for i in listed if (alone := _slots(answer, i)) is not None)
    side = f'<ul class="ufo-list" aria-label="Objects">{items}</ul>' if items else ""
    if closeups:
        side += f'<div class="ufo-slots">{closeups}</div>'
    return f'<div class="ufo-panel">{figure}<div class="ufo-side">{side}</div></div>'


def words(answer: Answer, codec: Codec, history: Sequence[Turn] = ()) -> str:
    """What was said: earlier turns, the question and the answer's words; where it has none, what was found."""
    sample, prediction = answer.sample, answer.prediction
    span = f"{re.escape(codec.box_open)}.*?{re.escape(codec.box_close)}"  # vqa and captions keep theirs as they are
    plain = re.sub(span, placeholders.BOX, prediction.text, flags=re.DOTALL)
    spoken = _marked(re.sub("|".join(map(re.escape, codec.special_tokens)), "", plain))
    said = spoken or clean(_found(sample, prediction))
    if prediction.invalid:
        many = "An answer" if prediction.invalid == 1 else f"{prediction.invalid} answers"
        said += f' <span class="ufo-soft">{many} could not be read.</span>'
    asked = sample.text or ", ".join(sample.classes)
    turns = [(q, _marked(a) or clean(a)) for q, a in history] + [(asked, said)]
    rows = "".join((f"<dt>{clean(q)}</dt>" if q else "") + f"<dd>{a}</dd>" for q, a in turns)
    return f'<dl class="ufo-words">{rows}</dl>'


def progress(texts: Sequence[str], codec: Codec, question: str) -> str:
    """What has been said so far: nothing, the words of one answer, or what parallel ones have found."""
    head = f"<dt>{clean(question)}</dt>" if question else ""
    if len(texts) < 2:
        begun = f"{re.escape(codec.box_open)}(?!.*{re.escape(codec.box_close)}).*"  # a box that is not whole yet
        whole = re.sub(begun, "", "".join(texts), flags=re.DOTALL)
        said = _marked(placeholders.read(whole, codec).text)
        body = f"{said or ('pointing' if any(texts) else 'looking')}&hellip;"
    else:
        parsed = [parse(text, codec) for text in texts]
        found = Counter(p.label for p in parsed if p.label and (p.boxes or p.slot_groups))
        seen = ", ".join(f"{clean(name)} &times; {n}" for name, n in found.most_common())
        body = f"{len(texts)} points are asked at once&hellip; {seen}"
    return f'<dl class="ufo-words" data-busy="true">{head}<dd>{body}</dd></dl>'


def fault(message: str) -> str:
    """What could not be done, in the project's sentence."""
    return f'<p class="ufo-fault" role="alert">{clean(message)}</p>'


def _shape(answer: Answer, number: int, name: str, colour: palette.Colour, size: tuple[int, int]) -> str:
    """One object in the picture: what is seen of it, and what feels pointer and keyboard."""
    prediction = answer.prediction
    height, width = size
    ratio = np.array([width / answer.sample.size[1], height / answer.sample.size[0]] * 2)
    x0, y0, x1, y1 = (prediction.boxes[number].numpy() * ratio).round(1).tolist()
    frame = f'x="{x0}" y="{y0}" width="{max(x1 - x0, 1):.1f}" height="{max(y1 - y0, 1):.1f}"'
    ink = f"rgb{colour}"
    drawn = hit = ""
    kind = "box"
    if prediction.masks and masks.area([prediction.masks[number]])[0] > 0:
        bitmap = masks.decode(prediction.masks[number]).astype(bool)
        rgba, place = layer(bitmap, colour, size, _STROKE)
        drawn = (
            f'<image class="ufo-mask" href="{_url(Pillow.fromarray(rgba))}" x="{place[0]}" y="{place[1]}" '
            f'width="{place[2] - place[0]}" height="{place[3] - place[1]}"/>'
        )
        hit = f'<path class="ufo-hit" d="{_runs(bitmap, size)}"/>'
        kind = "mask"
    else:
        drawn = f'<rect class="ufo-box" {frame} stroke="{ink}"/>'
        hit = f'<rect class="ufo-hit ufo-hollow" {frame}/>'
    label = f"{kind} {number + 1}: {_called(name, prediction, number)}"
    return (
        f'<g class="ufo-object" data-object="{number}" tabindex="0" role="button" aria-pressed="false" '
        f'aria-label="{clean(label)}">{drawn}<rect class="ufo-ring" {frame}/>{hit}</g>'
    )


def _tag(answer: Answer, number: int, name: str, colour: palette.Colour) -> str:
    height, width = answer.sample.size
    x0, y0, _, _ = answer.prediction.boxes[number].tolist()
    place = f"left:{100 * max(x0, 0) / width:.2f}%;top:{100 * max(y0, 0) / height:.2f}%"
    paint = f"background:rgb{colour};color:rgb{palette.ink_on(colour)}"
    low = " ufo-below" if y0 < 0.06 * height else ""
    text = clean(_called(name, answer.prediction, number))
    return f'<span class="ufo-tag{low}" data-object="{number}" style="{place};{paint}" aria-hidden="true">{text}</span>'


def _item(prediction: Prediction, number: int, name: str, colour: palette.Colour) -> str:
    box = ", ".join(f"{v:.0f}" for v in prediction.boxes[number].tolist())
    return (
        f'<li><button type="button" class="ufo-item" data-object="{number}" aria-pressed="false">'
        f'<i style="background:rgb{colour}"></i><span>{clean(_called(name, prediction, number))}</span>'
        f"<small>box {box}</small></button></li>"
    )


def _closeup(alone: Tensor, number: int, name: str) -> str:
    """The maps of one mask's slot tokens, in the places that they fill inside every cell."""
    count = len(alone)
    side = round(count**0.5)
    values = alone.numpy()
    low, high = np.percentile(values, [1, 99])
    tiles = palette.heat((values - low) / max(float(high - low), 1e-6))  # [S, h, w, 3]
    figures = "".join(
        f'<img src="{_url(Pillow.fromarray(tile))}" alt="Slot token {s + 1} of {count}: row {s // side + 1}, column '
        f'{s % side + 1} of every cell, from {values[s].min():.1f} to {values[s].max():.1f}" '
        f'title="token {s + 1}: row {s // side + 1}, column {s % side + 1} of every cell">'
        for s, tile in enumerate(tiles)
    )
    title = f"Mask {number + 1}, token by token"
    whose = f" <span>{clean(name)}</span>" if name else ""
    return (
        f'<section class="ufo-closeup" data-object="{number}" aria-label="{clean(f"{title}: {name}")}">'
        f"<h3>{title}{whose}</h3>"
        f'<div class="ufo-grid" style="--side:{side}">{figures}</div>'
        f'<p class="ufo-scale"><span>{low:.1f}</span><i></i><span>{high:.1f}</span></p>'
        f'<p class="ufo-soft">Each of the {count} &lt;MASK&gt; tokens sees its own place inside every cell; '
        "together they are the mask (logits).</p></section>"
    )


def _called(name: str, prediction: Prediction, number: int) -> str:
    score = f" {float(prediction.scores[number]):.2f}" if number < len(prediction.scores) else ""
    return (name or "object") + score


def _slots(answer: Answer, number: int) -> Tensor | None:
    return answer.slots[number] if number < len(answer.slots) else None


def _found(sample: Sample, prediction: Prediction) -> str:
    """What was found, counted by name."""
    order = shown(sample, prediction)
    names = show.names(sample, prediction)
    if not order and any(a is not None for a in (prediction.depth, prediction.normals, prediction.label_map)):
        return "A value for every pixel."
    if not order:
        return "Nothing was found."
    kind = "mask" if prediction.masks else "box"
    if not sample.classes:
        plural = "es" if kind == "box" else "s"
        return f"{len(order)} {kind}{plural if len(order) > 1 else ''}."
    counted = Counter(names[i] for i in order)
    return ", ".join(f"{name} \u00d7 {n}" for name, n in counted.most_common())


def _marked(text: str) -> str:
    """An answer's words as HTML with a chip for each place; empty where it has no words but places."""
    pieces = placeholders.cut(text)
    places = (placeholders.BOX, placeholders.MASK)
    if not any(c.isalnum() for p in pieces if p not in places for c in p):
        return ""
    number, html = 0, ""
    for piece in pieces:
        if piece in places:
            number += 1
            html += f'<span class="ufo-chip">{"box" if piece == placeholders.BOX else "mask"} {number}</span>'
        else:
            html += clean(piece)
    return html


def _areas(prediction: Prediction) -> list[float]:
    """Pixels of every object: of its mask, or of its box where it has none."""
    sides = (prediction.boxes[:, 2:] - prediction.boxes[:, :2]).clamp_min(0)
    boxes = sides.prod(1).tolist()
    if not prediction.masks:
        return boxes
    covered = masks.area(prediction.masks).tolist()
    return [float(c or b) for c, b in zip(covered, boxes, strict=True)]


def _colours(names: Sequence[str]) -> list[palette.Colour]:
    """As ``show.draw`` colours: by name, or each object its own where all are called the same."""
    distinct = list(dict.fromkeys(names))
    numbers = range(len(names)) if len(distinct) < 2 else [distinct.index(name) for name in names]
    return [palette.of_object(n) for n in numbers]


def _canvas(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the picture on the page."""
    ratio = _SIDE / max(size)
    return max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio))


def _runs(bitmap: np.ndarray, size: tuple[int, int]) -> str:
    """An SVG path that covers a bitmap [H, W] with one bar for each run of its rows, on (height, width) units."""
    ratio = _HIT / max(bitmap.shape)
    small = (max(1, round(bitmap.shape[1] * ratio)), max(1, round(bitmap.shape[0] * ratio)))
    grown = Pillow.fromarray(bitmap.astype(np.uint8) * 255).resize(small, Pillow.Resampling.BOX)
    edges = np.diff(np.pad(np.asarray(grown) > 0, ((0, 0), (1, 1))).astype(np.int8), axis=1)  # [h, w + 1]
    rows, starts = np.nonzero(edges == 1)
    _, ends = np.nonzero(edges == -1)  # of the same runs, in the same order
    across, down = size[1] / small[0], size[0] / small[1]
    return "".join(
        f"M{x0 * across:.0f} {y * down:.1f}h{(x1 - x0) * across:.0f}v{down:.1f}h{(x0 - x1) * across:.0f}z"
        for y, x0, x1 in zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True)
    )


def _url(image: Any) -> str:
    """A picture inside the page: nothing else has to be fetched."""
    file = io.BytesIO()
    image.save(file, "WEBP", quality=88, method=2)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
