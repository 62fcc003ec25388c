"""While a plan runs: learn how long answers are, and order what still waits by that.

A first guess of answer lengths orders badly, so a pilot sample goes first (BlendServe samples 1 %);
its answers are answers like all others. With them the policy is chosen once more, and later its
order is renewed each time twice as many answers are known.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from batchpipe.planner.kv_ledger import blocks_for
from batchpipe.planner.lengths import FEW_ANSWERS
from batchpipe.planner.order import Order
from batchpipe.planner.plan import Plan
from batchpipe.planner.planning import Setting, in_order, ordered, pace_of
from batchpipe.planner.schedule.token_batcher import TokenBatcher

PILOT_SHARE = 0.01  # of the prompts whose answers' lengths are unknown
PILOT_KV_SHARE = 0.1  # of the KV memory: a pilot touches the whole tree and must not crowd it out
WITHOUT_LENGTHS = ("dfs", "input")  # orders that do not go by lengths
SIMULATED_PROMPTS = 2000  # to choose the policy once more: the run waits for it


class Replanner:
    """Reorders the waiting prompts of one running plan.

    `plan` is the plan that runs: the pilot first, and later in the renewed order.
    """

    def __init__(self, plan: Plan, setting: Setting) -> None:
        exact = np.fromiter(map(plan.exact_length, range(len(plan.prompts))), np.bool_)
        self._active = plan.order_name not in WITHOUT_LENGTHS and not exact.all()
        pilot = pilot_prompts(plan, ~exact, setting.kv_blocks) if self._active else _nobody()
        self.plan = replace(plan, order=_first(pilot, plan.order)) if len(pilot) else plan
        self._setting = setting
        self._pilot_left = set(pilot.tolist())
        self._answered = 0
        self._chosen = False  # by lengths that were learnt
        self._next_at = max(FEW_ANSWERS, int(PILOT_SHARE * len(plan.prompts)))

    def answered(self, index: int) -> None:
        """The prompt has its answer."""
        self._pilot_left.discard(index)
        self._answered += 1

    def between_steps(self, batcher: TokenBatcher) -> bool:
        """The waiting prompts are in the order that the lengths known by now ask for.

        Returns whether anything was reordered.
        """
        if not self._active or self._pilot_left or self._answered < self._next_at:
            return False
        self._next_at = 2 * self._answered
        waiting = np.zeros(len(self.plan.prompts), dtype=np.bool_)
        waiting[batcher.waiting.coming] = True
        if not waiting.any():
            return False
        if batcher.speculation is not None:
            chance = batcher.speculation.expected_chance
            self._setting = replace(self._setting, guess_chance=chance)
        plan = replace(self.plan, output_tokens=self.plan.expected(batcher.lengths))
        if self._chosen:
            plan = in_order(plan, plan.policy, self._setting)
        else:
            plan = ordered(plan, self._setting, simulated_prompts=SIMULATED_PROMPTS)
        self._chosen = True
        self.plan = replace(plan, order=plan.order.only(waiting))
        batcher.reorder(self.plan.order, pace_of(plan, self._setting, waiting))
        return True


def pilot_prompts(
    plan: Plan, open_ended: npt.NDArray[np.bool_], kv_blocks: int
) -> npt.NDArray[np.int32]:
    """The prompts to answer first: some of each group whose answers are unknown, by its size.

    In the plan's order, largest groups first, while they take a tenth of the KV memory to their
    ends, with the shared nodes above them.
    """
    known = [len(plan.history.get(key, ())) >= FEW_ANSWERS for key in plan.group_keys]
    unknown = open_ended & ~np.array(known, dtype=np.bool_)[plan.groups]
    coming = plan.order.prompts[unknown[plan.order.prompts]]
    wanted = int(PILOT_SHARE * len(coming))
    sizes = np.bincount(plan.groups[coming], minlength=len(known))
    by_group = coming[np.argsort(plan.groups[coming], kind="stable")]
    begins = np.cumsum(sizes) - sizes
    room, lengths = int(PILOT_KV_SHARE * kv_blocks), plan.prompts.lengths
    chosen: list[int] = []
    held: set[int] = set()  # nodes
    for group in np.argsort(-sizes, kind="stable").tolist():
        share = min(max(1, int(PILOT_SHARE * sizes[group])), wanted - len(chosen), sizes[group])
        for index in by_group[begins[group] : begins[group] + share].tolist():
            path = plan.path_blocks(index)
            tail = int(lengths[index] - plan.tree.tail_start[plan.rank_of[index]])
            room -= sum(blocks for node, blocks in path if node not in held)
            room -= blocks_for(tail + int(plan.output_tokens[index]))
            if room < 0:
                return np.array(chosen, dtype=np.int32)
            held.update(node for node, _ in path)
            chosen.append(index)
    return np.array(chosen, dtype=np.int32)


def _first(pilot: npt.NDArray[np.int32], order: Order) -> Order:
    """The pilot is admitted before the others, each still once."""
    stays = ~np.isin(order.prompts, pilot)
    others = order.prompts[stays]
    if order.density is None:
        return Order(np.concatenate([pilot, others]))
    # The back is asked before the front, and where it is as dense nothing is kept free of it.
    density = np.concatenate([order.density[stays], np.full(len(pilot), order.density.max())])
    return Order(np.concatenate([others, pilot[::-1]]), density, order.waves)


def _nobody() -> npt.NDArray[np.int32]:
    return np.empty(0, dtype=np.int32)
