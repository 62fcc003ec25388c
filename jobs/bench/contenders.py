"""Who plays a trace in the simulator: an order, a KV cache and a step budget each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from time import process_time
from typing import Any

import numpy as np
from lru import LruTree

from batchpipe.planner.kv_ledger import BLOCK_TOKENS, BlockCount
from batchpipe.planner.machine.machine import Machine
from batchpipe.planner.machine.model_shape import ModelShape
from batchpipe.planner.order import CANDIDATES, Order
from batchpipe.planner.plan import Plan
from batchpipe.planner.planning import (
    SIMULATED_PROMPTS,
    Setting,
    in_order,
    make_plan,
    ordered,
    pace_of,
)
from batchpipe.planner.request import Sampling
from batchpipe.planner.schedule.simulate import Simulation, simulate
from batchpipe.planner.schedule.token_batcher import TokenBatcher
from batchpipe.rows.trace import Trace

LLAMA_3_1_8B = ModelShape(
    layers=32,
    hidden=4_096,
    heads=32,
    kv_heads=8,
    head_dim=128,
    vocab=128_256,
    context=131_072,
    linear_parameters=6_979_321_856,
    expert_parameters=0,
    experts=0,
    experts_per_token=0,
    head_parameters=128_256 * 4_096,
    tied_head=False,
    windows=(0,) * 32,
)
DTYPE = "bfloat16"
MEMORY_SHARE = 0.9  # of the GPU, for weights and KV: vLLM's default
STEP_TOKENS = 8_192
STEP_BUDGETS = (512, 2_048, 8_192)  # of baselines that are tuned


@dataclass(frozen=True, slots=True)
class Contender:
    """An order by name, or ``random``, and what a step and the cache do."""

    policy: str
    lru: bool = False  # an online engine's cache in place of planned KV lifetimes
    step_tokens: int = STEP_TOKENS

    @property
    def name(self) -> str:
        """As the tables have it."""
        return f"{self.policy}, LRU" if self.lru else self.policy


@dataclass(frozen=True, slots=True)
class Played:
    """What became of a contender."""

    name: str
    simulation: Simulation
    seconds: float  # of processor time that simulating took
    plan: Plan
    least_seconds: float  # T_comp and T_mem, less what overlap hides of the shorter

    @property
    def makespan_seconds(self) -> float:
        """Of the simulated run."""
        return self.simulation.makespan_seconds

    @property
    def saving(self) -> float:
        """Share of the prompt tokens that is not computed."""
        return 1 - self.simulation.computed_prompt_tokens / self.plan.row_prompt_tokens

    @property
    def sharing_kept(self) -> float:
        """Share of the shareable prompt tokens that is not computed."""
        saved = self.plan.row_prompt_tokens - self.simulation.computed_prompt_tokens
        return saved / max(1, self.plan.shareable_prompt_tokens)


def plan_of(trace: Trace) -> Plan:
    """The trace's plan in depth-first order; the length of every answer is known."""
    samplings = [Sampling(max_tokens=n, ignore_eos=True) for n in trace.output_tokens.tolist()]
    return make_plan(trace.prompts, samplings, order="dfs")


def play(plan: Plan, contender: Contender, setting: Setting, seed: int = 0) -> Played:
    """The plan played to its end as the contender would; ``seed`` is of random order alone.

    All have the same admission, by a forecast of the KV that never guesses a length wrong: what
    differs is order, cache and step budget.
    """
    setting = replace(setting, step_tokens=contender.step_tokens)
    began = process_time()
    if contender.policy == "random":
        shuffled = np.random.default_rng(seed).permutation(len(plan.prompts))
        plan = replace(plan, order=Order(shuffled.astype(np.int32)), policy="random")
    else:
        plan = in_order(plan, contender.policy, setting)
    ledger = BlockCount(setting.kv_blocks)
    tree = LruTree(plan, ledger) if contender.lru else None
    batcher = TokenBatcher(plan, ledger, pace_of(plan, setting), tree=tree)  # type: ignore[arg-type]
    job = plan.cost(setting.cost)
    simulation = simulate(
        batcher, setting.cost, plan.output_tokens, bound_seconds=job.bound_seconds
    )
    seconds = process_time() - began
    hidden = setting.cost.machine.overlap * min(job.compute_seconds, job.memory_seconds)
    least_seconds = job.compute_seconds + job.memory_seconds - hidden
    return Played(contender.name, simulation, seconds, plan, least_seconds)


def chosen_by_sample(plan: Plan, setting: Setting) -> Played:
    """The plan as `make_plan` orders it by default; its seconds are those of choosing and playing.

    It simulates every candidate on a sample of a large job.
    """
    began = process_time()
    asked = replace(plan, order_name="planned")
    policy = ordered(asked, setting, simulated_prompts=SIMULATED_PROMPTS).policy
    choosing_seconds = process_time() - began
    played = play(plan, Contender(policy), setting)
    seconds = choosing_seconds + played.seconds
    return replace(played, name=f"by sample: {policy}", seconds=seconds)


def chosen(runs: Mapping[Contender, Played]) -> Played:
    """What `make_plan` chooses with ``simulated_prompts=None``: the first of the fastest."""
    candidates = [runs[Contender(policy)] for policy in CANDIDATES]
    best = min(candidates, key=lambda run: run.makespan_seconds)
    seconds = sum(run.seconds for run in candidates) + best.seconds
    return replace(best, name=f"planned: {best.name}", seconds=seconds)


def tuned(runs: Mapping[Contender, Played], contender: Contender) -> Played:
    """The contender with the step budget that serves it best."""
    budgets = {tokens: runs[replace(contender, step_tokens=tokens)] for tokens in STEP_BUDGETS}
    best = min(budgets, key=lambda tokens: budgets[tokens].makespan_seconds)
    seconds = sum(run.seconds for run in budgets.values())
    return replace(budgets[best], name=f"{contender.name}, tuned: {best}", seconds=seconds)


def play_all(
    plan: Plan, contenders: Iterable[Contender], setting: Setting
) -> dict[Contender, Played]:
    """Every contender's run, each played once."""
    return {each: play(plan, each, setting) for each in dict.fromkeys(contenders)}


def kv_blocks(machine: Machine, shape: ModelShape) -> int:
    """KV blocks that the machine holds beside the model's weights."""
    kv_bytes = MEMORY_SHARE * machine.memory_bytes - shape.weight_bytes(DTYPE)
    return int(kv_bytes / shape.kv_bytes_per_token(DTYPE)) // BLOCK_TOKENS


def figures(played: Played, reference_seconds: float) -> dict[str, Any]:
    """What the tables say of a run; ``x dfs`` is speed over that of the reference.

    ``T_o`` is the bound with perfect overlap, ``bound`` that with the machine's own, both over the
    makespan.
    """
    simulation = played.simulation
    return {
        "policy": played.name,
        "makespan s": round(played.makespan_seconds, 1),
        "x dfs": round(reference_seconds / played.makespan_seconds, 3),
        "T_o": round(simulation.share_of_bound, 4),
        "bound": round(played.least_seconds / played.makespan_seconds, 4),
        "sharing kept": round(played.sharing_kept, 4),
        "steps": simulation.steps,
        "recomputed": simulation.recomputed_tokens,
        "preempted": simulation.preemptions,
        "peak KV": simulation.peak_kv_tokens,
        "seconds": round(played.seconds, 2),
    }
