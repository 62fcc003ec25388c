"""Prompts join a running plan: every context is right, nobody is lost, no KV is kept for good.

What is answered leaves its number to who comes next: the plan does not grow with all who ever came.

As in `dry_run`, KV memory is a dict from slot to token id: a block that two owners write, that is
freed too early or read before it is written, shows as a wrong token.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from dry_run import ancestors, answer_token, known_end, make_moves
from hypothesis import given, settings
from hypothesis import strategies as st
from small_jobs import FAST_LINK, small_setting

from batchpipe.planner.growing import GrowingPlan, Newcomer, empty_plan
from batchpipe.planner.kv_ledger import BLOCK_TOKENS, KVLedger
from batchpipe.planner.request import Sampling
from batchpipe.planner.schedule.pace import Full
from batchpipe.planner.schedule.segment import Chunk, Sequence
from batchpipe.planner.schedule.token_batcher import TokenBatcher

STEM_TOKENS = 70
LONGEST_TOKENS = 200  # of a prompt


@dataclass(eq=False)
class Play:
    """A growing plan without a model, which checks what every step reads."""

    kv_blocks: int
    step_tokens: int
    host_blocks: int = 0
    memory: dict[int, int] = field(default_factory=dict)  # token by slot
    host_memory: dict[int, int] = field(default_factory=dict)  # token by host slot
    # By ticket: of answers to come, and what was asked and answered.
    lengths: dict[int, int] = field(default_factory=dict)
    prompts: dict[int, list[int]] = field(default_factory=dict)
    answers: dict[int, list[int]] = field(default_factory=dict)
    cached: dict[int, int] = field(default_factory=dict)
    heads: set[bytes] = field(default_factory=set)
    most_present: int = 0

    def __post_init__(self) -> None:
        self.ledger = KVLedger(self.kv_blocks)
        setting = small_setting(self.kv_blocks, self.step_tokens)
        self.host = KVLedger(self.host_blocks) if self.host_blocks else None
        batcher = TokenBatcher(
            empty_plan(), self.ledger, Full(self.step_tokens), host=self.host, swap_by=FAST_LINK
        )
        self.plan = GrowingPlan(batcher, setting)

    def submit(
        self, prompt: list[int], answer: int, follows: int | None = None, feeds: int = 0
    ) -> int:
        sampling = Sampling(max_tokens=max(1, answer), ignore_eos=bool(answer % 2))
        tokens, ticket = np.array(prompt, dtype=np.int32), len(self.prompts)
        self.plan.submit(Newcomer(ticket, tokens, sampling, 0, follows, feeds))
        self.prompts[ticket], self.lengths[ticket] = prompt, max(1, answer)
        self._count_present()
        return ticket

    def expect(self, head: list[int], *, more: bool) -> None:
        tokens = np.array(head, dtype=np.int32)
        self.plan.expect(tokens, more=more)
        if more and head:
            self.heads.add(tokens.tobytes())
        else:
            self.heads.discard(tokens.tobytes())
        self._count_present()

    def join(self) -> None:
        self.plan.join()
        self.ledger.check_integrity()
        plan = self.plan.batcher.plan
        assert len(plan.prompts) <= self.most_present, "numbers of the answered are free"
        assert len(plan.samplings) == len(plan.groups) == len(plan.sample) == len(plan.prompts)
        assert plan.prompts.tokens == len(plan.prompts.token_ids), "no more than who is present"

    def _count_present(self) -> None:
        present = len(self.plan.unanswered) + len(self.heads)
        self.most_present = max(self.most_present, present)

    def step(self) -> bool:
        """One step, checked; False where nothing is left to do."""
        batcher = self.plan.batcher
        step = batcher.next_step()
        if step is None:
            return False
        make_moves(step.moves, self.memory, self.host_memory)
        chunks = step.all_chunks()
        for chunk in chunks:
            for at in range(chunk.start, chunk.end):
                self.memory[int(chunk.segment.slots[at])] = int(chunk.token_ids()[at - chunk.start])
        for chunk in chunks:
            self._check_context(chunk)
        batcher.computed(step)
        for chunk in chunks:
            if chunk.sequence is not None:
                self._draw(chunk.sequence)
        self.ledger.check_integrity()
        if self.host is not None:
            self.host.check_integrity()
        return True

    def _check_context(self, chunk: Chunk) -> None:
        slots = chunk.segment.slots[: known_end(chunk)].tolist()
        for above in ancestors(chunk.segment):
            assert above.length <= above.room
            assert above.computed <= above.length
            slots = above.slots[: above.length].tolist() + slots
        plan = self.plan.batcher.plan
        index = int(plan.tree.order[chunk.segment.rank])
        text = plan.prompts[index].tolist()
        if chunk.segment.node < 0:  # of a shared one the first below may be answered, or a head
            ticket = self.plan.unanswered[index]
            assert text == self.prompts[ticket]
            text += (answer_token(ticket, n) for n in range(200))
        assert [self.memory[slot] for slot in slots] == text[: len(slots)]
        assert len(slots) == chunk.segment.position + known_end(chunk)

    def _draw(self, sequence: Sequence) -> None:
        index, batcher = sequence.index, self.plan.batcher
        ticket = self.plan.unanswered[index]
        token = answer_token(ticket, len(sequence.answer))
        sequence.answer.append(token)
        batcher.drew(sequence, [token])
        if len(sequence.answer) == self.lengths[ticket]:
            self.answers[ticket] = list(sequence.answer)
            self.cached[ticket] = sequence.cached_tokens
            batcher.finish(sequence, ended_itself=True)
            assert self.plan.answered(index) == ticket


@st.composite
def arrivals(draw: st.DrawFn) -> list[tuple[int, list[int], int, bool]]:
    """Steps to wait, a prompt, the length of its answer, and whether it follows an answered one."""
    stems = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 3, (2, STEM_TOKENS))
    own = st.lists(st.integers(0, 2), min_size=1, max_size=40)
    rows = st.tuples(
        st.integers(0, 6), st.integers(0, 1), st.integers(0, STEM_TOKENS), own,
        st.integers(1, 40), st.booleans(),
    )  # fmt: skip
    return [
        (wait, [*stems[stem, :cut].tolist(), *tokens], answer, follows)
        for wait, stem, cut, tokens, answer, follows in draw(
            st.lists(rows, min_size=1, max_size=14)
        )
    ]


@settings(max_examples=300)
@given(
    arrivals(),
    st.integers(0, 30),
    st.sampled_from([5, 16, 64]),
    st.booleans(),
    st.integers(0, 9),
    st.sampled_from([0, 0, 3, 20, 200]),
)
def test_whoever_joins_is_answered_on_the_right_context(
    coming: list[tuple[int, list[int], int, bool]],
    spare: int,
    step_tokens: int,
    with_head: bool,
    cut: int,
    host_blocks: int,
) -> None:
    blocks = (LONGEST_TOKENS + 40) // BLOCK_TOKENS + 8 + spare
    play = Play(blocks, step_tokens, host_blocks)
    heads = [coming[0][1][:-1]] if with_head else []
    for head in heads:
        play.expect(head, more=True)
    followed: set[int] = set()
    for wait, prompt, answer, follows in coming:
        for _ in range(wait):
            play.step()
        if with_head and wait % 3 == 0:  # another beginning, whose number may be the same
            play.expect(heads[-1], more=False)
            heads.append(prompt[:-1])
            play.expect(prompt[:-1], more=True)
        source = next((n for n in play.answers if n not in followed), None) if follows else None
        if source is not None:
            followed.add(source)
            known = [*play.prompts[source], *play.answers[source]]
            prompt = [*known[: len(known) - cut], *prompt][:LONGEST_TOKENS]
        play.submit(prompt, answer, source, feeds=1)
        if wait % 2:
            play.join()
    play.join()
    while play.step():
        pass
    assert sorted(play.answers) == sorted(play.prompts)
    assert all(len(play.answers[n]) == play.lengths[n] for n in play.answers)
    for ticket in play.prompts:
        play.plan.batcher.kept.forget(ticket)
    for head in heads:
        play.expect(head, more=False)
    play.join()
    assert play.ledger.free == blocks, "KV is held for nobody"
    assert play.host is None or play.host.free == host_blocks


def test_a_newcomer_reads_what_a_running_prompt_computed() -> None:
    play = Play(200, 256)
    stem = list(range(100))
    play.submit([*stem, 7, 7], 20)
    play.join()
    play.step()
    later = play.submit([*stem, 8, 8], 5)
    play.join()
    while play.step():
        pass
    assert play.cached[later] == 100, "the stem lies within the other's tail"


def test_a_prompt_that_extends_an_answer_reads_its_kv() -> None:
    play = Play(200, 256)
    first = play.submit(list(range(50)), 30, feeds=1)
    play.join()
    while play.step():
        pass
    second = play.submit([*play.prompts[first], *play.answers[first], 1, 2, 3], 4, first)
    play.join()
    while play.step():
        pass
    assert play.cached[second] == 79, "all but the last token drawn, and what is new"
    assert play.ledger.free == 200


def test_what_nobody_waits_for_is_kept_while_prompts_that_begin_so_are_expected() -> None:
    play = Play(200, 256)
    stem = list(range(90))
    play.expect(stem, more=True)
    for nth in range(3):
        number = play.submit([*stem, 1000 + nth, 5], 3)
        play.join()
        while play.step():
            pass
        assert play.cached[number] == (90 if nth else 0)
    play.expect(stem, more=False)
    play.join()
    assert play.ledger.free == 200


def test_a_prompt_that_says_no_more_than_what_it_follows_is_answered() -> None:
    play = Play(200, 256)
    first = play.submit(list(range(50)), 30, feeds=2)
    play.join()
    while play.step():
        pass
    known = [*play.prompts[first], *play.answers[first]]
    later = [play.submit(known[:tokens], 4, first) for tokens in (50, 64)]
    play.join()
    while play.step():
        pass
    assert [play.cached[each] for each in later] == [49, 63], "all but the last, which must draw"
    assert play.ledger.free == 200


def crowded_out(play: Play) -> None:
    """All that is idle has left the device for the host, and came no nearer to being answered."""
    room = play.plan.batcher._room
    assert room.make(play.kv_blocks - sum_of_running(play))


def sum_of_running(play: Play) -> int:
    running = play.plan.batcher.running.values()
    held = {block for each in running for part in (*each.path, each.tail) for block in part.blocks}
    return len(held)


def test_a_prompt_that_extends_an_answer_has_its_kv_back_from_the_host() -> None:
    play = Play(40, 256, host_blocks=20)
    first = play.submit(list(range(50)), 30, feeds=1)
    play.join()
    while play.step():
        pass
    crowded_out(play)
    assert play.ledger.free == 40
    assert play.host is not None
    assert play.host.free == 15, "79 tokens"
    second = play.submit([*play.prompts[first], *play.answers[first], 1, 2, 3], 4, first)
    play.submit([9, 9, 9], 4)  # others join beside it
    play.join()
    while play.step():
        pass
    assert play.cached[second] == 79, "all but the last token drawn, and what is new"
    assert (play.ledger.free, play.host.free) == (40, 20)


def test_an_answer_that_nobody_follows_any_more_leaves_the_host() -> None:
    play = Play(40, 256, host_blocks=20)
    first = play.submit(list(range(50)), 30, feeds=2)
    play.join()
    while play.step():
        pass
    crowded_out(play)
    assert play.host is not None
    play.plan.batcher.kept.forget(first)
    assert play.host.free == 15
    play.plan.batcher.kept.forget(first)
    assert play.host.free == 20


def test_what_lies_on_the_host_is_cut_as_the_new_tree_cuts_it() -> None:
    play = Play(40, 256, host_blocks=20)
    stem = list(range(90))
    play.expect(stem, more=True)
    play.submit([*stem, 1000, 5], 3)
    play.join()
    while play.step():
        pass
    crowded_out(play)
    assert play.host is not None
    assert play.host.free == 14, "the stem that is expected"
    shorter = play.submit([*stem[:40], 7, 7], 3)  # the stem is two nodes now
    longer = play.submit([*stem, 8, 8], 3)
    play.join()
    while play.step():
        pass
    assert (play.cached[shorter], play.cached[longer]) == (40, 90)
    play.expect(stem, more=False)
    play.join()
    assert (play.ledger.free, play.host.free) == (40, 20)


def test_a_prompt_is_computed_up_to_what_lies_on_the_host() -> None:
    play = Play(40, 256, host_blocks=5)
    stem = list(range(90))
    play.expect(stem, more=True)
    first = play.submit([*stem, 1000, 5], 30, feeds=1)
    play.join()
    while play.step():
        pass
    crowded_out(play)  # the stem, which others hold too, is not the answer's: it finds no room
    play.expect(stem, more=False)
    second = play.submit([*play.prompts[first], *play.answers[first], 1, 2, 3], 4, first)
    play.join()
    while play.step():
        pass
    assert play.cached[second] == 121 - 80, "from the block on in which the stem ends"
    assert play.host is not None
    assert (play.ledger.free, play.host.free) == (40, 5)


def test_what_another_computes_in_the_same_step_is_not_left_on_the_host() -> None:
    play = Play(40, 256, host_blocks=20)
    first = play.submit(list(range(50)), 30, feeds=1)
    play.join()
    while play.step():
        pass
    crowded_out(play)
    known = [*play.prompts[first], *play.answers[first]]
    play.submit([*known[:40], 7], 30)  # admitted first, it computes what the other has there
    second = play.submit([*known, 1, 2, 3], 4, first)
    play.join()
    assert play.step()
    assert len(play.plan.batcher.decoding) == 2, "nobody waits for it"
    while play.step():
        pass
    assert play.cached[second] == 79
    assert play.host is not None
    assert (play.ledger.free, play.host.free) == (40, 20)


def test_a_preempted_sequence_goes_on_from_the_host_after_others_joined() -> None:
    play = Play(40, 256, host_blocks=20)
    prompts = [[*range(60), 500], [*range(60), 501]]
    tickets = [play.submit(prompt, 20) for prompt in prompts]
    play.join()
    for _ in range(10):
        play.step()
    batcher = play.plan.batcher
    batcher._preempt(next(reversed(batcher.running.values())))
    before = batcher.counts.computed_prompt_tokens
    play.submit([*range(30), 9], 3)  # parts from both within the node above them
    play.join()
    while play.step():
        pass
    assert sorted(play.answers) == [*tickets, 2]
    assert batcher.counts.computed_prompt_tokens - before == 1, "the last token of the newcomer"
    assert batcher.counts.recomputed_tokens == 0
    assert play.host is not None
    assert (play.ledger.free, play.host.free) == (40, 20)
