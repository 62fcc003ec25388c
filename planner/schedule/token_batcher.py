"""Forms every step: which tokens of which segments are computed next, within KV and token budget.

A child's chunk may stand in the same step as the last chunk of its parent: within one forward
pass keys are written before they are read, so a shared prefix costs no bubble.
"""

from __future__ import annotations

from collections.abc import Mapping

from batchpipe.planner.kv_ledger import BLOCK_TOKENS, Ledger
from batchpipe.planner.lengths import OutputLengths
from batchpipe.planner.machine.step_load import StepLoad
from batchpipe.planner.order import Order
from batchpipe.planner.plan import Plan
from batchpipe.planner.schedule.admission import Admission
from batchpipe.planner.schedule.counts import Counts
from batchpipe.planner.schedule.decoding import Decoding
from batchpipe.planner.schedule.growth import KVRun, held_runs, inherit, replanted
from batchpipe.planner.schedule.kept_answers import KeptAnswers
from batchpipe.planner.schedule.live_tree import LiveTree
from batchpipe.planner.schedule.pace import Pace
from batchpipe.planner.schedule.scoring import Scoring
from batchpipe.planner.schedule.segment import Chunk, Draft, Segment, Sequence
from batchpipe.planner.schedule.speculation import Speculation
from batchpipe.planner.schedule.step import Step, step_load
from batchpipe.planner.schedule.waiting import Waiting


class TokenBatcher:
    """Steps through a plan: decodes first, then prefill chunks, then new sequences while KV lasts.

    The number of running sequences is limited by memory alone (BatchLLM's memory-centric token
    batching), a step by its pace (Sarathi's chunked prefill). It serves the engine and the
    simulator alike, so what is simulated is what runs.
    """

    def __init__(
        self,
        plan: Plan,
        ledger: Ledger,
        pace: Pace,
        *,
        lengths: OutputLengths | None = None,
        tree: LiveTree | None = None,
        speculation: Speculation | None = None,
    ) -> None:
        self.ledger = ledger
        self.speculation = speculation
        self.lengths = lengths or plan.new_lengths()
        self.decoding = Decoding()
        self.running: dict[int, Sequence] = {}  # by prompt, in order of admission
        self.prefilling: dict[int, Sequence] = {}  # those of them that do not decode yet
        self.counts = Counts()
        self.kept = KeptAnswers(ledger)
        self._begin(plan, pace, tree)
        self._ever_computed: dict[int, int] = {}  # tokens of a node, of a preempted tail (~index)
        self._drafts: Mapping[int, Draft] = {}  # of the last step, by prompt

    def _begin(
        self,
        plan: Plan,
        pace: Pace,
        tree: LiveTree | None = None,
        expected: frozenset[int] = frozenset(),
    ) -> None:
        """All that goes by the plan's tree goes by this one's."""
        self.plan = plan
        self.pace = pace
        self.waiting = Waiting(plan, expected)
        self.tree = tree or LiveTree(plan, self.ledger, self.waiting.next_use)
        self._scoring = Scoring(plan)
        self._admission = Admission(
            self.waiting, self.tree, self.decoding, pace, self.ledger.total, self.remaining
        )

    # ---- forming a step -------------------------------------------------------------------

    def next_step(self) -> Step | None:
        """What is computed next; None when everything is answered."""
        self._reserve_decodes()
        chunks: list[Chunk] = []
        silent: list[Sequence] = []
        scheduled: dict[int, int] = {}
        budget = self.pace.prefill_tokens(self.decoding)
        for sequence in self.prefilling.values():
            if budget <= 0:
                break
            budget = self._schedule_prefill(sequence, chunks, silent, scheduled, budget)
        while budget > 0:
            admitted = self._admission.next()
            if admitted is None:
                break
            self._admit(admitted)
            budget = self._schedule_prefill(admitted, chunks, silent, scheduled, budget)
        if not chunks and not silent and not len(self.decoding):
            # The forecast lets in no sequence whose prompt has no room: something always goes on.
            if not self.running:
                return None
            self._preempt(next(reversed(self.running.values())))
            return self.next_step()
        step_chunks = tuple(chunks)
        load = step_load(self.decoding, step_chunks)
        drafts = {} if chunks else self._drafted(load)
        return Step(self.decoding, step_chunks, load, drafts, tuple(silent))

    @property
    def settled_until(self) -> int:
        """The step up to which only decodes advance, unless a sequence ends or memory is short."""
        if self.prefilling:
            return self.decoding.clock
        return self._admission.settled_until if len(self.waiting) else 1 << 62

    def _reserve_decodes(self) -> None:
        """Every decode has room for its next token; where room cannot be made the last in leave."""
        for sequence in self.decoding.needing_block():
            if sequence in self.decoding:  # not preempted for one before it
                length = self.decoding.length(sequence)
                self._reserve(sequence.tail, length, preempt=True)

    def _drafted(self, load: StepLoad) -> dict[int, Draft]:
        """What is guessed behind decodes that are alone, as far as blocks are free.

        For a guess nobody is preempted and nothing is evicted.
        """
        drafts: dict[int, Draft] = {}
        if self.speculation is None:
            return drafts
        wanted = self.speculation.drafts(self.decoding, load, self._left_to_draw)
        for index, draft in wanted.items():
            tail = self.running[index].tail
            if tail.missing_blocks(draft.end) <= self.ledger.free:
                self._reserve(tail, draft.end, preempt=False)
                drafts[index] = draft
        return drafts

    def _left_to_draw(self, sequence: Sequence) -> int:
        limit = self.plan.samplings[sequence.index].max_tokens
        return limit - self.decoding.produced(sequence)

    def _schedule_prefill(
        self,
        sequence: Sequence,
        chunks: list[Chunk],
        silent: list[Sequence],
        scheduled: dict[int, int],
        budget: int,
    ) -> int:
        """Chunks of the sequence's path and tail as far as budget and KV go; returns the rest."""
        draws = self.plan.samplings[sequence.index].max_tokens > 0
        for segment in (*sequence.path, sequence.tail):
            start = scheduled.get(id(segment), segment.computed)
            end = min(segment.length, start + budget)
            if start < end:
                if not self._reserve(segment, end, preempt=False):
                    return budget
                ends = segment is sequence.tail and end == segment.length
                scoring = self._scoring.places(segment, self._new(sequence, segment, start), end)
                drawing = sequence if ends and draws else None
                chunks.append(Chunk(segment, start, end, drawing, scoring=scoring))
                scheduled[id(segment)] = end
                budget -= end - start
                self._count_prefill(sequence, segment, start, end)
            if end < segment.length:
                return budget
        if not draws:
            silent.append(sequence)
        return budget

    def _new(self, sequence: Sequence, segment: Segment, start: int) -> int:
        """The first place from ``start`` on that was never computed, before an eviction say."""
        return max(start, self._ever_computed.get(_key(sequence, segment), 0))

    def _count_prefill(self, sequence: Sequence, segment: Segment, start: int, end: int) -> None:
        """Prompt tokens computed on behalf of this sequence (answers computed again are not)."""
        prompt_end = len(segment.prompt)
        computed = max(0, min(end, prompt_end) - min(start, prompt_end))
        self.counts.computed_prompt_tokens += computed
        sequence.cached_tokens -= computed
        key = _key(sequence, segment)
        before = self._ever_computed.get(key, 0)
        self.counts.recomputed_tokens += max(0, min(end, before) - start)
        if segment.node >= 0 and end > before:
            self._ever_computed[key] = end

    # ---- admission and preemption -----------------------------------------------------------

    def _admit(self, sequence: Sequence) -> None:
        self.waiting.take(sequence)
        kept = self.kept.of(sequence.index)
        if sequence.admitted < 0:
            sequence.admitted = self.counts.steps
        sequence.path = self.tree.enter(sequence.index, sequence.path_blocks)
        sequence.tail.parent = sequence.path[-1] if sequence.path else None
        sequence.tail.users = 1
        if kept is not None:
            for segment in (*sequence.path, sequence.tail):
                self._inherit(segment, kept)
        self.kept.begun(sequence.index)
        self._admission.moved(sequence.path)
        self.running[sequence.index] = sequence
        self.prefilling[sequence.index] = sequence

    def reorder(self, order: Order, pace: Pace) -> None:
        """What still waits is admitted in this order and at this pace from now on."""
        self.pace = pace
        self.waiting.reorder(order)
        self._admission.reordered(pace)

    def grow(self, plan: Plan, pace: Pace, expected: frozenset[int] = frozenset()) -> None:
        """Goes on with a plan that more prompts have joined; who runs keeps the KV that it has.

        The prompts of before keep their numbers. The new tree holds all that have no answer yet,
        and those ``expected`` that are only the beginning of prompts to come.
        """
        decoding = list(self.decoding.sequences.values())
        for sequence in decoding:
            self.decoding.leave(sequence)
        preempted, tree = self.waiting.preempted, self.tree
        runs = held_runs(tree, self.running.values(), self.waiting.someone_below)
        tails = [sequence.tail for sequence in self.running.values()]
        self._begin(plan, pace, expected=expected)
        self._ever_computed = {key: n for key, n in self._ever_computed.items() if key < 0}
        for sequence in (*self.running.values(), *preempted):
            replanted(sequence, plan)
        for index, run in runs:
            if plan.rank_of[index] >= 0:
                self._inherited(index, run)
        tree.release_all(tails)
        for sequence in decoding:
            if all(each.computed == each.length for each in sequence.path) and (
                sequence.tail.computed == sequence.tail.length - 1
            ):
                self.decoding.join(sequence)
            else:  # scores of its prompt are wanted again
                self.prefilling[sequence.index] = sequence
        for sequence in self.running.values():
            self._admission.goes_on(sequence)
        for sequence in reversed(preempted):
            self.waiting.put_back(sequence)

    def _inherited(self, index: int, run: KVRun) -> None:
        """The segments of the prompt in the new tree hold what the run holds."""
        sequence = self.running.get(index)
        path_blocks = self.plan.path_blocks(index) if sequence is None else sequence.path_blocks
        path = self.tree.enter(index, path_blocks)
        for segment in path:
            self._inherit(segment, run)
            self._ever_computed[segment.node] = segment.computed
        if sequence is None:  # it has yet to run
            self.tree.leave(path)
            return
        sequence.path = path
        sequence.tail.parent = path[-1] if path else None
        sequence.tail.users = 1
        self._inherit(sequence.tail, run)

    def _inherit(self, segment: Segment, run: KVRun) -> None:
        inherit(segment, run, self.ledger, self.tree, self._scoring.unscored(segment))

    def remaining(self, sequence: Sequence) -> int:
        """Tokens still expected of its answer."""
        index = sequence.index
        return self.lengths.remaining(
            index,
            self.decoding.produced(sequence),
            self.plan.samplings[index].max_tokens,
            self.plan.exact_length(index),
        )

    def _preempt(self, sequence: Sequence) -> None:
        """The sequence waits again at the front, its own KV freed, its tokens kept."""
        # Alone it would be computed again and again, for nothing. Where it lies in blocks that it
        # shares, all of its own take fewer.
        inherited = any(each.has_inherited for each in (*sequence.path, sequence.tail))
        assert len(self.running) > 1 or inherited, (
            f"prompt {sequence.index} alone does not fit into {self.ledger.total} KV blocks, "
            f"{self.ledger.free} of them free"
        )
        self.counts.preemptions += 1
        self._leave(sequence)
        self._ever_computed[~sequence.index] = sequence.tail.computed
        self.tree.discard(sequence.tail)
        self.waiting.put_back(sequence)

    def _leave(self, sequence: Sequence) -> None:
        if sequence in self.decoding:
            self.decoding.leave(sequence)
        else:
            del self.prefilling[sequence.index]
        del self.running[sequence.index]
        self._admission.left(sequence)
        self.tree.leave(sequence.path)
        self._admission.moved(sequence.path)
        sequence.tail.users = 0

    def _reserve(self, segment: Segment, tokens: int, *, preempt: bool) -> bool:
        """Blocks for the segment's first ``tokens`` are owned; False where room cannot be made."""
        missing = segment.missing_blocks(tokens)
        while missing > self.ledger.free:
            evicted = self.kept.drop()
            if evicted is None:
                evicted = self.tree.evict()
            if evicted is not None:
                self.counts.evicted_tokens += evicted
                continue
            if not preempt:
                return False
            victim = next(reversed(self.running.values()))
            self._preempt(victim)
            if victim.tail is segment:
                return False
        if missing > 0:
            if not segment.blocks and segment.node >= 0:
                self.tree.hold(segment)
            if missing == 1 and segment.blocks:
                segment.blocks.append(self.ledger.take_after(segment.blocks[-1]))
            else:
                segment.blocks.extend(self.ledger.take(missing))
            held = (self.ledger.total - self.ledger.free) * BLOCK_TOKENS
            self.counts.peak_kv_tokens = max(self.counts.peak_kv_tokens, held)
        return True

    # ---- after a step -------------------------------------------------------------------------

    def computed(self, step: Step) -> None:
        """The step's KV is in place, and every drawing sequence has one token more."""
        self.counts.steps += 1
        self.counts.completion_tokens += step.load.drawn
        self.counts.drafted_tokens += sum(len(draft.tokens) for draft in step.drafts.values())
        self._drafts = step.drafts
        self.pace.passed(step.load)
        for chunk in step.chunks:
            chunk.segment.computed = chunk.end
        self.decoding.advance()
        for sequence in step.ending:
            sequence.tail.length += 1
            del self.prefilling[sequence.index]
            self.decoding.join(sequence)

    def drew(self, sequence: Sequence, tokens: list[int]) -> None:
        """These are the sequence's tokens of the step just computed: one, or with a draft more.

        Blocks that only wrong guesses were in are free again.
        """
        if self.speculation is not None:
            self.speculation.learn(sequence, tokens)
        if sequence.index not in self._drafts:
            return
        more = len(tokens) - 1
        self.decoding.jump(sequence, more)
        length, above = self.decoding.length(sequence), sequence.tail.position
        self.ledger.give_back(sequence.tail.surplus(length - 1))
        self.counts.completion_tokens += more
        self.counts.accepted_tokens += more
        keys = {"own_keys": more * length, "shared_pairs": more * above}
        self.pace.passed(StepLoad(tokens=more, drawn=more, sequences=0, **keys))

    def decode_load(self) -> StepLoad:
        """The load of the next step if it has decodes alone."""
        return step_load(self.decoding, ())

    def advance_decodes(self, steps: int) -> int:
        """Up to so many steps of decodes alone have passed; fewer where memory gets short."""
        for passed in range(steps):
            needing = self.decoding.needing_block()
            if len(needing) > self.ledger.free:
                return passed
            for sequence in needing:
                self._reserve(sequence.tail, self.decoding.length(sequence), preempt=False)
            load = self.decode_load()
            self.counts.steps += 1
            self.counts.completion_tokens += load.drawn
            self.pace.passed(load)
            self.decoding.advance()
        return steps

    def finish(self, sequence: Sequence, *, ended_itself: bool) -> None:
        """The sequence is answered; nodes that nobody below still needs are freed."""
        produced = self.decoding.produced(sequence)
        if ended_itself:
            self.lengths.add(sequence.index, produced)
        self.pace.answered(sequence.index, produced)
        if self.speculation is not None:
            self.speculation.forget(sequence)
        self._leave(sequence)
        self.kept.answered(sequence)
        self.tree.discard(sequence.tail)
        self._ever_computed.pop(~sequence.index, None)
        self.tree.answered(sequence.path)
        self._admission.moved(sequence.path)


def _key(sequence: Sequence, segment: Segment) -> int:
    """By which it is known what was ever computed of the segment, which the sequence reads."""
    return segment.node if segment.node >= 0 else ~sequence.index
