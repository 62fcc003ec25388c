"""Forms every step: which tokens of which segments are computed next, within KV and token budget.

A child's chunk may stand in the same step as the last chunk of its parent: within one forward
pass keys are written before they are read, so a shared prefix costs no bubble.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from dataclasses import dataclass

import numpy as np

from batchpipe.planner.kv_ledger import BLOCK_TOKENS, KVLedger, blocks_for
from batchpipe.planner.lengths import OutputLengths
from batchpipe.planner.live_tree import LiveTree
from batchpipe.planner.memory import peak_blocks
from batchpipe.planner.plan import Plan
from batchpipe.planner.segment import Chunk, Segment, Sequence
from batchpipe.planner.waiting import Waiting


@dataclass(slots=True)
class Counts:
    """What a run did, in tokens and steps."""

    steps: int = 0
    computed_prompt_tokens: int = 0
    completion_tokens: int = 0
    preemptions: int = 0
    evicted_tokens: int = 0
    peak_kv_tokens: int = 0


class TokenBatcher:
    """Steps through a plan: decodes first, then prefill chunks, then new sequences while KV lasts.

    The number of running sequences is limited by memory alone (BatchLLM's memory-centric token
    batching); a step by ``step_tokens`` (Sarathi's chunked prefill).
    """

    def __init__(self, plan: Plan, kv_blocks: int, step_tokens: int) -> None:
        assert step_tokens > 0, step_tokens
        self.plan = plan
        self.step_tokens = step_tokens
        self.ledger = KVLedger(kv_blocks)
        self.tree = LiveTree(plan, self.ledger)
        self.waiting = Waiting(plan)
        self.running: list[Sequence] = []  # in order of admission
        self.lengths = OutputLengths()
        self.counts = Counts()

    # ---- forming a step -------------------------------------------------------------------

    def next_step(self) -> list[Chunk]:
        """The chunks to compute next, subtrees side by side; empty when everything is answered."""
        chunks: list[Chunk] = []
        budget = self._schedule_decodes(chunks)
        scheduled = {id(chunk.segment): chunk.end for chunk in chunks}
        for sequence in self.running:
            if budget <= 0:
                break
            if id(sequence.tail) not in scheduled:
                budget = self._schedule_prefill(sequence, chunks, scheduled, budget)
        while budget > 0:
            admitted = self._admit()
            if admitted is None:
                break
            budget = self._schedule_prefill(admitted, chunks, scheduled, budget)
        # The forecast lets no sequence in whose prompt has no room, so something can always go on.
        assert chunks or not self.running, (
            f"prompt {self.running[-1].index} does not fit into {self.ledger.total} KV blocks, "
            f"{self.ledger.free} of them free"
        )
        chunks.sort(key=lambda chunk: (chunk.segment.rank, chunk.segment.position))
        return chunks

    def _schedule_decodes(self, chunks: list[Chunk]) -> int:
        """Every sequence past its prompt advances by one token; returns the budget left."""
        for sequence in list(self.running):
            tail = sequence.tail
            if tail.pending != 1 or not sequence.produced or any(s.pending for s in sequence.path):
                continue
            if tail.users and self._reserve(tail, len(tail.tokens), preempt=True):
                chunks.append(Chunk(tail, tail.computed, len(tail.tokens), sequence))
        return self.step_tokens - len(chunks)

    def _schedule_prefill(
        self, sequence: Sequence, chunks: list[Chunk], scheduled: dict[int, int], budget: int
    ) -> int:
        """Chunks of the sequence's path and tail as far as budget and KV go; returns the rest."""
        for segment in (*sequence.path, sequence.tail):
            start = scheduled.get(id(segment), segment.computed)
            end = min(len(segment.tokens), start + budget)
            if start < end:
                if not self._reserve(segment, end, preempt=False):
                    return budget
                ends = segment is sequence.tail and end == len(segment.tokens)
                chunks.append(Chunk(segment, start, end, sequence if ends else None))
                scheduled[id(segment)] = end
                budget -= end - start
                self._count_prompt_tokens(sequence, segment, start, end)
            if end < len(segment.tokens):
                break
        return budget

    def _count_prompt_tokens(
        self, sequence: Sequence, segment: Segment, start: int, end: int
    ) -> None:
        """Prompt tokens computed on behalf of this sequence (answers computed again are not)."""
        prompt_end = max(0, sequence.prompt_tokens - segment.position)
        computed = max(0, min(end, prompt_end) - min(start, prompt_end))
        self.counts.computed_prompt_tokens += computed
        sequence.cached_tokens -= computed

    # ---- admission and preemption -----------------------------------------------------------

    def _admit(self) -> Sequence | None:
        """The first in line, running now, where the forecast of the peak KV allows it."""
        sequence = self.waiting.peek()
        if sequence is None or (self.running and not self._fits(sequence)):
            return None
        self.waiting.advance()
        sequence.path = self.tree.enter(sequence.index)
        sequence.tail.parent = sequence.path[-1] if sequence.path else None
        sequence.tail.users = 1
        self.running.append(sequence)
        return sequence

    def _fits(self, candidate: Sequence) -> bool:
        """True where the running set and the candidate stay within the blocks to their ends."""
        sequences = [*self.running, candidate]
        held = np.fromiter((len(s.tail.tokens) for s in sequences), np.int64, len(sequences))
        left = np.fromiter((self._remaining(s) for s in sequences), np.int64, len(sequences))
        shared = self.tree.blocks_with(candidate.index)
        return shared + peak_blocks(held, left) <= self.ledger.total

    def _remaining(self, sequence: Sequence) -> int:
        sampling = self.plan.samplings[sequence.index]
        return self.lengths.remaining(
            sequence.produced, sampling.max_tokens, self.plan.exact_lengths(sequence.index)
        )

    def _preempt(self, sequence: Sequence) -> None:
        """The sequence waits again at the front, its own KV freed, its tokens kept."""
        assert len(self.running) > 1, (  # alone it would be computed again and again, for nothing
            f"prompt {sequence.index} alone does not fit into {self.ledger.total} KV blocks"
        )
        self.counts.preemptions += 1
        self._leave(sequence)
        self.waiting.put_back(sequence)

    def _leave(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.tree.leave(sequence.path)
        sequence.tail.users = 0
        self.ledger.give_back(sequence.tail.release())

    def _reserve(self, segment: Segment, tokens: int, *, preempt: bool) -> bool:
        """Blocks for the segment's first ``tokens`` are owned; False where room cannot be made."""
        missing = blocks_for(tokens) - len(segment.blocks)
        while missing > self.ledger.free:
            evicted = self.tree.evict(self.waiting.next_use)
            if evicted is not None:
                self.counts.evicted_tokens += evicted
                continue
            if not preempt:
                return False
            victim = self.running[-1]
            self._preempt(victim)
            if victim.tail is segment:
                return False
        if missing == 1 and segment.blocks:
            segment.blocks.append(self.ledger.take_after(segment.blocks[-1]))
        elif missing > 0:
            segment.blocks.extend(self.ledger.take(missing))
        held = self.ledger.used * BLOCK_TOKENS
        self.counts.peak_kv_tokens = max(self.counts.peak_kv_tokens, held)
        return True

    # ---- after a step -------------------------------------------------------------------------

    def computed(self, chunks: Ordered[Chunk]) -> None:
        """The chunks' KV is in place."""
        self.counts.steps += 1
        for chunk in chunks:
            chunk.segment.computed = chunk.end

    def append(self, sequence: Sequence, token: int) -> None:
        """The sequence goes on with one more token."""
        sequence.tail.tokens.append(token)
        sequence.produced += 1
        self.counts.completion_tokens += 1

    def finish(self, sequence: Sequence, *, ended_itself: bool) -> None:
        """The sequence is answered; nodes that nobody below still needs are freed."""
        if ended_itself:
            self.lengths.add(sequence.produced)
        self._leave(sequence)
        self.tree.answered(sequence.path)
