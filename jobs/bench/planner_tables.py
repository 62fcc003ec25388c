"""The tables of the planner's benchmark, a section each; `planner.py` says what they prove."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from contenders import (
    DTYPE,
    LLAMA_3_1_8B,
    STEP_BUDGETS,
    STEP_TOKENS,
    Contender,
    Played,
    chosen,
    chosen_by_sample,
    figures,
    kv_blocks,
    plan_of,
    play,
    play_all,
    tuned,
)
from source_mix import lognormal
from traces import MIXES, batchllm, blendserve

from batchpipe.job.kv_memory import blocks_for_all
from batchpipe.planner.kv_ledger import BLOCK_TOKENS, blocks_for
from batchpipe.planner.machine.machines import machine_named
from batchpipe.planner.machine.step_cost import StepCost
from batchpipe.planner.order import CANDIDATES
from batchpipe.planner.plan import Plan
from batchpipe.planner.planning import Setting
from batchpipe.planner.request import Prompts
from batchpipe.rows.trace import Trace, read_trace

MACHINE = machine_named("a100-80g")
MIN_SPEEDUP, MIN_SHARE_OF_BOUND, MIN_SHARING_KEPT = 1.3, 0.9, 0.97
# prefix, own tokens, degree and, where BatchLLM is quoted with one, the ceiling of its saving
MICRO = (*((2_000, 200, degree) for degree in (1, 2, 4, 8, 16)), (16_000, 200, 16))
CEILINGS = {(2_000, 200, 2): 0.455, (2_000, 200, 16): 0.852, (16_000, 200, 16): 0.926}
BASELINES = ("dfs", "tuned dfs", "online", "tuned online", "random")  # what a user would run
KV_SHARES = (0.1, 0.25, 0.5, 1.0)
SPEED_REQUESTS, SPEED_PROMPT_TOKENS, SPEED_ANSWER_TOKENS = 100_000, 500, 200
MAX_SIMULATION_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Table:
    """One table, and a sentence for each bar that it misses."""

    title: str
    setting: Setting
    rows: list[dict[str, Any]]
    missed: list[str]


def on_machine(overlap: float) -> Setting:
    """Llama-3.1-8B on the machine, computing and reading overlapped by so much."""
    cost = StepCost(LLAMA_3_1_8B, replace(MACHINE, overlap=overlap), DTYPE)
    return Setting(cost, kv_blocks(MACHINE, LLAMA_3_1_8B), STEP_TOKENS)


# ---- BlendServe --------------------------------------------------------------------------------


def blendserve_tables(requests: int, traces: Sequence[Path]) -> Iterator[Table]:
    """All contenders on the four traces, with overlap and without."""
    plans = {f"#{number}": plan_of(blendserve(number, requests)) for number in MIXES}
    for overlap in (1.0, 0.0):
        setting = on_machine(overlap)
        gains = {}
        for name, plan in plans.items():
            runs = _blendserve_runs(plan, setting)
            gains[name] = _blendserve_gains(runs)
            rows = [figures(run, runs["dfs"].makespan_seconds) for run in runs.values()]
            yield Table(f"BlendServe {name}, overlap {overlap:g}", setting, rows, [])
        lowest = min(gain["sharing kept"] for gain in gains.values())
        means = {
            each: sum(gain[each] for gain in gains.values()) / len(gains) for each in gains["#1"]
        }
        missed = _blendserve_missed(means, lowest) if overlap else []
        rows = [
            {"trace": name} | {each: round(share, 4) for each, share in gain.items()}
            for name, gain in [*gains.items(), ("mean", means)]
        ]
        yield Table(f"BlendServe, planned, overlap {overlap:g}", setting, rows, missed)


def _blendserve_gains(runs: Mapping[str, Played]) -> dict[str, float]:
    planned = runs["planned"]
    rivals = {each: runs[each].makespan_seconds for each in BASELINES}
    return {
        "x dfs": rivals["dfs"] / planned.makespan_seconds,
        "x tuned dfs": rivals["tuned dfs"] / planned.makespan_seconds,
        "x best baseline": min(rivals.values()) / planned.makespan_seconds,
        "T_o": planned.simulation.share_of_bound,
        "sharing kept": planned.sharing_kept,
    }


def _blendserve_runs(plan: Plan, setting: Setting) -> dict[str, Played]:
    dfs, online = Contender("dfs"), Contender("input", lru=True)
    contenders = [Contender(policy) for policy in CANDIDATES]
    contenders += [replace(e, step_tokens=n) for e in (dfs, online) for n in STEP_BUDGETS]
    runs = play_all(plan, [*contenders, Contender("random", lru=True)], setting)
    return {
        "planned": chosen(runs),
        "by sample": chosen_by_sample(plan, setting),
        **{policy: runs[Contender(policy)] for policy in CANDIDATES},
        "tuned dfs": tuned(runs, dfs),
        "online": runs[online],
        "tuned online": tuned(runs, online),
        "random": runs[Contender("random", lru=True)],
    }


def _blendserve_missed(mean: Mapping[str, float], kept: float) -> list[str]:
    bars = (
        ("speed over the best baseline", mean["x best baseline"], MIN_SPEEDUP),
        ("T_o over the makespan", mean["T_o"], MIN_SHARE_OF_BOUND),
        ("sharing kept, at worst,", kept, MIN_SHARING_KEPT),
    )
    return [f"{what} is {found:.3f}, below {bar}" for what, found, bar in bars if found < bar]


# ---- BatchLLM ----------------------------------------------------------------------------------


def batchllm_tables(requests: int, traces: Sequence[Path]) -> Iterator[Table]:
    """What is saved of prefixes that several prompts have, in random order, sorted and planned."""
    setting = on_machine(0.0)
    rows, missed = [], []
    for size in MICRO:
        plan = plan_of(batchllm(*size))
        ceiling = 1 - plan.tree.computed_tokens / plan.row_prompt_tokens
        shuffled, dfs = Contender("input", lru=True), Contender("dfs", lru=True)
        runs = [
            replace(play(plan, shuffled, setting), name="shuffled, LRU"),
            replace(play(plan, dfs, setting), name="sorted, LRU"),
            chosen(play_all(plan, map(Contender, CANDIDATES), setting)),
        ]
        job = "{:,}+{:,} x{}".format(*size)
        for run in runs:
            rows.append({"job": job, **figures(run, runs[1].makespan_seconds)})
            rows[-1] |= {"saving": round(run.saving, 4), "ceiling": round(ceiling, 4)}
            del rows[-1]["sharing kept"]
            rows[-1]["x sorted"] = rows[-1].pop("x dfs")
        if runs[-1].simulation.computed_prompt_tokens != plan.tree.computed_tokens:
            missed.append(f"planned saves {runs[-1].saving:.3%} of {job}, not {ceiling:.3%}")
        if size in CEILINGS and abs(ceiling - CEILINGS[size]) > 5e-4:
            missed.append(f"the ceiling of {job} is {ceiling:.3%}, not {CEILINGS[size]:.1%}")
    yield Table("BatchLLM's micro-benchmark", setting, rows, missed)


# ---- length traces -----------------------------------------------------------------------------


def length_trace_tables(requests: int, traces: Sequence[Path]) -> Iterator[Table]:
    """Each trace at shares of the KV memory that it needs at once, and at the machine's own."""
    for path in traces:
        plan = plan_of(read_trace(str(path), limit=requests))
        need, longest = blocks_for_all(plan), longest_blocks(plan)
        setting = on_machine(0.0)
        rows, missed = [], []
        own = (setting.kv_blocks / need,) if setting.kv_blocks < need else ()
        for share in sorted({*KV_SHARES, *own}):
            budget = replace(setting, kv_blocks=max(longest, round(share * need)))
            online = Contender("input", lru=True)
            played = play_all(
                plan, [*map(Contender, CANDIDATES), Contender("input"), online], budget
            )
            dfs, belady, lru = played[Contender("dfs")], played[Contender("input")], played[online]
            runs = [
                chosen(played),
                dfs,
                replace(belady, name="input, Belady"),
                lru,
                played[Contender("decode-first")],
            ]
            cell = {"of need": round(budget.kv_blocks / need, 4)}
            rows += [cell | figures(run, dfs.makespan_seconds) for run in runs]
            again = [run.simulation.recomputed_tokens for run in (belady, lru)]
            if again[0] > again[1]:
                missed.append(
                    f"{path.name}, {share:.2%} of need: Belady computes {again[0]:,} tokens again, "
                    f"LRU {again[1]:,}"
                )
        title = f"{path.name}: {len(plan.prompts):,} prompts, {need:,} KV blocks needed at once"
        yield Table(title, setting, rows, missed)


def longest_blocks(plan: Plan) -> int:
    """KV blocks that the largest request needs alone."""
    tree, above = plan.tree, np.zeros(len(plan.tree.parent) + 1, dtype=np.int64)
    for node, parent in enumerate(tree.parent.tolist()):  # parents come before their children
        above[node] = above[parent] + blocks_for(int(tree.end[node] - tree.start[node]))
    tails = plan.prompts.lengths[tree.order] - tree.tail_start + plan.output_tokens[tree.order]
    return max(map(int, above[tree.tail_node] + -(-tails // BLOCK_TOKENS)))


# ---- speed -------------------------------------------------------------------------------------


def speed_tables(requests: int, traces: Sequence[Path]) -> Iterator[Table]:
    """Prompts of the usual kind, as `planning.py` makes them, with lognormal answers."""
    from planning import make

    with tempfile.TemporaryDirectory() as name:
        make(Path(name), SPEED_REQUESTS, SPEED_PROMPT_TOKENS)
        column = pq.read_table(Path(name) / "job.parquet")["prompt_token_ids"].combine_chunks()
    offsets = column.offsets.to_numpy().astype(np.int64)
    prompts = Prompts(column.values.to_numpy(), offsets[:-1], offsets[1:])
    rng = np.random.default_rng(0)
    plan = plan_of(Trace(prompts, lognormal(SPEED_REQUESTS, SPEED_ANSWER_TOKENS, 1.0, rng)))
    for overlap in (1.0, 0.0):
        setting = on_machine(overlap)
        runs = [play(plan, Contender(policy), setting) for policy in CANDIDATES]
        reference = next(run for run in runs if run.name == "dfs").makespan_seconds
        missed = [
            f"{run.name} takes {run.seconds:.0f} s to simulate"
            for run in runs
            if run.seconds > MAX_SIMULATION_SECONDS
        ]
        rows = [figures(run, reference) for run in runs]
        yield Table(f"{len(plan.prompts):,} requests, overlap {overlap:g}", setting, rows, missed)
