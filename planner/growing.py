"""A plan that prompts join while it runs: those of before keep their numbers.

What is answered leaves the tree, and who comes next takes its number: a plan is never larger than
the most that was ever left to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush

import numpy as np
import numpy.typing as npt

from batchpipe.planner.job_cost import job_cost
from batchpipe.planner.order import POLICIES, Order, Ordering
from batchpipe.planner.plan import Plan
from batchpipe.planner.planning import Setting, make_plan
from batchpipe.planner.request import Prompts, Sampling, TokenIds
from batchpipe.planner.schedule.pace import Full
from batchpipe.planner.schedule.token_batcher import TokenBatcher
from batchpipe.planner.tree.prefix_tree import build

POLICY = "longest-first"  # shares as much as any, and leaves no long answer for the end
NEVER_DRAWN = Sampling(max_tokens=1, ignore_eos=True)
NOBODY = -1  # ticket of a beginning of prompts to come


@dataclass(frozen=True, slots=True, eq=False)
class Newcomer:
    """A prompt that joins a running plan."""

    ticket: int  # no other ever has it; its number is another's once it is answered
    token_ids: TokenIds
    sampling: Sampling
    group: int = 0  # of prompts whose answers are alike in length
    follows: int | None = None  # ticket of the prompt as which, and its answer, it begins
    feeds: int = 0  # prompts that will follow it
    sample: int = 0  # which of the answers to its row


def empty_plan(groups: int = 1) -> Plan:
    """A plan that nothing has joined yet; its answers will be of so many groups alike in length."""
    plan = make_plan(Prompts.pack([]), (), order=POLICY)
    return replace(plan, group_keys=tuple(str(group).encode() for group in range(groups)))


class GrowingPlan:
    """The plan of a batcher, the prompts that wait to join it, and the beginnings of those to come.

    Args:
        batcher: of an `empty_plan`
        setting: what it runs on
    """

    def __init__(self, batcher: TokenBatcher, setting: Setting) -> None:
        self._setting = setting
        self.batcher = batcher
        self.unanswered: dict[int, int] = {}  # tickets of all that were submitted, by number
        self._pending: dict[int, Newcomer] = {}  # by number
        self._heads: dict[bytes, int] = {}  # the number under which a beginning stands in the plan
        self._numbers = 0  # given so far, each to one after the other
        self._free: list[int] = []  # heap of those that nobody has now

    @property
    def pending(self) -> int:
        """Prompts that have not joined yet."""
        return len(self._pending)

    def submit(self, newcomer: Newcomer) -> int:
        """The prompt will join the plan; its number there."""
        number = self._number(newcomer)
        self.unanswered[number] = newcomer.ticket
        if newcomer.follows is not None:
            self.batcher.kept.follow(number, newcomer.token_ids, newcomer.follows)
        if newcomer.feeds:
            self.batcher.kept.expect(number, newcomer.ticket, newcomer.feeds)
        return number

    def answered(self, number: int) -> int:
        """The prompt has its answer, and the next may have its number; its ticket."""
        heappush(self._free, number)
        return self.unanswered.pop(number)

    def expect(self, head: TokenIds, *, more: bool) -> None:
        """Prompts that begin so are still to come, or not any more: their KV is kept meanwhile."""
        name = head.astype("<i4").tobytes()
        if more and name not in self._heads and len(head):
            # The tree leaves the last token to the prompt itself: one more, and all of it is kept.
            longer = np.append(head, head[-1:])
            self._heads[name] = self._number(Newcomer(NOBODY, longer, NEVER_DRAWN))
        elif not more and name in self._heads:
            number = self._heads.pop(name)
            self._pending.pop(number, None)
            heappush(self._free, number)

    def join(self) -> None:
        """All that is pending is part of the plan, which goes on in an order of all that wait."""
        batcher, newcomers = self.batcher, self._pending
        self._pending = {}
        heads = frozenset(self._heads.values())
        present = np.array(sorted(self.unanswered.keys() | heads), dtype=np.int64)
        plan = _extended(batcher, newcomers, present)
        tree = build(plan.prompts.take(present))
        outputs = plan.output_tokens[present]
        lengths = plan.prompts.lengths[present]
        cost = job_cost(tree, lengths, outputs, self._setting.cost)
        order = POLICIES[POLICY](Ordering(tree, lengths, outputs, cost))
        waiting = present[order.prompts]
        begun = [*batcher.running, *(each.index for each in batcher.waiting.preempted), *heads]
        waiting = waiting[~np.isin(waiting, begun)]
        kept = np.fromiter(map(batcher.kept.has, waiting.tolist()), np.bool_, len(waiting))
        waiting = np.concatenate([waiting[kept], waiting[~kept]])  # memory is free sooner
        plan = replace(
            plan,
            tree=replace(tree, order=present[tree.order].astype(np.int32)),
            order=Order(waiting.astype(np.int32)),
        )
        batcher.grow(plan, Full(self._setting.step_tokens), heads, newcomers.keys())

    def _number(self, newcomer: Newcomer) -> int:
        if self._free:
            number = heappop(self._free)
        else:
            number = self._numbers
            self._numbers += 1
        self._pending[number] = newcomer
        return number


def _extended(
    batcher: TokenBatcher, newcomers: Mapping[int, Newcomer], present: npt.NDArray[np.int64]
) -> Plan:
    """The plan with the newcomers at their numbers, as yet without a tree.

    Who is not present has no tokens, and draws nothing.
    """
    plan, lengths = batcher.plan, batcher.lengths
    joining = np.array(sorted(newcomers), dtype=np.int64)
    new = [newcomers[number] for number in joining.tolist()]
    stay = present[~np.isin(present, joining)]
    count = max(len(plan.prompts), int(joining.max(initial=-1)) + 1)
    groups, sample = np.zeros((2, count), dtype=np.int32)
    groups[stay], sample[stay] = plan.groups[stay], plan.sample[stay]
    groups[joining] = [each.group for each in new]
    sample[joining] = [each.sample for each in new]
    samplings = [NEVER_DRAWN] * count
    for number in stay.tolist():
        samplings[number] = plan.samplings[number]
    for number, each in newcomers.items():
        samplings[number] = each.sampling
    lengths.regroup(groups)
    numbers = np.arange(count, dtype=np.int32)
    grown = replace(
        plan,
        prompts=_prompts(plan.prompts, stay, [each.token_ids for each in new], joining, count),
        samplings=tuple(samplings),
        sample=sample,
        first_prompt=numbers,
        first_row=numbers,
        groups=groups,
    )
    return replace(grown, output_tokens=grown.expected(lengths))


def _prompts(
    before: Prompts,
    stay: npt.NDArray[np.int64],
    newcomers: Sequence[TokenIds],
    joining: npt.NDArray[np.int64],
    count: int,
) -> Prompts:
    """So many prompts, of which those of before that stay and the joining ones have tokens."""
    old, offsets = before.take(stay).end_to_end("i4")
    new = Prompts.pack(newcomers)
    starts, ends = np.zeros((2, count), dtype=np.int64)
    starts[stay], ends[stay] = offsets[:-1], offsets[1:]
    starts[joining] = new.starts + len(old)
    ends[joining] = new.ends + len(old)
    return Prompts(np.concatenate([old, new.token_ids]), starts, ends)
