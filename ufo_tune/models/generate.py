"""The one decode loop: greedy answers, 1..N per row, cached, for rows of different prompts in one batch.

One prefill of the whole rows, then steps in which every lane (an answer being written) adds one token, or all tokens
that its grammar forces. The hidden state kept with a token is the one that *predicted* it, the first token included.
Only before tokens that close an answer because the grammar forces them (the end, or ``</box>`` and the end) no state is
computed (zeros): nothing reads it. A grid point that says ``background`` is then done without a single decoding step,
and a box with its last number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ufo_tune.config import DecodeSection
from ufo_tune.core.answers import Grammar, tidy
from ufo_tune.core.grammar import DONE, FREE, Automaton, Compiler
from ufo_tune.core.types import PROMPT, Batch, Generation
from ufo_tune.core.views import from_canvas, stitch
from ufo_tune.errors import ModelError
from ufo_tune.models.base import VLM
from ufo_tune.models.shared_prefix import Heads, SharedPrefixCache, attending

if TYPE_CHECKING:
    from ufo_tune.models.processor import VLMProcessor
    from ufo_tune.models.ufo import UfoModel

_PASS_CPU, _PASS = 128, 2048  # tokens of one forward pass: enough to keep the device busy, small beside the cache
Watch = Callable[[Tensor], None]
"""Is given the tokens so far, [R, X] with -1 where there is none yet, after every pass; what it raises ends the run."""
_compilers: WeakKeyDictionary[VLMProcessor, Compiler] = WeakKeyDictionary()


@dataclass(slots=True)
class Lanes:
    """Answers that are being written, L of R, ascending."""

    number: Tensor  # [L] lane in the batch
    position: Tensor  # [A, L] position of the next token
    hidden: Tensor  # [L, D] state that predicts it
    state: Tensor  # [L] automaton state
    written: Tensor  # [L] tokens so far
    done: Tensor  # [L] bool

    def select(self, index: Tensor) -> Lanes:
        """Some of the lanes."""
        return Lanes(**{f.name: getattr(self, f.name)[..., index] for f in fields(self) if f.name != "hidden"},
                     hidden=self.hidden[index])  # fmt: skip


@dataclass(slots=True)
class Begun:
    """A prefill: the split cache, the states, and where each lane goes on."""

    cache: SharedPrefixCache
    images: Tensor  # [B, T, D] whose image tokens dense maps are retrieved from
    position: Tensor  # [A, R]
    hidden: Tensor  # [R, D]


@dataclass(slots=True)
class Written:
    """What lanes have said, in the order of the batch."""

    ids: Tensor  # [R, X] i64, -1 padding
    scores: Tensor  # [R, X] f32
    hidden: Tensor  # [R, X, D]


@dataclass(slots=True)
class Run:
    """Tokens that the lanes add in one pass: one, and those that are forced after it."""

    ids: Tensor  # [L, W]
    count: Tensor  # [L] tokens written
    fed: Tensor  # [L] tokens the model has to see: those before an answer's last one that was chosen or is in a slot
    scores: Tensor  # [L, W]
    state: Tensor  # [L] automaton state after it
    done: Tensor  # [L] bool


@torch.inference_mode()
def generate(
    model: UfoModel,
    batch: Batch,
    decode: DecodeSection,
    grammars: Sequence[Grammar | None] = (),
    watch: Watch | None = None,
) -> list[Generation]:
    """Greedy answers to every sample of a batch, in row order.

    Args:
        model: in evaluation mode.
        batch: made without answers (``train=False``); heads of answers are part of the rows.
        decode: limits and switches.
        grammars: one per sample, in row order; used where ``decode.constrained``.
        watch: looks on as the answers grow.
    Raises:
        ModelError: the number of grammars differs from the number of samples.
    """
    counts = [count for row in batch.answer_counts for count in row]
    used = list(grammars) if decode.constrained else [None] * len(counts)
    if len(used) != len(counts):
        raise ModelError(f"generate: {len(used)} grammars for {len(counts)} samples; give one each, None for free text")
    automaton = compiler(model.processor).automaton(used).to(batch.ids.device)
    begun = prefill(model, batch)
    starts = automaton.starts.repeat_interleave(torch.tensor(counts, device=batch.ids.device))  # [R]
    return _generations(model, batch, begun.images, write(model.vlm, begun, automaton, starts, decode, watch))


def compiler(processor: VLMProcessor) -> Compiler:
    """The grammar compiler of a processor's tokenizer; it remembers what it has compiled."""
    if processor not in _compilers:
        tokenizer = processor.tokenizer

        def encode(piece: str) -> list[int]:
            ids: list[int] = tokenizer(piece, add_special_tokens=False)["input_ids"]
            return ids

        slots = (processor.mask_id, processor.depth_id)
        _compilers[processor] = Compiler(encode, processor.codec, processor.end_id, slots)
    return _compilers[processor]


def prefill(model: UfoModel, batch: Batch) -> Begun:
    """One pass of the whole rows (prompts, and the heads of all lanes), its cache split."""
    heads, before = _heads(batch)
    cache = SharedPrefixCache(heads)
    with attending(model.vlm.text_model):
        inputs = model.embed(batch)
        states = model.decode(inputs, batch, cache)
    images = model.retrieved(inputs.embeds, states)
    return Begun(cache, images, batch.positions[:, heads.row, before] + 1, states[heads.row, before])


def _heads(batch: Batch) -> tuple[Heads, Tensor]:
    """Where lanes begin, and the position [R] of the token before each lane's first new one."""
    device = batch.ids.device
    rows = torch.tensor([sum(counts) for counts in batch.answer_counts], device=device)  # [B] lanes
    row = torch.arange(len(rows), device=device).repeat_interleave(rows)  # [R]
    number = torch.arange(len(row), device=device) - (rows.cumsum(0) - rows)[row]  # [R] answer number in its row
    prompt = (batch.segment == PROMPT).sum(1)  # [B]
    most = int(rows.max()) if len(rows) else 0
    own = torch.zeros(len(rows), most + 1, dtype=torch.long, device=device)
    place = torch.where(batch.segment >= 0, batch.segment, most)  # the last column takes prompt and padding
    own = own.scatter_add(1, place, torch.ones_like(place))[:, :most]  # [B, most] tokens of each answer
    start = (prompt[:, None] + own.cumsum(1) - own)[row, number]  # [R]
    count = own[row, number]  # [R]
    longest = int(count.max()) if len(count) else 0
    index = (start[:, None] + torch.arange(longest, device=device)).clamp_max(batch.ids.shape[1] - 1)  # [R, h]
    return Heads(prompt, row, index, count), torch.where(count > 0, start + count, prompt[row]) - 1


def write(
    vlm: VLM, begun: Begun, automaton: Automaton, starts: Tensor, decode: DecodeSection, watch: Watch | None = None
) -> Written:
    """Let all lanes write their answers; ``starts`` [R] are their first automaton states."""
    total, limit, device = len(starts), decode.max_new_tokens, starts.device
    cache, choose = begun.cache, Chooser(vlm, automaton)
    ids = torch.full((total, limit), -1, device=device)
    scores = torch.zeros(total, limit, device=device)
    states: list[tuple[Tensor, Tensor, Tensor]] = []  # (lane, column, state) of written tokens
    lanes = Lanes(
        number=torch.arange(total, device=device),
        position=begun.position,
        hidden=begun.hidden,
        state=starts,
        written=torch.zeros_like(starts),
        done=torch.zeros_like(starts, dtype=torch.bool),
    )
    with attending(vlm.text_model):
        while total:
            run = _plan(lanes, automaton, choose, decode)
            lane, offset = _places(run.count, run.ids.shape[1])  # [m], [m]
            column = lanes.written[lane] + offset
            ids[lanes.number[lane], column] = run.ids[lane, offset]
            scores[lanes.number[lane], column] = run.scores[lane, offset]
            if watch is not None:
                watch(ids)
            chosen = run.count > 0
            states.append((lanes.number[chosen], lanes.written[chosen], lanes.hidden[chosen]))
            if not bool(run.fed.any()):
                break
            lanes, run = _compact(lanes, run, cache, decode.compaction)
            out, lane, offset = _feed(vlm, cache, lanes, run)  # [n, D], [n], [n]
            predicts = offset + 1 < run.count[lane]  # the others' next token is not chosen yet
            states.append((lanes.number[lane], lanes.written[lane] + offset + 1, out))
            states[-1] = tuple(t[predicts] for t in states[-1])  # type: ignore[assignment]
            lanes = Lanes(
                number=lanes.number,
                position=lanes.position + run.fed,
                hidden=out[run.fed.cumsum(0) - 1],
                state=run.state,
                written=lanes.written + run.count,
                done=run.done,
            )
    cache.release()  # before the states are copied: they are most of what is left
    return _collected(ids, scores, states, begun.hidden)


class Chooser:
    """Next tokens from states. Only listed columns of the head are computed where a grammar lists them."""

    def __init__(self, vlm: VLM, automaton: Automaton) -> None:
        self.vlm = vlm
        self.automaton = automaton
        listed = bool((automaton.starts != FREE).any())
        self.rows = vlm.head_rows(automaton.columns) if listed else None

    def __call__(self, hidden: Tensor, state: Tensor, done: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [L] and their probabilities [L] among what the state allows, from [L, D] and [L].

        A forced token's probability is 1. Values of lanes that are done mean nothing.
        """
        token = self.automaton.forced[state, 0]  # [L]; -1 where nothing is forced
        score = torch.ones(len(state), device=state.device)
        open_ = (token < 0) & ~done
        free, listed = open_ & (state == FREE), open_ & (state != FREE)
        if bool(free.any()):
            token[free], score[free] = _best(self.vlm.logits(hidden[free]).float())
        if bool(listed.any()):
            logits = self._listed(hidden[listed]).masked_fill(~self.automaton.allowed[state[listed]], -torch.inf)
            best, score[listed] = _best(logits)
            token[listed] = self.automaton.columns[best]
        return token, score

    def _listed(self, hidden: Tensor) -> Tensor:
        """[L, C] logits of the listed columns."""
        if self.rows is None:
            return self.vlm.logits(hidden)[:, self.automaton.columns].float()
        return torch.nn.functional.linear(hidden, *self.rows).float()


def _best(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Highest column [L] of [L, C] and its probability [L]."""
    highest, best = logits.max(-1)
    return best, (highest - logits.logsumexp(-1)).exp()


def _plan(lanes: Lanes, automaton: Automaton, choose: Chooser, decode: DecodeSection) -> Run:
    """What every lane writes next."""
    token, score = choose(lanes.hidden, lanes.state, lanes.done)
    state = automaton.advance(lanes.state, token)
    ids, count = token[:, None], torch.ones_like(token)
    more = automaton.forced_count[state]
    unread = automaton.unread[state]
    if not decode.forced_runs:  # what closes an answer is written at once all the same
        more = torch.where(more == unread, more, 0)
    ids = torch.cat([ids, automaton.forced[state, : int(more.max())]], dim=1)  # [L, 1] + [L, W - 1] -> [L, W]
    state = torch.where(more > 0, automaton.forced_state[state], state)
    room = decode.max_new_tokens - lanes.written
    unread = unread.masked_fill((more == 0) | (count + more > room), 0)
    count = torch.minimum(count + more, room).masked_fill(lanes.done, 0)
    done = lanes.done | (state == DONE) | (lanes.written + count >= decode.max_new_tokens)
    scores = torch.ones(ids.shape, device=ids.device)
    scores[:, 0] = score
    return Run(ids, count, (count - done.long() - unread).clamp_min(0), scores, state, done)


def _compact(lanes: Lanes, run: Run, cache: SharedPrefixCache, drop: bool) -> tuple[Lanes, Run]:
    """Lanes with nothing to feed leave; without compaction they idle along, one token a step."""
    if not drop:
        idle = {"fed": run.fed.clamp_min(1), "count": torch.minimum(run.count, run.fed + 1)}
        return lanes, replace(run, ids=run.ids.clamp_min(0), **idle)
    left = run.fed.nonzero()[:, 0]
    if len(left) == len(run.fed):
        return lanes, run
    cache.keep(left)
    return lanes.select(left), Run(**{f.name: getattr(run, f.name)[left] for f in fields(run)})


def _feed(vlm: VLM, cache: SharedPrefixCache, lanes: Lanes, run: Run) -> tuple[Tensor, Tensor, Tensor]:
    """The states [n, D] of the run's tokens, and the lane [n] and offset [n] of each: packed, lane by lane."""
    lane, offset = _places(run.fed, run.ids.shape[1])
    tokens = run.ids[lane, offset]  # [n]
    positions = lanes.position[:, lane] + offset  # [A, n]
    # A 4-D mask keeps transformers from building one; the attention function has no use for it.
    mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=lane.device)
    out: list[Tensor] = []
    start = first = 0
    for size, count in _passes(run.fed):
        cache.begin(run.fed[start : start + size], start, start + size)
        here = slice(first, first + count)
        embeds = vlm.embed_text(tokens[here])[None]  # [1, count, D]
        out.append(vlm.decode(embeds, mask, positions[:, None, here], cache, shared_prefix=cache)[0])
        start, first = start + size, first + count
    return torch.cat(out) if len(out) > 1 else out[0], lane, offset


def _passes(count: Tensor) -> list[tuple[int, int]]:
    """Lanes and tokens of each forward pass, from tokens [L] of each lane; bounds what a pass needs in memory."""
    most = _PASS_CPU if count.device.type == "cpu" else _PASS
    total = int(count.sum())
    if total <= most:
        return [(len(count), total)]
    passes = (count.cumsum(0) - 1) // most  # [L] pass of each lane, with gaps where a lane is longer than a pass
    _, which, lanes = passes.unique_consecutive(return_inverse=True, return_counts=True)
    tokens = torch.zeros_like(lanes).index_add(0, which, count)
    return list(zip(lanes.tolist(), tokens.tolist(), strict=True))


def _places(count: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Lane and offset of every token, lane by lane, of lanes with ``count`` [L] tokens."""
    lane, offset = (torch.arange(width, device=count.device) < count[:, None]).nonzero(as_tuple=True)
    return lane, offset


def _collected(ids: Tensor, scores: Tensor, states: list[tuple[Tensor, Tensor, Tensor]], like: Tensor) -> Written:
    """Cut to the longest answer and put the states in their places."""
    length = int((ids >= 0).sum(1).max()) if len(ids) else 0
    hidden = like.new_zeros(len(ids), length, like.shape[-1])
    for lane, column, state in states:
        hidden[lane, column] = state
    return Written(ids[:, :length], scores[:, :length], hidden)


def _generations(model: UfoModel, batch: Batch, images: Tensor, written: Written) -> list[Generation]:
    """One generation per sample: its lanes, cut to its own longest answer."""
    result: list[Generation] = []
    start = 0
    for row, counts in enumerate(batch.answer_counts):
        index = batch.image_index[row]
        features = stitch(images[row, index[index >= 0]], batch.views[row])
        first = 0  # answer number in the row
        for sample, count in zip(batch.samples[row], counts, strict=True):
            ids = written.ids[start : start + count]
            length = int((ids >= 0).sum(1).max()) if count else 0
            result.append(
                Generation(
                    texts=texts(model.processor, ids),
                    ids=ids[:, :length],
                    scores=written.scores[start : start + count, :length],
                    hidden=written.hidden[start : start + count, :length],
                    image_features=features,
                    views=batch.views[row],
                    points=_points(batch, row, first, count, sample.size),
                    slot_id=model.processor.mask_id,
                    depth_id=model.processor.depth_id,
                )
            )
            start, first = start + count, first + count
    return result


def texts(processor: VLMProcessor, ids: Tensor) -> tuple[str, ...]:
    """Texts of answers [N, L], whole or begun, without end token and padding, as training would have written them."""
    return tuple(_text(processor, one) for one in ids.tolist())


def _text(processor: VLMProcessor, ids: list[int]) -> str:
    kept = [token for token in ids if token not in (-1, processor.end_id, processor.pad_id)]
    tokenizer: Any = processor.tokenizer
    decoded: str = tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return tidy(decoded, processor.codec)


def _points(
    batch: Batch, row: int, first: int, count: int, size: tuple[int, int]
) -> tuple[tuple[float, float] | None, ...]:
    """Grid points of answers ``first``.. in [0, 1] of the original image; None where an answer has no ``<LOCAL>``."""
    at = batch.local_index[row]
    at = at[at >= 0]
    if not len(at):  # also where there is no image, hence no canvas
        return (None,) * count
    numbers = batch.segment[row, at].tolist()
    points = from_canvas(batch.points[row, : len(at)], size, batch.views[row]).tolist()
    known = {number: (x, y) for number, (x, y) in zip(numbers, points, strict=True)}
    return tuple(known.get(number) for number in range(first, first + count))
