"""Which tokens of prompts a step computes beside its decodes, and which were computed before."""

from __future__ import annotations

from dataclasses import dataclass, field

from batchpipe.planner.plan import Plan
from batchpipe.planner.schedule.counts import Counts
from batchpipe.planner.schedule.growth import KVRun
from batchpipe.planner.schedule.host_memory import HostMemory, Reserve
from batchpipe.planner.schedule.scoring import Scoring
from batchpipe.planner.schedule.segment import Chunk, Segment, Sequence


@dataclass(slots=True)
class Forming:
    """A step being formed: what it computes so far, and how many tokens more it may."""

    budget: int
    chunks: list[Chunk] = field(default_factory=list)
    silent: list[Sequence] = field(default_factory=list)  # complete then, and they draw nothing
    ends: dict[int, int] = field(default_factory=dict)  # of chunks, by their segment's identity


class Prefill:
    """Lays prompts into steps, chunk by chunk (Sarathi's chunked prefill).

    A child's chunk may stand in the same step as the last chunk of its parent: within one forward
    pass keys are written before they are read, so a shared prefix costs no bubble. What lies in
    host memory comes back when its turn to be computed is there.
    """

    def __init__(self, plan: Plan, counts: Counts, host: HostMemory) -> None:
        self._counts, self._host = counts, host
        self._ever_computed: dict[int, int] = {}  # tokens of a node, of a preempted tail (~index)
        self.grow(plan)

    def grow(self, plan: Plan) -> None:
        """The plan's tree is another; what was computed of prompts' own tails is known.

        But not of those that are scored: by the other tree they are scored anew.
        """
        self._plan, self._scoring = plan, Scoring(plan)
        self._ever_computed = {
            key: tokens
            for key, tokens in self._ever_computed.items()
            if key < 0 and plan.samplings[~key].prompt_logprobs is None
        }

    def schedule(self, sequence: Sequence, step: Forming, reserve: Reserve) -> None:
        """Chunks of the sequence's path and tail stand in the step, as far as budget and KV go."""
        draws = self._plan.samplings[sequence.index].max_tokens > 0
        for segment in (*sequence.path, sequence.tail):
            begun = id(segment) in step.ends
            if not begun and not self._host.bring_back(segment, reserve):
                return
            start = step.ends[id(segment)] if begun else segment.computed
            end = min(start + step.budget, self._host.resumes(segment, start))
            if start < end:
                if not reserve(segment, end):
                    return
                ends = segment is sequence.tail and end == segment.length
                scoring = self._scoring.places(segment, self._new(sequence, segment, start), end)
                drawing = sequence if ends and draws else None
                step.chunks.append(Chunk(segment, start, end, drawing, scoring=scoring))
                step.ends[id(segment)] = end
                step.budget -= end - start
                self._count(sequence, segment, start, end)
            if end < segment.length:
                return
        if not draws:
            step.silent.append(sequence)

    def inherits(self, segment: Segment, run: KVRun) -> tuple[int, int]:
        """Tokens of the run that the segment may inherit, as places ``start:end`` of its text.

        What is behind the first token whose scores are wanted is computed again.
        """
        start, end = segment.position, len(run.slots)
        most = self.reusable(segment)
        if segment.node >= 0 or most < segment.length:
            end = min(end, start + most)
        return start, end

    def reusable(self, segment: Segment) -> int:
        """How many of its first tokens nobody wants to be scored here."""
        return self._scoring.unscored(segment)

    def inherited(self, segment: Segment) -> None:
        """What the node has computed was computed under another name."""
        self._ever_computed[segment.node] = segment.computed

    def preempted(self, sequence: Sequence) -> None:
        """What is computed of its tail is lost."""
        self._ever_computed[~sequence.index] = sequence.tail.computed

    def answered(self, sequence: Sequence) -> None:
        """Nothing of its tail is computed again."""
        self._ever_computed.pop(~sequence.index, None)

    def _new(self, sequence: Sequence, segment: Segment, start: int) -> int:
        """The first place from ``start`` on that was never computed, before an eviction say."""
        return max(start, self._ever_computed.get(_key(sequence, segment), 0))

    def _count(self, sequence: Sequence, segment: Segment, start: int, end: int) -> None:
        """Prompt tokens computed on behalf of this sequence (answers computed again are not)."""
        prompt_end = len(segment.prompt)
        computed = max(0, min(end, prompt_end) - min(start, prompt_end))
        self._counts.computed_prompt_tokens += computed
        sequence.cached_tokens -= computed
        key = _key(sequence, segment)
        before = self._ever_computed.get(key, 0)
        self._counts.recomputed_tokens += max(0, min(end, before) - start)
        if segment.node >= 0 and end > before:
            self._ever_computed[key] = end


def _key(sequence: Sequence, segment: Segment) -> int:
    """By which it is known what was ever computed of the segment, which the sequence reads."""
    return segment.node if segment.node >= 0 else ~sequence.index
