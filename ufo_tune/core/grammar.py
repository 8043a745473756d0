"""The answer grammar as an automaton over token ids, in tensors: one lookup a step for all lanes.

    compiler = Compiler(lambda piece: tokenizer(piece, add_special_tokens=False)["input_ids"], codec, end_id, slot_ids)
    automaton = compiler.automaton([grammar_of_sample_0, None])  # None: free text
    state = automaton.advance(automaton.starts, token)

Texts are cut as ``core.answers.pieces`` cuts them, so a constrained answer has the tokens that training would give it.
Free text is an automaton too: everything may follow anything, but slot tokens come in whole slots.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ufo_tune.core.answers import Alternatives, Box, Grammar, Integer, Literal, OneOf, Part, Slots, box_parts, pieces
from ufo_tune.core.codec import Codec
from ufo_tune.errors import ModelError

DONE = 0
"""State after the end token."""
FREE = 1
"""State of free text: any token may follow."""
LONGEST_RUN = 64
"""Most tokens of a forced run; longer ones continue in the next pass."""
_MOST = 10_000  # alternatives of one grammar: more is a mistake, and would fill the memory
_CACHED = 16  # automata kept; evaluation asks for the same few again and again

TokenIds = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Automaton:
    """Tables of Q states over C listed tokens. Rows of ``FREE`` say only what its listed tokens do.

    From a state with forced tokens exactly these follow; every other state but ``FREE`` allows only listed tokens.
    """

    starts: Tensor  # [G] i64 first state of each grammar asked for
    columns: Tensor  # [C] i64 listed token ids, ascending
    allowed: Tensor  # [Q, C] bool
    next: Tensor  # [Q, C] i64
    forced: Tensor  # [Q, F] i64 tokens that must follow, -1 padding
    forced_count: Tensor  # [Q] i64
    forced_state: Tensor  # [Q] i64 state after them
    unread: Tensor  # [Q] i64 of them, where they end the answer, those after the last slot: nothing needs their states

    def to(self, device: torch.device | str) -> Automaton:
        """The same automaton on another device."""
        return Automaton(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def advance(self, state: Tensor, token: Tensor) -> Tensor:
        """States [L] after tokens [L]; a token that is not listed leaves the state as it is (free text)."""
        column = torch.searchsorted(self.columns, token).clamp_max(len(self.columns) - 1)
        return torch.where(self.columns[column] == token, self.next[state, column], state)


class Compiler:
    """Compiles grammars; equal states are shared, so a grammar costs what is new in it.

    Args:
        encode: token ids of one piece of text, without special tokens around it.
        codec: how boxes and slots are written.
        end_id: the token that ends an answer.
        slot_ids: tokens that come ``codec.slot_tokens`` at a time in free text.
    """

    def __init__(
        self, encode: Callable[[str], Sequence[int]], codec: Codec, end_id: int, slot_ids: Sequence[int]
    ) -> None:
        self.codec = codec
        self._encode = encode
        self._end_id = end_id
        self._nodes: list[dict[int, int]] = []  # token -> node; acyclic, children before parents
        self._known: dict[tuple[tuple[int, int], ...], int] = {}
        self._pieces: dict[str, TokenIds] = {}
        self._branches: dict[tuple[tuple[TokenIds, ...], int], int] = {}
        self._unions: dict[tuple[int, int], int] = {}
        self._compiled: dict[Grammar, int] = {}
        self._automata: dict[tuple[Grammar | None, ...], Automaton] = {}
        self._done = self._node({})
        self._free = self._node({-1: self._done})  # marks FREE; its real row is written in _tables
        self._end = self._node({end_id: self._done})
        self._slot_runs = {slot: self._slot_run(slot) for slot in slot_ids}

    def automaton(self, grammars: Sequence[Grammar | None]) -> Automaton:
        """One automaton for several grammars; ``starts`` is in their order, None is free text.

        Raises:
            ModelError: a grammar allows too many texts to list, or none.
        """
        key = tuple(grammars)
        if key not in self._automata:
            while len(self._automata) >= _CACHED:
                del self._automata[next(iter(self._automata))]
            self._automata[key] = self._tables([self._free if g is None else self.compile(g) for g in key])
        return self._automata[key]

    def compile(self, grammar: Grammar) -> int:
        """The node where a grammar starts."""
        if grammar not in self._compiled:
            if _ways(grammar) > _MOST:
                raise ModelError(f"grammar: more than {_MOST} alternatives; put fewer Alternatives in a row")
            start: int | None = None
            for sequence in _flat(grammar, self.codec):
                node = self._end
                for choices in reversed(list(_runs(sequence, self.codec))):
                    node = self._branch(tuple(self._ids(run) for run in choices), node)
                start = node if start is None else self._union(start, node)
            if start is None:
                raise ModelError(f"grammar: allows no text (got {grammar!r}); give at least one alternative")
            self._compiled[grammar] = start
        return self._compiled[grammar]

    def _ids(self, run: Sequence[str]) -> TokenIds:
        for piece in run:
            if piece not in self._pieces:
                self._pieces[piece] = tuple(self._encode(piece))
        return tuple(token for piece in run for token in self._pieces[piece])

    def _node(self, edges: dict[int, int]) -> int:
        """The node with these edges; there is never a second one."""
        key = tuple(sorted(edges.items()))
        if key not in self._known:
            self._known[key] = len(self._nodes)
            self._nodes.append(edges)
        return self._known[key]

    def _slot_run(self, slot: int) -> int:
        """The node after a first slot token of free text."""
        node = self._free
        for _ in range(self.codec.slot_tokens - 1):
            node = self._node({slot: node})
        return node

    def _branch(self, sequences: tuple[TokenIds, ...], follow: int) -> int:
        """The node from which any of the sequences leads to ``follow``."""
        key = (sequences, follow)
        if key not in self._branches:
            if len(sequences) == 1:
                node = follow
                for token in reversed(sequences[0]):
                    node = self._node({token: node})
            else:
                rests: dict[int, list[TokenIds]] = {}
                for sequence in filter(None, sequences):
                    rests.setdefault(sequence[0], []).append(sequence[1:])
                node = self._node({t: self._branch(tuple(dict.fromkeys(r)), follow) for t, r in rests.items()})
                if not all(sequences):  # one of them is empty
                    node = self._union(node, follow)
            self._branches[key] = node
        return self._branches[key]

    def _union(self, a: int, b: int) -> int:
        """The node that allows what either allows."""
        if a == b:
            return a
        key = (min(a, b), max(a, b))
        if key not in self._unions:
            left, right = self._nodes[a], self._nodes[b]
            both = {t: self._union(left[t], right[t]) for t in left.keys() & right.keys()}
            self._unions[key] = self._node({**left, **right, **both})
        return self._unions[key]

    def _tables(self, starts: Sequence[int]) -> Automaton:
        """Tensors of everything that can be reached."""
        order = {self._done: DONE, self._free: FREE}
        stack = [*starts, *self._slot_runs.values()]
        while stack:
            node = stack.pop()
            if node not in order:
                order[node] = len(order)
                stack.extend(self._nodes[node].values())
        rows = [(order[n], t, order[m]) for n in order if n != self._free for t, m in self._nodes[n].items()]
        rows += [(FREE, slot, order[node]) for slot, node in self._slot_runs.items()] + [(FREE, self._end_id, DONE)]
        state, token, after = torch.tensor(rows, dtype=torch.long).T  # [E] each
        columns, column = torch.unique(token, return_inverse=True)
        allowed = torch.zeros(len(order), len(columns), dtype=torch.bool)
        allowed[state, column] = True
        following = torch.full(allowed.shape, DONE)
        following[FREE] = FREE
        following[state, column] = after
        runs = [self._forced(node) for node in order]
        width = max(1, *(len(tokens) for tokens, _ in runs))
        return Automaton(
            starts=torch.tensor([order[n] for n in starts], dtype=torch.long),
            columns=columns,
            allowed=allowed,
            next=following,
            forced=torch.tensor([[*tokens, *[-1] * (width - len(tokens))] for tokens, _ in runs]).long(),  # [Q, F]
            forced_count=torch.tensor([len(tokens) for tokens, _ in runs]),
            forced_state=torch.tensor([order[node] for _, node in runs]),
            unread=torch.tensor([self._unread(*run) for run in runs]),
        )

    def _forced(self, node: int) -> tuple[list[int], int]:
        """Tokens that must follow a node, and the node after them."""
        tokens: list[int] = []
        while node != self._free and len(self._nodes[node]) == 1:
            if len(tokens) >= LONGEST_RUN and node != self._end:  # an end is never left for a pass of its own
                break
            ((token, node),) = self._nodes[node].items()
            tokens.append(token)
        return tokens, node

    def _unread(self, tokens: Sequence[int], node: int) -> int:
        """How many of the last tokens of a forced run that leads to ``node`` only close the answer."""
        read = [number for number, token in enumerate(tokens, 1) if token in self._slot_runs]
        return len(tokens) - max(read, default=0) if node == self._done else 0


def _ways(grammar: Grammar) -> int:
    """How many sequences ``_flat`` gives."""
    options = [p.options for p in grammar if isinstance(p, Alternatives)]
    return math.prod(sum(map(_ways, choices)) for choices in options)


def _flat(grammar: Grammar, codec: Codec) -> Iterator[tuple[Part, ...]]:
    """Every way through the alternatives, boxes spelled out."""
    for number, part in enumerate(grammar):
        if isinstance(part, Alternatives):
            for option in part.options:
                yield from _flat((*grammar[:number], *option, *grammar[number + 1 :]), codec)
            return
        if isinstance(part, Box):
            yield from _flat((*grammar[:number], *box_parts(codec), *grammar[number + 1 :]), codec)
            return
    yield grammar


def _runs(sequence: Iterable[Part], codec: Codec) -> Iterator[list[list[str]]]:
    """Steps of a sequence: each a choice of runs of pieces.

    Text between two special tokens is one run, whatever parts it comes from: ``pieces`` sees it whole in training.
    """
    longest_first = sorted(codec.special_tokens, key=len, reverse=True)
    special = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
    openers = (codec.box_open, codec.mask_token, codec.depth_token)
    plain, inside = [""], False
    for part in sequence:
        if isinstance(part, Slots):
            yield from (_cut(plain, True, codec), [part.tokens(codec)])
            plain = [""]
        elif isinstance(part, Literal):
            for text in filter(None, special.split(part.text)):
                if text in codec.special_tokens:
                    yield from (_cut(plain, text in openers, codec), [[text]])
                    plain, inside = [""], text == codec.box_open or (inside and text != codec.box_close)
                elif inside:
                    yield [pieces(codec.box_open + text, codec)[1:]]
                else:
                    plain = [head + text for head in plain]
        else:
            texts = _texts(part)
            if inside:
                yield [[text] for text in texts]
            elif any(special.search(text) for text in texts):
                yield from (_cut(plain, False, codec), [pieces(text, codec) for text in texts])
                plain = [""]
            elif len(plain) * len(texts) > _MOST:
                raise ModelError(f"grammar: more than {_MOST} texts in a run; put a special token between its parts")
            else:
                plain = [head + text for head in plain for text in texts]
    yield _cut(plain, False, codec)


def _cut(texts: Sequence[str], opener: bool, codec: Codec) -> list[list[str]]:
    """Pieces of plain texts, before a box or slot (``opener``) or not."""
    return [pieces(text + codec.box_open, codec)[:-1] if opener else pieces(text, codec) for text in texts]


def _texts(part: Part) -> tuple[str, ...]:
    if isinstance(part, Integer):
        return tuple(map(str, range(part.low, part.high + 1)))
    return part.texts if isinstance(part, OneOf) else ()
