"""How much memory paged KV may take."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from batchpipe.config import JobOptions, parse_bytes
from batchpipe.errors import ConfigError
from batchpipe.planner.kv_ledger import BLOCK_TOKENS
from batchpipe.planner.machine.machine import Machine
from batchpipe.planner.machine.model_shape import ModelShape
from batchpipe.planner.plan import Plan

CPU_SHARE = 0.5  # of the memory that is free before the weights come; the rest is for them
CUDA_SHARE = 0.85  # of what the weights leave; the rest is for activations and logits


def free_bytes(device: str) -> int:
    """Bytes that KV may take on this kind of device now."""
    if device == "cuda":
        import torch  # a plan without weights runs without it

        return int(torch.cuda.mem_get_info()[0] * CUDA_SHARE)
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, amount = line.partition(":")
        if name == "MemAvailable":
            return int(int(amount.split()[0]) * 1024 * CPU_SHARE)
    raise ConfigError("the free memory of this machine is unknown; give --kv-memory, such as 4GB")


def kv_blocks_before_loading(
    options: JobOptions, shape: ModelShape, device: str, dtype: str
) -> int | None:
    """Blocks that KV may take; None where only the loaded weights tell (CUDA)."""
    if options.kv_memory != "auto":
        kv_bytes = parse_bytes(options.kv_memory)
    elif device == "cpu":
        kv_bytes = free_bytes(device)
    else:
        return None
    return blocks_in(kv_bytes, shape, dtype)


def blocks_on(machine: Machine, shape: ModelShape, dtype: str) -> int:
    """Blocks that KV may take on this machine beside the model's weights."""
    weights = shape.weight_bytes(dtype)
    left = int((machine.memory_bytes - weights) * CUDA_SHARE)
    if left <= 0:
        raise ConfigError(
            f"the weights take {weights / 1e9:.1f} GB in {dtype} and {machine.name} has "
            f"{machine.memory_bytes / 1e9:.0f} GB; choose a larger machine or a smaller model"
        )
    return blocks_in(left, shape, dtype)


def blocks_in(kv_bytes: int, shape: ModelShape, dtype: str) -> int:
    """Whole KV blocks that fit into so many bytes."""
    block_bytes = BLOCK_TOKENS * shape.kv_bytes_per_token(dtype)
    if kv_bytes < block_bytes:
        raise ConfigError(
            f"--kv-memory of {kv_bytes} bytes holds no block of {BLOCK_TOKENS} tokens, which takes "
            f"{block_bytes} bytes for this model; give more"
        )
    return kv_bytes // block_bytes


def blocks_for_all(plan: Plan) -> int:
    """Blocks that hold the KV of the whole plan at once, every answer at its limit."""
    tree = plan.tree
    nodes = -(-(tree.end - tree.start).astype(np.int64) // BLOCK_TOKENS)
    answers = np.asarray([sampling.max_tokens for sampling in plan.samplings], dtype=np.int64)
    own = plan.prompts.lengths - tree.tail_start[plan.rank_of] + answers
    return max(1, int(nodes.sum() + (-(-own // BLOCK_TOKENS)).sum()))
