"""What would make a job faster or cheaper, each piece with what it gains.

Knows a plan and what it runs on. Everything is found by counting or by dry runs, so what is said
holds as far as the machine's profile does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from batchpipe.planner.duplicates import collapse
from batchpipe.planner.kv_ledger import BLOCK_TOKENS
from batchpipe.planner.machine.step_cost import StepCost
from batchpipe.planner.plan import Plan
from batchpipe.planner.planning import Setting, dry_run, in_order, sampled

KV_SAMPLED_PROMPTS = 4000  # dry runs of 0.3 s
STEP_SAMPLED_PROMPTS = 1000  # the effect of a step's size shows in less
STEP_TOKENS_SWEPT = (256, 512, 1024, 2048, 4096, 8192)
KV_SHARES_SWEPT = (0.5, 0.25, 0.125)
WORTH = 0.02  # of the time: less is within what a profile errs
FULL = 0.9  # of the KV memory: where the peak stays below, more of it changes nothing


@dataclass(frozen=True, slots=True)
class Advice:
    """One sentence with its figures, and what following it gains, in seconds or tokens."""

    text: str
    gain_seconds: float | None = None
    gain_tokens: int | None = None


def duplicates_advice(plan: Plan, cost: StepCost | None) -> list[Advice]:
    """What collapsing equal rows saves, and what it would save where rows draw for themselves."""
    advice = []
    if plan.duplicates:
        first, rows = np.unique(plan.first_prompt, return_counts=True)
        tokens, seconds = _answers(plan, first, rows - 1, cost)
        advice.append(
            Advice(
                f"of {plan.rows:,} rows {plan.duplicates:,} are equal to another and get its "
                f"answer, which saves {tokens:,} answer tokens",
                seconds,
                tokens,
            )
        )
    own = [
        index
        for index in np.flatnonzero(plan.sample == 0).tolist()
        if not plan.samplings[index].deterministic
    ]
    if not own:
        return advice
    drawn = np.array(own, dtype=np.int64)
    seeded = [replace(plan.samplings[index], seed=0) for index in own]
    equal = collapse(plan.prompts.take(drawn), seeded)
    repeats = np.bincount(equal.answered_by) - 1
    count = int(repeats.sum())
    if count:
        tokens, seconds = _answers(plan, drawn[equal.kept], repeats, cost)
        advice.append(
            Advice(
                f"of {plan.rows:,} rows {count:,} are equal to another and draw their own "
                f"answers: if these need not differ, a seed or temperature 0 saves "
                f"{tokens:,} answer tokens",
                seconds,
                tokens,
            )
        )
    return advice


def kv_memory_advice(plan: Plan, setting: Setting, least_blocks: int) -> list[Advice]:
    """The smallest KV memory that loses next to nothing, or what twice the memory gains.

    Less than ``least_blocks``, which the longest request takes, is not tried. A sample that fits at
    once tells nothing of memory, so there is no advice from one.
    """
    job, scale = _sample(plan, setting, KV_SAMPLED_PROMPTS)
    wanted_tokens = job.tree.computed_tokens + int(job.output_tokens.sum())
    have_tokens = setting.kv_blocks * BLOCK_TOKENS
    if job is not plan and wanted_tokens < have_tokens:
        return []
    present = dry_run(job, setting)
    full = present.peak_kv_tokens > FULL * have_tokens
    if full and (job is plan or wanted_tokens >= 2 * have_tokens):
        gain = present.makespan_seconds - _seconds_with(job, setting, 2 * setting.kv_blocks)
        share = gain / present.makespan_seconds
        if share > WORTH:
            return [
                Advice(
                    f"KV memory of {_gigabytes(setting, 2 * setting.kv_blocks)}, twice of what "
                    f"there is, would save {share:.1%} of the time",
                    gain * scale,
                )
            ]
    enough, loss = setting.kv_blocks, 0.0
    for share in KV_SHARES_SWEPT:
        blocks = int(setting.kv_blocks * share)
        if blocks < least_blocks:
            break
        lost = _seconds_with(job, setting, blocks) / present.makespan_seconds - 1
        if lost >= WORTH:
            break
        enough, loss = blocks, max(0.0, lost)
    if enough == setting.kv_blocks:
        return []
    return [
        Advice(
            f"KV memory of {_gigabytes(setting, enough)} would do instead of "
            f"{_gigabytes(setting, setting.kv_blocks)}: that loses {loss:.1%} of the time, and "
            f"the rest can serve something else",
            0.0,
        )
    ]


def step_tokens_advice(plan: Plan, setting: Setting) -> list[Advice]:
    """The smallest step that is as fast as the best, where the present one is slower."""
    job, scale = _sample(plan, setting, STEP_SAMPLED_PROMPTS)
    present = dry_run(job, setting).makespan_seconds
    seconds = {
        tokens: dry_run(job, replace(setting, step_tokens=tokens)).makespan_seconds
        for tokens in STEP_TOKENS_SWEPT
    }
    best = min(seconds.values())
    if present <= (1 + WORTH) * best:
        return []
    enough = min(
        tokens
        for tokens in seconds
        if seconds[tokens] <= (1 + WORTH) * best and (1 + WORTH) * seconds[tokens] < present
    )
    return [
        Advice(
            f"--step-tokens {enough} instead of {setting.step_tokens} would save "
            f"{1 - seconds[enough] / present:.1%} of the time",
            (present - seconds[enough]) * scale,
        )
    ]


def _answers(
    plan: Plan,
    prompts: npt.NDArray[np.integer],  # the first of each row's samples
    rows: npt.NDArray[np.integer],  # how many rows more would ask each
    cost: StepCost | None,
) -> tuple[int, float | None]:
    """Answer tokens, and seconds where the machine is known, of asking these once more."""
    copies = rows * np.array([plan.samplings[index].n for index in prompts.tolist()], np.int64)
    outputs = plan.output_tokens[prompts]
    tokens = int((copies * outputs).sum())
    if cost is None:
        return tokens, None
    seconds = outputs * (cost.token_seconds + cost.head_seconds) + plan.cost(cost).memory[prompts]
    return tokens, float((copies * seconds).sum())


def _sample(plan: Plan, setting: Setting, prompts: int) -> tuple[Plan, float]:
    """At most so many prompts in the plan's order, and how many times longer the job takes."""
    if len(plan.prompts) <= prompts:
        return plan, 1.0
    job = in_order(sampled(plan, prompts), plan.policy, setting)
    return job, work_seconds(plan, setting) / work_seconds(job, setting)


def work_seconds(plan: Plan, setting: Setting) -> float:
    """``T_comp + T_mem``, by which a sample's time is brought up to the job's."""
    cost = plan.cost(setting.cost)
    return cost.compute_seconds + cost.memory_seconds


def _seconds_with(job: Plan, setting: Setting, kv_blocks: int) -> float:
    return dry_run(job, replace(setting, kv_blocks=kv_blocks)).makespan_seconds


def _gigabytes(setting: Setting, kv_blocks: int) -> str:
    cost = setting.cost
    kv_bytes = kv_blocks * BLOCK_TOKENS * cost.shape.kv_bytes_per_token(cost.dtype)
    return f"{kv_bytes / 1e9:.2f} GB"
