"""Small jobs that the planner's tests draw, and a small model to plan them for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from batchpipe.planner.job_cost import JobCost, job_cost
from batchpipe.planner.machine.machines import MACHINES
from batchpipe.planner.machine.model_shape import ModelShape
from batchpipe.planner.machine.step_cost import StepCost
from batchpipe.planner.planning import Setting
from batchpipe.planner.request import Prompts
from batchpipe.planner.tree.prefix_tree import PrefixTree, build

Jobs = list[tuple[list[int], int]]  # prompt, expected answer tokens

# Few tokens, so that much is shared on many levels.
jobs = st.lists(
    st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=7), st.integers(1, 50)), max_size=16
)

# Its keys are wide beside its matrices, so that jobs are memory-bound as well as compute-bound.
SMALL_MODEL = ModelShape(
    layers=2,
    hidden=64,
    heads=8,
    kv_heads=8,
    head_dim=32,
    vocab=1000,
    context=4096,
    linear_parameters=20_000,
    expert_parameters=0,
    experts=0,
    experts_per_token=0,
    head_parameters=64_000,
    tied_head=True,
    windows=(0, 0),
)

LLAMA_8B = ModelShape(
    layers=32,
    hidden=4096,
    heads=32,
    kv_heads=8,
    head_dim=128,
    vocab=128256,
    context=8192,
    linear_parameters=6_979_321_856,
    expert_parameters=0,
    experts=0,
    experts_per_token=0,
    head_parameters=525_336_576,
    tied_head=False,
    windows=(0,) * 32,
)


def linked_cost(host_bytes_per_second: float) -> StepCost:
    """The small model on a machine with such a link between device and host."""
    machine = replace(MACHINES["a100-80g"], host_bytes_per_second=host_bytes_per_second)
    return StepCost(SMALL_MODEL, machine, "bfloat16")


def small_cost(overlap: float = 0.0, shape: ModelShape = SMALL_MODEL) -> StepCost:
    """The small model on a machine that hides so much of a step's shorter part."""
    return StepCost(shape, replace(MACHINES["a100-80g"], overlap=overlap), "bfloat16")


def small_setting(kv_blocks: int, step_tokens: int, overlap: float = 0.0) -> Setting:
    """The small model in so much memory."""
    return Setting(small_cost(overlap), kv_blocks, step_tokens)


def tree_of(job: Jobs) -> PrefixTree:
    """The prefix tree of the job's prompts."""
    return build(Prompts.pack([row for row, _ in job]))


def cost_of(job: Jobs, cost: StepCost | None = None) -> JobCost:
    """What the job costs."""
    lengths = np.array([len(row) for row, _ in job], dtype=np.int64)
    answers = np.array([answer for _, answer in job], dtype=np.int64)
    return job_cost(tree_of(job), lengths, answers, cost)


def mixed_job(seed: int, prompts: int = 150) -> Jobs:
    """Many prompts below a few short prefixes, most with short answers and some with long ones."""
    rng = np.random.default_rng(seed)
    prefixes = [rng.integers(0, 4, rng.integers(1, 5)).tolist() for _ in range(4)]
    long_answers = rng.random(prompts) < rng.choice([0.02, 0.1])
    return [
        (
            [*prefixes[int(rng.integers(4))], *rng.integers(4, 20, rng.integers(1, 60)).tolist()],
            int(rng.integers(300, 1500) if long else rng.integers(1, 20)),
        )
        for long in long_answers
    ]


FAST_LINK, SLOW_LINK = linked_cost(1e18), linked_cost(1.0)  # all is set aside, and nothing
