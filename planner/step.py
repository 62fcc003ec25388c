"""One step: what it computes, and what that asks of the machine."""

from __future__ import annotations

from dataclasses import dataclass

from batchpipe.planner.decoding import Decoding
from batchpipe.planner.segment import Chunk, Sequence


@dataclass(frozen=True, slots=True)
class StepLoad:
    """What one step asks of the machine, counted in tokens, keys and query-key pairs."""

    tokens: int  # rows of the linear layers
    drawn: int  # rows of the output head
    sequences: int  # chunks, each with metadata of its own
    own_keys: int = 0  # keys that decodes read alone
    shared_keys: int = 0  # distinct keys of shared segments, each read once for all decodes below
    shared_pairs: int = 0  # decodes times the shared keys above them
    prefill_tokens: int = 0
    prefill_pairs: int = 0  # prefill queries times the keys that they see

    @property
    def decodes(self) -> int:
        """Tokens that are decodes."""
        return self.tokens - self.prefill_tokens


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """Every decode advances by one token; the chunks are prompt tokens beside them."""

    decoding: Decoding
    chunks: tuple[Chunk, ...]  # of prompts, and of answers that a preemption lost
    load: StepLoad

    def all_chunks(self) -> list[Chunk]:
        """Decodes and prompt chunks in tree order: subtrees side by side, parents first."""
        decodes = map(self.decoding.chunk, self.decoding.sequences.values())
        return sorted(
            (*decodes, *self.chunks), key=lambda chunk: (chunk.segment.rank, chunk.segment.position)
        )

    @property
    def ending(self) -> list[Sequence]:
        """Sequences whose prompt this step completes; each draws the first token behind it."""
        return [chunk.sequence for chunk in self.chunks if chunk.sequence is not None]


def step_load(decoding: Decoding, chunks: tuple[Chunk, ...]) -> StepLoad:
    """The load of these decodes and chunks together."""
    prefill_tokens = pairs = ending = 0
    for chunk in chunks:
        tokens = chunk.end - chunk.start
        prefill_tokens += tokens
        past = chunk.segment.position + chunk.start
        pairs += tokens * past + tokens * (tokens + 1) // 2
        ending += chunk.sequence is not None
    decodes = len(decoding)
    return StepLoad(
        tokens=decodes + prefill_tokens,
        drawn=decodes + ending,
        sequences=decodes + len(chunks),
        own_keys=decoding.own_keys,
        shared_keys=decoding.shared_keys,
        shared_pairs=decoding.shared_pairs,
        prefill_tokens=prefill_tokens,
        prefill_pairs=pairs,
    )
