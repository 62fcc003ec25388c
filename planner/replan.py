"""While a plan runs: learn how long answers are, and order what still waits by that.

A first guess of answer lengths orders badly, so a pilot sample goes first (BlendServe samples 1 %);
its answers are answers like all others. Later the order is renewed each time twice as many answers
are known.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from batchpipe.planner.kv_ledger import BLOCK_TOKENS
from batchpipe.planner.lengths import FEW_ANSWERS
from batchpipe.planner.order import Order
from batchpipe.planner.plan import Plan
from batchpipe.planner.planning import Setting, in_order, pace_of
from batchpipe.planner.token_batcher import TokenBatcher

PILOT_SHARE = 0.01  # of the prompts whose answers' lengths are unknown
PILOT_KV_SHARE = 0.1  # of the KV memory: a pilot touches the whole tree and must not crowd it out
BY_LENGTH = ("planned", "decode-first")  # orders that depend on lengths


class Replanner:
    """Reorders the waiting prompts of one running plan.

    `plan` is the plan that runs: the pilot first, and later in the renewed order.
    """

    def __init__(self, plan: Plan, setting: Setting) -> None:
        exact = np.fromiter(map(plan.exact_length, range(len(plan.prompts))), np.bool_)
        self._active = plan.order_name in BY_LENGTH and not exact.all()
        pilot = pilot_prompts(plan, ~exact, setting.kv_blocks) if self._active else _nobody()
        self.plan = replace(plan, order=_first(pilot, plan.order))
        self._setting = setting
        self._pilot_left = set(pilot.tolist())
        self._answered = 0
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
        plan = replace(self.plan, output_tokens=self.plan.expected(batcher.lengths))
        plan = in_order(plan, plan.policy, self._setting)
        self.plan = replace(plan, order=plan.order.only(waiting))
        batcher.reorder(self.plan.order, pace_of(plan, self._setting, waiting))
        return True


def pilot_prompts(
    plan: Plan, open_ended: npt.NDArray[np.bool_], kv_blocks: int
) -> npt.NDArray[np.int32]:
    """The prompts to answer first: some of each group whose answers are unknown, by its size.

    In the plan's order, largest groups first, while their paths take a tenth of the KV memory.
    """
    known = [len(plan.history.get(key, ())) >= FEW_ANSWERS for key in plan.group_keys]
    unknown = open_ended & ~np.array(known, dtype=np.bool_)[plan.groups]
    coming = plan.order.prompts[unknown[plan.order.prompts]]
    wanted = int(PILOT_SHARE * len(coming))
    sizes = np.bincount(plan.groups[coming], minlength=len(known))
    room = PILOT_KV_SHARE * kv_blocks * BLOCK_TOKENS
    chosen: list[npt.NDArray[np.int32]] = []
    for group in np.argsort(-sizes, kind="stable").tolist():
        share = max(1, int(PILOT_SHARE * sizes[group]))
        members = coming[plan.groups[coming] == group][: min(wanted, share)]
        longest = int(plan.prompts.lengths[members].max(initial=0))
        room -= longest + int(plan.output_tokens[members].sum())
        if room < 0 or not len(members):
            break
        chosen.append(members)
        wanted -= len(members)
    return np.concatenate(chosen) if chosen else _nobody()


def _first(pilot: npt.NDArray[np.int32], order: Order) -> Order:
    """The pilot before the others, each still once."""
    if not len(pilot):
        return order
    stays = np.ones(len(order.prompts), dtype=np.bool_)
    stays[np.isin(order.prompts, pilot)] = False
    density = order.density
    if density is not None:
        density = np.concatenate([np.full(len(pilot), density[0]), density[stays]])
    return Order(np.concatenate([pilot, order.prompts[stays]]), density, order.waves)


def _nobody() -> npt.NDArray[np.int32]:
    return np.empty(0, dtype=np.int32)
