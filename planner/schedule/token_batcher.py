"""Forms every step: which tokens of which segments are computed next, within KV and budget."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from batchpipe.planner.kv_ledger import Ledger
from batchpipe.planner.lengths import OutputLengths
from batchpipe.planner.machine.step_cost import StepCost
from batchpipe.planner.machine.step_load import StepLoad
from batchpipe.planner.order import Order
from batchpipe.planner.plan import Plan
from batchpipe.planner.schedule.admission import Admission
from batchpipe.planner.schedule.counts import Counts
from batchpipe.planner.schedule.decoding import Decoding
from batchpipe.planner.schedule.growth import held_asides, held_runs, replanted
from batchpipe.planner.schedule.host_memory import HostMemory
from batchpipe.planner.schedule.inheritance import Inheritance
from batchpipe.planner.schedule.kept_answers import KeptAnswers
from batchpipe.planner.schedule.live_tree import LiveTree
from batchpipe.planner.schedule.pace import Pace
from batchpipe.planner.schedule.prefill import Forming, Prefill
from batchpipe.planner.schedule.room import Room
from batchpipe.planner.schedule.segment import Draft, Segment, Sequence
from batchpipe.planner.schedule.speculation import Speculation
from batchpipe.planner.schedule.step import Step, step_load
from batchpipe.planner.schedule.waiting import Waiting


class TokenBatcher:
    """Steps through a plan: decodes first, then prefill chunks, then new sequences while KV lasts.

    The number of running sequences is limited by memory alone (BatchLLM's memory-centric token
    batching), a step by its pace (Sarathi's chunked prefill). It serves the engine and the
    simulator alike, so what is simulated is what runs.

    Args:
        ledger: of the KV blocks of the device
        lengths: what is known of answers, and learns more
        tree: in place of its own
        speculation: what guesses behind decodes that are alone; None: nothing does
        host: of KV blocks in host memory, for what leaves the device; None: there are none
        swap_by: what copies there and back cost, against computing again
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
        host: Ledger | None = None,
        swap_by: StepCost | None = None,
    ) -> None:
        self.ledger = ledger
        self.speculation = speculation
        self.lengths = lengths or plan.new_lengths()
        self.decoding = Decoding()
        self.running: dict[int, Sequence] = {}  # by prompt, in order of admission
        self.prefilling: dict[int, Sequence] = {}  # those of them that do not decode yet
        self.counts = Counts()
        self._host = HostMemory(host, swap_by, self.counts)
        self.kept = KeptAnswers(ledger, self._host)
        self._prefill = Prefill(plan, self.counts, self._host)
        self._begin(plan, pace, tree)
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
        self.tree = tree or LiveTree(plan, self.ledger, self.waiting.next_use, self._host)
        self._room = Room(self.ledger, self.kept, self.tree, self.counts)
        self._inheritance = Inheritance(plan, self.tree, self.ledger, self._host, self._prefill)
        self._admission = Admission(
            self.waiting, self.tree, self.decoding, pace, self.ledger.total, self.remaining
        )

    # ---- forming a step -------------------------------------------------------------------

    def next_step(self) -> Step | None:
        """What is computed next; None when everything is answered."""
        self._reserve_decodes()
        forming = Forming(self.pace.prefill_tokens(self.decoding))
        for sequence in self.prefilling.values():
            if forming.budget <= 0:
                break
            self._prefill.schedule(sequence, forming, self._reserve)
        while forming.budget > 0:
            admitted = self._admission.next()
            if admitted is None:
                break
            self._admit(admitted)
            self._prefill.schedule(admitted, forming, self._reserve)
        if not forming.chunks and not forming.silent and not len(self.decoding):
            # The forecast lets in no sequence whose prompt has no room: something always goes on.
            if not self.running:
                return None
            self._preempt(next(reversed(self.running.values())))
            return self.next_step()
        chunks = tuple(forming.chunks)
        load = step_load(self.decoding, chunks)
        drafts = {} if chunks else self._drafted(load)
        silent, moves = tuple(forming.silent), self._host.moves()
        return Step(self.decoding, chunks, load, drafts, silent, moves)

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
                self._reserve(tail, draft.end)
                drafts[index] = draft
        return drafts

    def _left_to_draw(self, sequence: Sequence) -> int:
        limit = self.plan.samplings[sequence.index].max_tokens
        return limit - self.decoding.produced(sequence)

    # ---- admission and preemption -----------------------------------------------------------

    def _admit(self, sequence: Sequence) -> None:
        self.waiting.take(sequence)
        kept, aside = self.kept.of(sequence.index), self.kept.aside_of(sequence.index)
        if sequence.admitted < 0:
            sequence.admitted = self.counts.steps
        sequence.path = self.tree.enter(sequence.index, sequence.path_blocks)
        sequence.tail.parent = sequence.path[-1] if sequence.path else None
        sequence.tail.users = 1
        if kept is not None:
            self._inheritance.from_device(kept, (*sequence.path, sequence.tail))
        if aside is not None:
            self._inheritance.from_host(aside, (*sequence.path, sequence.tail))
        self.kept.begun(sequence.index)
        self._admission.moved(sequence.path)
        self.running[sequence.index] = sequence
        self.prefilling[sequence.index] = sequence

    def reorder(self, order: Order, pace: Pace) -> None:
        """What still waits is admitted in this order and at this pace from now on."""
        self.pace = pace
        self.waiting.reorder(order)
        self._admission.reordered(pace)

    def grow(
        self, plan: Plan, pace: Pace, expected: frozenset[int], joining: Collection[int]
    ) -> None:
        """Goes on with a plan that more prompts have joined; who runs keeps the KV that it has.

        The prompts of before keep their numbers; those ``joining`` may have had others before. The
        new tree holds all that have no answer yet, and those ``expected`` that are only the
        beginning of prompts to come.
        """
        decoding = list(self.decoding.sequences.values())
        for sequence in decoding:
            self.decoding.leave(sequence)
        preempted, tree = self.waiting.preempted, self.tree
        self.waiting.still_expect(expected.difference(joining))
        running, someone_below = self.running.values(), self.waiting.someone_below
        runs = held_runs(tree, running, someone_below)
        asides = held_asides(self._host, self.plan, running, someone_below)
        tails = [sequence.tail for sequence in running]
        self._begin(plan, pace, expected=expected)
        self._prefill.grow(plan)
        for sequence in (*running, *preempted):
            replanted(sequence, plan)
        for index, run in runs:
            if index in self.running:
                self._inheritance.of_running(self.running[index], run)
            else:
                self._inheritance.of_waiting(index, run)
        tree.release_all(tails)
        new_tails = {each.index: each.tail for each in (*running, *preempted)}
        for index, aside in asides:
            self._inheritance.of_host(aside, index, new_tails.get(index))
        for sequence in decoding:
            if all(each.computed == each.length for each in sequence.path) and (
                sequence.tail.computed == sequence.tail.length - 1
            ):
                self.decoding.join(sequence)
            else:  # scores of its prompt are wanted again
                self.prefilling[sequence.index] = sequence
        for sequence in running:
            self._admission.goes_on(sequence)
        for sequence in reversed(preempted):
            self.waiting.put_back(sequence)

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
        self._prefill.preempted(sequence)
        self._host.leaving(sequence.tail)
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

    def _reserve(self, segment: Segment, tokens: int, *, preempt: bool = False) -> bool:
        """Blocks for the segment's first ``tokens`` are owned; False where room cannot be made."""
        missing = segment.missing_blocks(tokens)
        while not self._room.make(missing):
            if not preempt:
                return False
            victim = next(reversed(self.running.values()))
            self._preempt(victim)
            if victim.tail is segment:
                return False
        self._room.give(segment, missing)
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
                self._reserve(sequence.tail, self.decoding.length(sequence))
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
        self.kept.answered(sequence, self.plan.prompts[sequence.index])
        for segment in (*sequence.path, sequence.tail):  # they are complete
            self._host.forget(segment)
        self.tree.discard(sequence.tail)
        self._prefill.answered(sequence)
        self.tree.answered(sequence.path)
        self._admission.moved(sequence.path)
