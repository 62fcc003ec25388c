"""What a step is made of: segments that hold KV, sequences that grow, chunks that are computed.

A *segment* is a run of tokens whose KV lives together: a shared tree node, or the tail that one
sequence has alone and grows with its answer. A decode is a chunk of one token, or of a few where
the ones behind the last are guessed, so there is no prefill or decode flag.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchpipe.planner.kv_ledger import BLOCK_TOKENS, blocks_for
from batchpipe.planner.request import TokenIds

Slots = npt.NDArray[np.int64]  # of the paged KV, one for each token
NO_SLOTS: Slots = np.empty(0, dtype=np.int64)


class Segment:
    """Tokens whose KV lives together, and how much of it is computed.

    ``position`` is the absolute position of the first token, ``users`` the number of running
    sequences at or below it, ``decoders`` those of them that decode, ``held_children`` the
    segments right below it that hold KV.

    While its sequence decodes, a tail grows by a token a step or more: `Decoding` knows its length
    then, and ``computed`` stands still until it stops.

    Where a plan has grown, a segment's first tokens may lie where another segment's were: it
    *inherits* their slots, and the blocks in which these lie count among its own.
    """

    __slots__ = (
        "_inherited",
        "_inherited_blocks",
        "_slots",
        "answer",
        "blocks",
        "computed",
        "decoders",
        "held_children",
        "length",
        "node",
        "parent",
        "position",
        "prompt",
        "rank",
        "users",
    )

    def __init__(self, node: int, position: int, rank: int, prompt: TokenIds) -> None:
        self.node = node  # -1: a sequence's own tail
        self.parent: Segment | None = None
        self.position = position
        self.rank = rank  # first rank below it: siblings lie side by side in a step
        self.prompt = prompt
        self.answer: list[int] = []  # the tokens drawn behind the prompt, where an engine draws
        self.length = len(prompt)
        self.computed = 0
        self.blocks: list[int] = []
        self.users = 0
        self.decoders = 0
        self.held_children = 0
        self._slots = self._inherited = NO_SLOTS
        self._inherited_blocks = 0

    def token_ids(self, start: int, end: int) -> npt.NDArray[np.int64] | TokenIds:
        """Its tokens ``start:end``, of the prompt and the answer behind it."""
        own = len(self.prompt)
        if end <= own:
            return self.prompt[start:end]
        answer = np.asarray(self.answer[max(0, start - own) : end - own], dtype=np.int64)
        return answer if start >= own else np.concatenate([self.prompt[start:], answer])

    @property
    def room(self) -> int:
        """Tokens that its blocks hold."""
        own = len(self.blocks) - self._inherited_blocks
        return len(self._inherited) + own * BLOCK_TOKENS

    @property
    def has_inherited(self) -> bool:
        """True where its first tokens lie in blocks of another segment."""
        return self._inherited_blocks > 0

    @property
    def skew(self) -> int:
        """How far the place at which it needs another block is from whole blocks."""
        return len(self._inherited) % BLOCK_TOKENS

    @property
    def slots(self) -> Slots:  # [room]
        """KV slots of its tokens, in order; more than its tokens where the last block has room."""
        if len(self._slots) != self.room:
            firsts = np.asarray(self.blocks[self._inherited_blocks :], dtype=np.int64)
            own = (firsts[:, None] * BLOCK_TOKENS + np.arange(BLOCK_TOKENS)).ravel()
            self._slots = np.concatenate([self._inherited, own])
        return self._slots

    def missing_blocks(self, tokens: int) -> int:
        """Blocks that it needs beyond its own to hold so many tokens."""
        return blocks_for(max(0, tokens - self.room))

    def surplus(self, tokens: int) -> list[int]:
        """The blocks behind those of its first so many tokens, which it owns no more."""
        own = blocks_for(max(0, tokens - len(self._inherited)))
        kept = self._inherited_blocks + own
        rest = self.blocks[kept:]
        del self.blocks[kept:]
        self._slots = self._slots[: self.room]
        return rest

    def inherit(self, slots: Slots, blocks: list[int], computed: int) -> None:
        """Its first tokens, so many of them computed, are in these slots of these blocks."""
        assert not self.blocks, "what holds KV inherits none"
        self._slots = self._inherited = slots
        self.blocks, self._inherited_blocks = blocks, len(blocks)
        self.computed = computed

    def release(self) -> list[int]:
        """Its blocks, which it owns no more; its tokens stay to be computed again."""
        blocks, self.blocks, self.computed = self.blocks, [], 0
        self._slots = self._inherited = NO_SLOTS
        self._inherited_blocks = 0
        return blocks


class Sequence:
    """A prompt while it runs."""

    __slots__ = (
        "admitted",
        "cached_tokens",
        "end_blocks",
        "index",
        "joined",
        "left",
        "path",
        "path_blocks",
        "prompt_tokens",
        "tail",
    )

    def __init__(
        self,
        index: int,
        prompt_tokens: int,
        tail: Segment,
        path_blocks: tuple[tuple[int, int], ...] = (),
        *,
        left: bool = True,
    ) -> None:
        self.index = index  # of the prompt in the plan
        self.path: tuple[Segment, ...] = ()  # shared segments, root first
        self.path_blocks = path_blocks  # node and blocks of each
        self.tail = tail
        self.left = left  # admitted from the front of the order
        self.admitted = -1  # in which step, the first time; -1 before
        self.joined = -1  # the step from which on it decodes, -1 while it does not
        self.end_blocks = 0  # of its tail, at the end that was expected on admission
        self.prompt_tokens = prompt_tokens
        self.cached_tokens = prompt_tokens  # less what is computed on its behalf

    @property
    def answer(self) -> list[int]:
        """The tokens drawn so far, where an engine draws."""
        return self.tail.answer


@dataclass(frozen=True, slots=True)
class Draft:
    """Tokens guessed to follow a tail, whose places in it are ``start:end``."""

    start: int
    tokens: tuple[int, ...]

    @property
    def end(self) -> int:
        """The place behind the last of them."""
        return self.start + len(self.tokens)


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """``tokens[start:end]`` of a segment, computed in one step; then ``sequence`` draws a token.

    Behind the segment's own tokens may stand those of a draft. Then a token is drawn behind the
    last that is known and behind every one that is guessed. All places that score come before those
    that draw.
    """

    segment: Segment
    start: int
    end: int
    sequence: Sequence | None
    draft: Draft | None = None
    scoring: range = range(0)  # places behind which the prompt's next token is scored

    @property
    def drawing(self) -> range:
        """The places in the segment behind which a token is drawn."""
        if self.sequence is None:
            return range(0)
        if self.draft is None:
            return range(self.end - 1, self.end)
        return range(max(self.start, self.draft.start - 1), self.end)

    def token_ids(self) -> npt.NDArray[np.int64] | TokenIds:  # [end - start]
        """The tokens that it computes."""
        if self.draft is None:
            return self.segment.token_ids(self.start, self.end)
        known = self.segment.token_ids(self.start, max(self.start, self.draft.start))
        return np.concatenate([known, self.guessed(self.start, self.end)])

    def guessed(self, start: int, end: int) -> npt.NDArray[np.int64]:
        """Those of the tokens at places ``start:end`` that are guessed."""
        first = 0 if self.draft is None else self.draft.start
        tokens = () if self.draft is None else self.draft.tokens
        return np.asarray(tokens[max(0, start - first) : max(0, end - first)], dtype=np.int64)
