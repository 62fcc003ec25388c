"""From a prepared job to a plan: what it will run on, and which rows will not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from batchpipe.config import JobOptions, written_bytes
from batchpipe.job.kv_memory import blocks_on, host_blocks_in, kv_blocks_before_loading
from batchpipe.job.language import shape_of
from batchpipe.job.prepare import Job
from batchpipe.job.profiles import find_machine
from batchpipe.planner.kv_ledger import BLOCK_TOKENS, blocks_for
from batchpipe.planner.machine.step_cost import StepCost
from batchpipe.planner.plan import Plan
from batchpipe.planner.planning import SIMULATED_PROMPTS, Setting, make_plan, ordered

# Past the knee of the matrix kernels; on a CPU a step's activations also stay in its caches.
STEP_TOKENS = {"cpu": 1024, "cuda": 8192}

History = Mapping[bytes, Sequence[int]]


@dataclass(frozen=True, slots=True)
class Target:
    """The machine that a plan is for, as far as it is known."""

    cost: StepCost
    kv_blocks: int | None  # None where only the loaded weights tell
    step_tokens: int
    host_blocks: int = 0  # of KV in the host's memory

    @property
    def setting(self) -> Setting | None:
        """What `planned` simulates on; None before the KV memory is known."""
        if self.kv_blocks is None:
            return None
        return Setting(self.cost, self.kv_blocks, self.step_tokens, host_blocks=self.host_blocks)


def target_of(
    options: JobOptions,
    config: Any,  # transformers PreTrainedConfig
    *,
    device: str,
    dtype: str,
    step_tokens: int | None = None,
    elsewhere: bool = False,
) -> Target:
    """This machine, by its calibrated profile where it has one; devices that share a model as one.

    ``elsewhere`` plans for the memory of the machine that ``--machine`` names instead.

    Raises:
        UnsupportedModelError: the configuration lacks the sizes of a decoder
    """
    shape = shape_of(options, config)
    machine = find_machine(
        options.machine,
        model=options.model,
        dtype=dtype,
        device=device,
        quantize=options.quantize,
    )
    is_elsewhere = elsewhere and options.machine is not None
    if is_elsewhere:
        device = machine.device
    if device == "cuda":  # processes on a CPU share what there is
        machine = machine.times(options.tensor_parallel)
    if is_elsewhere and options.kv_memory == "auto":
        kv_blocks: int | None = blocks_on(machine, shape, dtype)
    else:
        kv_blocks = kv_blocks_before_loading(options, shape, device, dtype)
    host_blocks = host_blocks_in(options, shape, device, dtype)
    if is_elsewhere and options.host_kv_memory == "auto":  # nobody knows what is free there
        host_blocks = 0
    cost = StepCost(shape, machine, dtype)
    return Target(cost, kv_blocks, step_tokens or STEP_TOKENS[device], host_blocks)


def plan_job(
    job: Job,
    order: str,
    target: Target | None,
    *,
    history: History | None = None,
) -> tuple[Job, Plan]:
    """The plan, and the job without the rows that would not fit the KV memory even alone.

    Without a target ``planned`` is the first of its candidates, which shares whatever the machine.
    """
    while True:
        plan = make_plan(job.prompts, job.samplings, order="input", history=history)
        faults = {} if target is None else _too_large(job, plan, target)
        if not faults:
            break
        job = job.without(faults)
    named = replace(plan, order_name=order)
    setting = None if target is None else target.setting
    return job, ordered(named, setting, simulated_prompts=SIMULATED_PROMPTS)


def _too_large(job: Job, plan: Plan, target: Target) -> dict[int, str]:
    if target.kv_blocks is None:
        return {}
    needed = alone_blocks(plan)[plan.first_prompt]
    block_bytes = BLOCK_TOKENS * target.cost.shape.kv_bytes_per_token(target.cost.dtype)
    held = target.kv_blocks * BLOCK_TOKENS
    return {
        int(job.runnable[place]): (
            f"prompt and answer need {needed[place] * BLOCK_TOKENS} tokens of KV memory and "
            f"--kv-memory holds {held}; give --kv-memory "
            f"{written_bytes(int(needed[place]) * block_bytes)} or lower max_tokens"
        )
        for place in np.flatnonzero(needed > target.kv_blocks).tolist()
    }


def alone_blocks(plan: Plan) -> npt.NDArray[np.int64]:  # [plan.prompts]
    """KV blocks that each prompt holds at its end if it runs alone."""
    tree = plan.tree
    path_blocks = np.zeros(len(tree.parent) + 1, dtype=np.int64)  # the last stands for no node
    spans = zip(tree.parent.tolist(), (tree.end - tree.start).tolist(), strict=True)
    for node, (parent, tokens) in enumerate(spans):
        path_blocks[node] = path_blocks[parent] + blocks_for(tokens)
    answers = np.asarray([sampling.max_tokens for sampling in plan.samplings], dtype=np.int64)
    ranks = plan.rank_of
    tails = plan.prompts.lengths - tree.tail_start[ranks] + answers
    blocks: npt.NDArray[np.int64] = path_blocks[tree.tail_node[ranks]] + -(-tails // BLOCK_TOKENS)
    return blocks


def setting_facts(setting: Setting) -> dict[str, object]:
    """What a plan's file says of the machine that it was made for."""
    return {
        "machine": setting.cost.machine.name,
        "dtype": setting.cost.dtype,
        "quantize": setting.cost.shape.quantize,
        "kv_tokens": setting.kv_blocks * BLOCK_TOKENS,
        "step_tokens": setting.step_tokens,
    }


def plan_facts(
    plan: Plan, options: JobOptions, of_the_engine: Mapping[str, object]
) -> dict[str, object]:
    """What a plan's file says of how it was made."""
    return {
        "policy": plan.policy,
        "model": options.model,
        "engine": options.engine,
        **of_the_engine,
    }
