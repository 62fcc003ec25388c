"""What a step is made of: segments that hold KV, sequences that grow, chunks that are computed.

A *segment* is a run of tokens whose KV lives together: a shared tree node, or the tail that one
sequence has alone and grows with its answer. A decode is a chunk of one token, so there is no
prefill or decode flag.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchpipe.planner.kv_ledger import BLOCK_TOKENS


class Segment:
    """Tokens whose KV lives together, and how much of it is computed.

    ``position`` is the absolute position of the first token, ``users`` the number of running
    sequences at or below it.
    """

    __slots__ = (
        "_slots",
        "blocks",
        "computed",
        "node",
        "parent",
        "position",
        "rank",
        "tokens",
        "users",
    )

    def __init__(self, node: int, position: int, rank: int, tokens: list[int]) -> None:
        self.node = node  # -1: a sequence's own tail
        self.parent: Segment | None = None
        self.position = position
        self.rank = rank  # first rank below it: siblings lie side by side in a step
        self.tokens = tokens
        self.computed = 0
        self.blocks: list[int] = []
        self.users = 0
        self._slots = np.empty(0, dtype=np.int64)

    @property
    def slots(self) -> npt.NDArray[np.int64]:  # [blocks * BLOCK_TOKENS]
        """KV slots of its tokens, in order; more than its tokens where the last block has room."""
        if len(self._slots) != len(self.blocks) * BLOCK_TOKENS:
            firsts = np.asarray(self.blocks, dtype=np.int64) * BLOCK_TOKENS
            self._slots = (firsts[:, None] + np.arange(BLOCK_TOKENS)).ravel()
        return self._slots

    def release(self) -> list[int]:
        """Its blocks, which it owns no more; its tokens stay to be computed again."""
        blocks, self.blocks, self.computed = self.blocks, [], 0
        self._slots = self._slots[:0]
        return blocks

    @property
    def pending(self) -> int:
        """Tokens whose KV is not computed yet."""
        return len(self.tokens) - self.computed


class Sequence:
    """A prompt while it runs. ``produced`` counts the tokens of its answer."""

    __slots__ = ("cached_tokens", "index", "path", "produced", "prompt_tokens", "tail")

    def __init__(self, index: int, prompt_tokens: int, tail: Segment) -> None:
        self.index = index  # of the prompt in the plan
        self.path: tuple[Segment, ...] = ()  # shared segments, root first
        self.tail = tail
        self.produced = 0
        self.prompt_tokens = prompt_tokens
        self.cached_tokens = prompt_tokens  # less what is computed on its behalf

    @property
    def answer(self) -> list[int]:
        """The tokens produced so far."""
        return self.tail.tokens[len(self.tail.tokens) - self.produced :]


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """``tokens[start:end]`` of a segment, computed in one step; then ``sequence`` draws a token."""

    segment: Segment
    start: int
    end: int
    sequence: Sequence | None
