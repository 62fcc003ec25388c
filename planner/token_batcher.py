"""Forms every step: which tokens of which segments are computed next, within KV and token budget.

A child's chunk may stand in the same step as the last chunk of its parent: within one forward
pass keys are written before they are read, so a shared prefix costs no bubble.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Ordered
from dataclasses import dataclass

import numpy as np

from batchpipe.planner.kv_ledger import BLOCK_TOKENS, KVLedger, blocks_for
from batchpipe.planner.lengths import OutputLengths
from batchpipe.planner.memory import peak_blocks
from batchpipe.planner.plan import Plan
from batchpipe.planner.segment import Chunk, Segment, Sequence


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
        self.counts = Counts()
        self.lengths = OutputLengths()
        self.running: list[Sequence] = []  # in order of admission
        self._preempted: deque[Sequence] = deque()
        self._next = 0  # place in plan.order
        self._nodes: dict[int, Segment] = {}  # live shared segments by tree node
        self._shared_blocks = 0  # blocks of the nodes that running sequences read, when computed
        self._due = (plan.tree.last - plan.tree.first).tolist()  # sequences to finish below a node
        self._place_of_rank = np.empty(len(plan.prompts), dtype=np.int32)
        self._place_of_rank[plan.rank_of[plan.order]] = np.arange(len(plan.prompts))

    # ---- forming a step -------------------------------------------------------------------

    def next_step(self) -> list[Chunk]:
        """The chunks to compute next, subtrees side by side; empty when everything is answered."""
        chunks: list[Chunk] = []
        budget = self._schedule_decodes(chunks)
        scheduled = {id(chunk.segment): chunk.end for chunk in chunks}
        for sequence in list(self.running):
            if budget <= 0:
                break
            if id(sequence.tail) not in scheduled:
                budget = self._schedule_prefill(sequence, chunks, scheduled, budget)
        while budget > 0:
            admitted = self._admit()
            if admitted is None:
                break
            budget = self._schedule_prefill(admitted, chunks, scheduled, budget)
        if not chunks and self.running:
            self._preempt(self.running[-1])  # prefills block one another: the first gets the room
            return self.next_step()
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
                return 0 if budget <= 0 else budget
        return budget

    def _count_prompt_tokens(
        self, sequence: Sequence, segment: Segment, start: int, end: int
    ) -> None:
        """Prompt tokens computed on behalf of this sequence (answers computed again are not)."""
        prompt_end = max(0, sequence.prompt_tokens - segment.position)
        computed = max(0, min(end, prompt_end) - min(start, prompt_end))
        self.counts.computed_prompt_tokens += computed
        sequence.cached_tokens -= computed

    # ---- admission --------------------------------------------------------------------------

    def _admit(self) -> Sequence | None:
        """The next sequence, running now, where the forecast of the peak KV allows it."""
        if self._preempted:
            sequence = self._preempted[0]
        elif self._next < len(self.plan.order):
            sequence = self._make_sequence(int(self.plan.order[self._next]))
        else:
            return None
        if self.running and not self._fits(sequence):
            return None
        if self._preempted:
            self._preempted.popleft()
        else:
            self._next += 1
        sequence.path = self._open_path(sequence.index)
        for segment in sequence.path:
            segment.users += 1
            if segment.users == 1:
                self._shared_blocks += blocks_for(len(segment.tokens))
        sequence.tail.users = 1
        sequence.tail.parent = sequence.path[-1] if sequence.path else None
        self.running.append(sequence)
        return sequence

    def _make_sequence(self, index: int) -> Sequence:
        rank = int(self.plan.rank_of[index])
        start = int(self.plan.tree.tail_start[rank])
        tail = Segment(-1, start, rank, self.plan.prompts[index][start:].tolist())
        return Sequence(index, len(self.plan.prompts[index]), tail)

    def _open_path(self, index: int) -> tuple[Segment, ...]:
        """The prompt's shared segments, root first; those not alive are made, not computed."""
        tree, rank = self.plan.tree, int(self.plan.rank_of[index])
        path: list[Segment] = []
        for node in tree.path(rank):
            parent = path[-1] if path else None
            segment = self._nodes.get(node)
            if segment is None:
                start, end = int(tree.start[node]), int(tree.end[node])
                tokens = self.plan.prompts[index][start:end].tolist()
                segment = Segment(node, start, int(tree.first[node]), tokens)
                self._nodes[node] = segment
            segment.parent = parent  # made anew, perhaps, since this node was last used
            path.append(segment)
        return tuple(path)

    def _fits(self, candidate: Sequence) -> bool:
        """True where the running set and the candidate stay within the blocks to their ends."""
        sequences = [*self.running, candidate]
        held = np.fromiter((len(s.tail.tokens) for s in sequences), np.int64, len(sequences))
        left = np.fromiter((self._remaining(s) for s in sequences), np.int64, len(sequences))
        tree, shared = self.plan.tree, self._shared_blocks
        for node in tree.path(int(self.plan.rank_of[candidate.index])):
            segment = self._nodes.get(node)
            if segment is None or not segment.users:
                shared += blocks_for(int(tree.end[node] - tree.start[node]))
        return shared + peak_blocks(held, left) <= self.ledger.total

    def _remaining(self, sequence: Sequence) -> int:
        sampling = self.plan.samplings[sequence.index]
        return self.lengths.remaining(
            sequence.produced, sampling.max_tokens, self.plan.exact_lengths(sequence.index)
        )

    # ---- KV blocks --------------------------------------------------------------------------

    def _reserve(self, segment: Segment, tokens: int, *, preempt: bool) -> bool:
        """Blocks for the segment's first ``tokens`` are owned; False where room cannot be made."""
        missing = blocks_for(tokens) - len(segment.blocks)
        while missing > self.ledger.free and self._evict_idle():
            pass
        while preempt and missing > self.ledger.free:
            victim = self.running[-1]
            self._preempt(victim)
            if victim.tail is segment:
                return False
            while missing > self.ledger.free and self._evict_idle():
                pass
        if missing > self.ledger.free:
            return False
        if missing == 1 and segment.blocks:
            segment.blocks.append(self.ledger.take_after(segment.blocks[-1]))
        elif missing > 0:
            segment.blocks.extend(self.ledger.take(missing))
        held = self.ledger.used * BLOCK_TOKENS
        self.counts.peak_kv_tokens = max(self.counts.peak_kv_tokens, held)
        return True

    def _evict_idle(self) -> bool:
        """One idle shared node gives its KV back: the leaf whose next use is farthest (Belady)."""
        parents = {id(s.parent) for s in self._nodes.values() if s.parent is not None and s.blocks}
        idle = [
            segment
            for segment in self._nodes.values()
            if not segment.users and segment.blocks and id(segment) not in parents
        ]
        if not idle:
            return False
        farthest = max(idle, key=self._next_use)
        self.counts.evicted_tokens += farthest.computed
        self.ledger.give_back(farthest.release())
        del self._nodes[farthest.node]
        return True

    def _next_use(self, segment: Segment) -> int:
        """Place in the order of the next admission below the node; preempted ones come before 0."""
        first, last = (
            int(self.plan.tree.first[segment.node]),
            int(self.plan.tree.last[segment.node]),
        )
        for place, sequence in enumerate(self._preempted, start=-len(self._preempted)):
            if first <= sequence.tail.rank < last:
                return place
        places = self._place_of_rank[first:last]
        coming = places[places >= self._next]
        return int(coming.min()) if len(coming) else len(self.plan.order)

    def _preempt(self, sequence: Sequence) -> None:
        """The sequence waits again at the front, its own KV freed, its tokens kept."""
        assert len(self.running) > 1, (  # alone it would be computed again and again, for nothing
            f"prompt {sequence.index} alone does not fit into {self.ledger.total} KV blocks"
        )
        self.counts.preemptions += 1
        self.running.remove(sequence)
        self._leave(sequence)
        self._preempted.appendleft(sequence)

    def _leave(self, sequence: Sequence) -> None:
        for segment in sequence.path:
            segment.users -= 1
            if not segment.users:
                self._shared_blocks -= blocks_for(len(segment.tokens))
        sequence.tail.users = 0
        self.ledger.give_back(sequence.tail.release())

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
        self.running.remove(sequence)
        self._leave(sequence)
        for segment in sequence.path:
            self._due[segment.node] -= 1
            if not self._due[segment.node]:
                self.ledger.give_back(segment.release())
                del self._nodes[segment.node]
