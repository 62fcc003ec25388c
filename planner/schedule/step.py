"""One step: what it computes, and what that asks of the machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from batchpipe.planner.machine.step_load import StepLoad
from batchpipe.planner.schedule.decoding import Decoding
from batchpipe.planner.schedule.host_memory import Move
from batchpipe.planner.schedule.segment import Chunk, Draft, Sequence


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """Every decode advances by one token; the chunks are prompt tokens beside them.

    A decode with a draft advances by as many tokens more as the draft was right.
    """

    decoding: Decoding
    chunks: tuple[Chunk, ...]  # of prompts, and of answers that a preemption lost
    load: StepLoad  # without the drafts
    drafts: Mapping[int, Draft] = field(default_factory=dict)  # by prompt
    silent: tuple[Sequence, ...] = ()  # their prompts are complete then, and they draw nothing
    moves: tuple[Move, ...] = ()  # to be made first, in this order

    def all_chunks(self) -> list[Chunk]:
        """Decodes and prompt chunks in tree order: subtrees side by side, parents first."""
        draft_of = self.drafts.get
        decodes = [
            self.decoding.chunk(sequence, draft_of(index))
            for index, sequence in self.decoding.sequences.items()
        ]
        return sorted(
            (*decodes, *self.chunks), key=lambda chunk: (chunk.segment.rank, chunk.segment.position)
        )

    @property
    def ending(self) -> list[Sequence]:
        """Sequences whose prompt this step completes; each draws the first token behind it."""
        return [chunk.sequence for chunk in self.chunks if chunk.sequence is not None]


def step_load(decoding: Decoding, chunks: tuple[Chunk, ...]) -> StepLoad:
    """The load of these decodes and chunks together."""
    prefill_tokens = pairs = ending = scored = 0
    for chunk in chunks:
        tokens = chunk.end - chunk.start
        prefill_tokens += tokens
        past = chunk.segment.position + chunk.start
        pairs += tokens * past + tokens * (tokens + 1) // 2
        ending += chunk.sequence is not None
        scored += len(chunk.scoring)
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
        scored=scored,
    )


def with_guesses(load: StepLoad, tokens: int) -> StepLoad:
    """The load with so many guessed tokens behind its decodes.

    A guessed token is a row like any other, and one query more for keys that its decode reads in
    any case.
    """
    context = (load.own_keys + load.shared_pairs) // max(1, load.decodes)
    return replace(
        load,
        tokens=load.tokens + tokens,
        drawn=load.drawn + tokens,
        prefill_tokens=load.prefill_tokens + tokens,
        prefill_pairs=load.prefill_pairs + tokens * context,
    )
