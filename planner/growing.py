"""A plan that prompts join while it runs: those of before keep their numbers.

What is answered leaves the tree, so that a plan is as large as what is left to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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


@dataclass(frozen=True, slots=True, eq=False)
class Newcomer:
    """A prompt that joins a running plan."""

    token_ids: TokenIds
    sampling: Sampling
    group: int = 0  # of prompts whose answers are alike in length
    follows: int | None = None  # number of the prompt as which, and its answer, it begins
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
        self.unanswered: set[int] = set()  # of all that were submitted
        self._pending: list[Newcomer] = []
        self._heads: dict[bytes, int] = {}  # the number under which a beginning stands in the plan
        self._numbers = 0

    @property
    def pending(self) -> int:
        """Prompts that have not joined yet."""
        return len(self._pending)

    def submit(self, newcomer: Newcomer) -> int:
        """The prompt will join the plan; its number there."""
        number = self._number(newcomer)
        self.unanswered.add(number)
        if newcomer.follows is not None:
            self.batcher.kept.follow(number, newcomer.token_ids, newcomer.follows)
        if newcomer.feeds:
            self.batcher.kept.expect(number, newcomer.feeds)
        return number

    def answered(self, number: int) -> None:
        """The prompt has its answer."""
        self.unanswered.remove(number)

    def expect(self, head: TokenIds, *, more: bool) -> bool:
        """Prompts that begin so are still to come, or not any more: their KV is kept meanwhile.

        Returns whether a number was given to it.
        """
        name = head.astype("<i4").tobytes()
        if not more:
            self._heads.pop(name, None)
        elif name not in self._heads and len(head):
            # The tree leaves the last token to the prompt itself: one more, and all of it is kept.
            self._heads[name] = self._number(Newcomer(np.append(head, head[-1:]), NEVER_DRAWN))
            return True
        return False

    def join(self) -> None:
        """All that is pending is part of the plan, which goes on in an order of all that wait."""
        batcher, newcomers = self.batcher, self._pending
        self._pending = []
        before = len(batcher.plan.prompts)
        heads = frozenset(self._heads.values())
        present = np.array(sorted(self.unanswered | heads), dtype=np.int64)
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
        assert before + len(newcomers) == len(plan.prompts) == self._numbers
        batcher.grow(plan, Full(self._setting.step_tokens), heads)

    def _number(self, newcomer: Newcomer) -> int:
        self._pending.append(newcomer)
        self._numbers += 1
        return self._numbers - 1


def _extended(
    batcher: TokenBatcher, newcomers: Sequence[Newcomer], present: npt.NDArray[np.int64]
) -> Plan:
    """The plan with the newcomers, as yet without a tree; who is not present has no tokens."""
    plan, lengths = batcher.plan, batcher.lengths
    count = len(plan.prompts) + len(newcomers)
    groups = [plan.groups, np.array([each.group for each in newcomers], dtype=np.int32)]
    lengths.regroup(np.concatenate(groups).astype(np.int32))
    samples = np.array([each.sample for each in newcomers], dtype=np.int32)
    numbers = np.arange(count, dtype=np.int32)
    grown = replace(
        plan,
        prompts=_prompts(plan.prompts, present, [each.token_ids for each in newcomers]),
        samplings=(*plan.samplings, *(each.sampling for each in newcomers)),
        sample=np.concatenate([plan.sample, samples]),
        first_prompt=numbers,
        first_row=numbers,
        groups=np.concatenate(groups).astype(np.int32),
    )
    return replace(grown, output_tokens=grown.expected(lengths))


def _prompts(
    before: Prompts, present: npt.NDArray[np.int64], newcomers: Sequence[TokenIds]
) -> Prompts:
    """All prompts under their numbers; those of before that are not present have no tokens."""
    kept = present[present < len(before)]
    old, offsets = before.take(kept).end_to_end("i4")
    new = Prompts.pack(newcomers)
    starts, ends = np.zeros((2, len(before) + len(new)), dtype=np.int64)
    starts[kept], ends[kept] = offsets[:-1], offsets[1:]
    starts[len(before) :] = new.starts + len(old)
    ends[len(before) :] = new.ends + len(old)
    return Prompts(np.concatenate([old, new.token_ids]), starts, ends)
