"""Makes plans: duplicates collapsed, the tree built, the order chosen by simulating candidates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from batchpipe.planner.duplicates import collapse
from batchpipe.planner.kv_ledger import BlockCount
from batchpipe.planner.lengths import group_prompts
from batchpipe.planner.machine.step_cost import StepCost
from batchpipe.planner.order import CANDIDATES, POLICIES, Order
from batchpipe.planner.plan import Plan
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.planner.schedule.pace import Even, Full, Pace
from batchpipe.planner.schedule.simulate import Simulation, simulate
from batchpipe.planner.schedule.token_batcher import TokenBatcher
from batchpipe.planner.tree.prefix_tree import build

SIMULATED_PROMPTS = 10_000  # a larger job chooses its order by a sample: 0.6 s a candidate
SAMPLED_TOGETHER = 32  # neighbours in the tree, so that the sample shares as the job does


@dataclass(frozen=True, slots=True)
class Setting:
    """What a plan will run on."""

    cost: StepCost
    kv_blocks: int
    step_tokens: int  # most tokens of a step
    guess_chance: float = 0.0  # that the next token of a decode is guessed; 0: nothing is
    host_blocks: int = 0  # of KV in host memory


def make_plan(
    prompts: Prompts,
    samplings: Sequence[Sampling],
    *,
    order: str = "planned",
    setting: Setting | None = None,
    history: Mapping[bytes, Sequence[int]] | None = None,
    simulated_prompts: int | None = SIMULATED_PROMPTS,
) -> Plan:
    """The plan of these rows: duplicates collapsed, the tree built, the order chosen.

    Args:
        prompts: one prompt per row, none empty
        samplings: how each row draws its answer  # [rows]
        order: a name in `ORDERS` or `POLICIES`
        setting: what it will run on; without it ``planned`` is not simulated
        history: lengths of earlier runs' answers by group key, see `group_prompts`
        simulated_prompts: ``planned`` simulates at most so many of a job; None: all
    """
    duplicates = collapse(prompts, samplings)
    copies = np.fromiter((samplings[row].n for row in duplicates.kept.tolist()), np.int64)
    first_of_kept = np.concatenate([[0], np.cumsum(copies)]).astype(np.int32)
    first_row = np.repeat(duplicates.kept, copies).astype(np.int32)
    sample = np.arange(len(first_row), dtype=np.int32) - np.repeat(first_of_kept[:-1], copies)
    planned_prompts = prompts.take(first_row)
    planned_samplings = tuple(samplings[row] for row in first_row.tolist())
    tree = build(planned_prompts)
    groups, group_keys = group_prompts(tree, planned_prompts)
    plan = Plan(
        prompts=planned_prompts,
        samplings=planned_samplings,
        sample=sample.astype(np.int32),
        first_prompt=first_of_kept[:-1][duplicates.answered_by],
        first_row=first_row,
        tree=tree,
        groups=groups,
        group_keys=tuple(group_keys),
        history=history or {},
        output_tokens=np.empty(0, dtype=np.int64),
        order=Order(np.arange(len(first_row), dtype=np.int32)),
        order_name=order,
        policy=order,
        row_prompt_tokens=prompts.tokens,
    )
    plan = replace(plan, output_tokens=plan.expected(plan.new_lengths()))
    return ordered(plan, setting, simulated_prompts=simulated_prompts)


def ordered(plan: Plan, setting: Setting | None, *, simulated_prompts: int | None = None) -> Plan:
    """The same plan in the order that its name asks for, by its present output lengths."""
    if plan.order_name != "planned":
        return in_order(plan, plan.order_name, setting)
    if setting is None or not len(plan.prompts):
        return in_order(plan, CANDIDATES[0], setting)
    job = plan
    if simulated_prompts is not None and len(plan.prompts) > simulated_prompts:
        job = sampled(plan, simulated_prompts)
    return in_order(plan, fastest(dry_runs(job, setting)), setting)


def in_order(plan: Plan, policy: str, setting: Setting | None) -> Plan:
    """The same plan in the order of this policy."""
    cost = None if setting is None else setting.cost
    return replace(plan, order=POLICIES[policy](plan.ordering(cost)), policy=policy)


def pace_of(plan: Plan, setting: Setting, waiting: npt.NDArray[np.bool_] | None = None) -> Pace:
    """The pace that belongs to the plan's order, for all prompts or for those that still wait."""
    if not plan.order.from_both_ends:
        return Full(setting.step_tokens)
    job = plan.cost(setting.cost)
    if waiting is not None:
        job = job.of(waiting)
    return Even(setting.step_tokens, setting.cost, job, plan.output_tokens.tolist())


def dry_run(
    plan: Plan,
    setting: Setting,
    answers: npt.NDArray[np.int64] | None = None,  # tokens of each  # [prompts]
) -> Simulation:
    """The plan played to its end; answers are as long as expected unless given."""
    batcher = TokenBatcher(
        plan,
        BlockCount(setting.kv_blocks),
        pace_of(plan, setting),
        host=BlockCount(setting.host_blocks) if setting.host_blocks else None,
        swap_by=setting.cost,
    )
    bound = plan.cost(setting.cost).bound_seconds
    given = plan.output_tokens if answers is None else answers
    return simulate(
        batcher, setting.cost, given, bound_seconds=bound, guess_chance=setting.guess_chance
    )


def dry_runs(
    plan: Plan, setting: Setting, policies: Iterable[str] = CANDIDATES
) -> dict[str, Simulation]:
    """The plan played in the order of each policy; equal orders are played once."""
    played: list[tuple[Order, Simulation]] = []
    simulations: dict[str, Simulation] = {}
    for policy in policies:
        made = in_order(plan, policy, setting)
        same = (simulation for order, simulation in played if order.equals(made.order))
        simulations[policy] = next(same, None) or dry_run(made, setting)
        played.append((made.order, simulations[policy]))
    return simulations


def fastest(simulations: Mapping[str, Simulation]) -> str:
    """The policy with the shortest makespan; the first of equals, so the choice is stable."""
    return min(simulations, key=lambda policy: simulations[policy].makespan_seconds)


def sampled(plan: Plan, prompts: int) -> Plan:
    """A smaller plan of runs of neighbours, evenly over the tree, with no order of its own yet."""
    together = min(SAMPLED_TOGETHER, len(plan.prompts))
    runs = max(1, prompts // together)
    starts = np.linspace(0, len(plan.prompts) - together, runs).astype(np.int64)
    ranks = np.unique((starts[:, None] + np.arange(together)).ravel())
    kept = np.sort(plan.tree.order[ranks])
    some = plan.prompts.take(kept)
    return replace(
        plan,
        prompts=some,
        samplings=tuple(plan.samplings[index] for index in kept.tolist()),
        tree=build(some),
        groups=plan.groups[kept],
        output_tokens=plan.output_tokens[kept],
    )
