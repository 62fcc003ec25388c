"""The baseline's cache: it answers what the planned tree answers, and evicts by last use alone."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from dry_run import DryRun, alone_blocks, ample_blocks
from hypothesis import given, settings
from hypothesis import strategies as st

from batchpipe.planner.kv_ledger import BlockCount, KVLedger, Ledger
from batchpipe.planner.order import POLICIES
from batchpipe.planner.plan import Plan
from batchpipe.planner.planning import make_plan
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.planner.schedule.pace import Full
from batchpipe.planner.schedule.segment import Segment
from batchpipe.planner.schedule.token_batcher import TokenBatcher

sys.path.insert(0, str(Path(__file__).parents[2] / "jobs" / "bench"))

from lru import LruTree

STEM_TOKENS = 90


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Prompts that follow one of three stems for a while, answers of exact lengths."""
    stems = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 3, (3, STEM_TOKENS))
    own_tokens = st.lists(st.integers(0, 2), min_size=1, max_size=40)
    row = st.tuples(st.integers(0, 2), st.integers(0, STEM_TOKENS), own_tokens)
    rows = draw(st.lists(row, min_size=1, max_size=16))
    lengths = draw(st.lists(st.integers(1, 50), min_size=len(rows), max_size=len(rows)))
    prompts = Prompts.pack([[*stems[s, :cut].tolist(), *own] for s, cut, own in rows])
    samplings = [Sampling(max_tokens=length, ignore_eos=True) for length in lengths]
    return make_plan(prompts, samplings, order=draw(st.sampled_from(sorted(POLICIES))))


class SpiedLedger(KVLedger):
    """A ledger that remembers what came back last."""

    given_back: list[int]

    def give_back(self, blocks: list[int]) -> None:
        self.given_back = sorted(blocks)
        super().give_back(blocks)


class CheckedTree(LruTree):
    """Keeps an account of last uses of its own, and searches all that is idle at each eviction."""

    def __init__(self, plan: Plan, ledger: SpiedLedger, dead_blocks: list[int]) -> None:
        super().__init__(plan, ledger)
        self.ledger, self.dead_blocks = ledger, dead_blocks
        self.now = 0
        self.last_use: dict[int, int] = {}  # by node
        self.seen: dict[int, Segment] = {}  # by node
        self.dead: list[tuple[int, list[int], int]] = []  # last use, blocks, node above

    def enter(self, index: int, path_blocks: tuple[tuple[int, int], ...]) -> tuple[Segment, ...]:
        path = super().enter(index, path_blocks)
        self.seen.update((segment.node, segment) for segment in path)
        return path

    def leave(self, path: tuple[Segment, ...]) -> None:
        self.now += 1
        self.last_use.update((segment.node, self.now) for segment in path)
        super().leave(path)

    def discard(self, tail: Segment) -> None:
        if tail.blocks:
            above = tail.parent.node if tail.parent is not None else -1
            self.dead.append((self.now, sorted(tail.blocks), above))
            self.dead_blocks.extend(tail.blocks)
        super().discard(tail)

    def evict(self) -> int | None:
        oldest = min(self.idle_leaves(), default=None)
        tokens = super().evict()
        assert (tokens is None) == (oldest is None)
        if oldest is not None:
            assert self.ledger.given_back == oldest[1]
            self.dead = [tail for tail in self.dead if tail[1] != oldest[1]]
            self.dead_blocks[:] = [block for tail in self.dead for block in tail[1]]
        return tokens

    def idle_leaves(self) -> list[tuple[int, list[int]]]:
        """Last use and blocks of all that holds KV, that nobody reads and that has none below."""
        held = {node for node, segment in self.seen.items() if segment.blocks}
        above = {int(self._plan.tree.parent[node]) for node in held}
        above |= {node for _, _, node in self.dead}
        nodes = [
            (self.last_use[node], sorted(self.seen[node].blocks))
            for node in held - above
            if not self.seen[node].users
        ]
        return nodes + [(used, blocks) for used, blocks, _ in self.dead]


class LruRun(DryRun):
    """What stays cached at the end is evicted before the end is checked."""

    def _check_end(self) -> None:
        while self.batcher.tree.evict() is not None:
            pass
        super()._check_end()


def batcher_on(plan: Plan, ledger: Ledger, step_tokens: int, tree: LruTree) -> TokenBatcher:
    return TokenBatcher(plan, ledger, Full(step_tokens), tree=tree)


def play(plan: Plan, kv_blocks: int, step_tokens: int) -> LruRun:
    """The plan played and checked, contents of the KV memory included."""
    ledger, dead_blocks = SpiedLedger(kv_blocks), list[int]()
    tree = CheckedTree(plan, ledger, dead_blocks)
    batcher = batcher_on(plan, ledger, step_tokens, tree)
    answers = plan.output_tokens.tolist()
    run = LruRun(plan, batcher, answers, step_tokens, reserved=dead_blocks)
    run.play()
    return run


@settings(max_examples=150)
@given(plans(), st.integers(0, 20), st.integers(1, 200))
def test_tight_memory_answers_every_prompt_and_evicts_by_last_use(
    plan: Plan, spare_blocks: int, step_tokens: int
) -> None:
    run = play(plan, max(alone_blocks(plan)) + spare_blocks, step_tokens)
    assert len(run.answers) == len(plan.prompts)


@given(plans(), st.integers(1, 200))
def test_ample_memory_evicts_nothing(plan: Plan, step_tokens: int) -> None:
    # Tails stay too, and a preempted one would stay beside its second life; none is here.
    counts = play(plan, ample_blocks(plan), step_tokens).batcher.counts
    assert counts.computed_prompt_tokens == plan.tree.computed_tokens
    assert (counts.preemptions, counts.evicted_tokens) == (0, 0)


@given(plans(), st.integers(0, 20), st.integers(1, 200))
def test_counted_blocks_make_the_same_run_as_numbered_ones(
    plan: Plan, spare_blocks: int, step_tokens: int
) -> None:
    kv_blocks = max(alone_blocks(plan)) + spare_blocks
    ledger = BlockCount(kv_blocks)
    tree = LruTree(plan, ledger)
    batcher = batcher_on(plan, ledger, step_tokens, tree)
    while (step := batcher.next_step()) is not None:
        drawing = [chunk.sequence for chunk in step.all_chunks() if chunk.sequence is not None]
        batcher.computed(step)
        for sequence in drawing:
            if batcher.decoding.produced(sequence) >= plan.output_tokens[sequence.index]:
                batcher.finish(sequence, ended_itself=False)
    evicted_tokens = batcher.counts.evicted_tokens
    while tree.evict() is not None:
        pass
    assert ledger.free == ledger.total
    counted = play(plan, kv_blocks, step_tokens).batcher.counts
    assert batcher.counts == counted
    assert counted.evicted_tokens == evicted_tokens


def test_what_nobody_reads_again_crowds_out_a_prefix_that_comes_again() -> None:
    head, others = [1] * 64, [[token] * 76 for token in range(2, 6)]
    prompts = Prompts.pack([[*head, 7], *others, [*head, 8]])
    samplings = [Sampling(max_tokens=3, ignore_eos=True)] * len(prompts)
    plan = make_plan(prompts, samplings, order="input")
    kv_blocks, step_tokens = 14, 80  # the head takes 4 and each of the others 5: two run together
    planned = TokenBatcher(plan, KVLedger(kv_blocks), Full(step_tokens))
    DryRun(plan, planned, plan.output_tokens.tolist(), step_tokens).play()
    assert planned.counts.recomputed_tokens == 0
    assert play(plan, kv_blocks, step_tokens).batcher.counts.recomputed_tokens == len(head)
