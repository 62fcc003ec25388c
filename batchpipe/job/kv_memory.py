"""How much memory paged KV may take."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np

from batchpipe.config import JobOptions, parse_bytes, parse_host_bytes
from batchpipe.errors import ConfigError
from batchpipe.planner.kv_ledger import BLOCK_TOKENS
from batchpipe.planner.machine.machine import Machine
from batchpipe.planner.machine.model_shape import ModelShape
from batchpipe.planner.plan import Plan

CPU_SHARE = 0.5  # of the memory that is free before the weights come; the rest is for them
CUDA_SHARE = 0.85  # of what the weights leave; the rest is for activations and logits
HOST_SHARE = 0.25  # of the host's free memory: what of it is used, nobody else can have


def free_bytes(device: str) -> int:
    """Bytes that KV may take on this kind of device now."""
    if device == "cuda":
        import torch  # a plan without weights runs without it

        return int(torch.cuda.mem_get_info()[0] * CUDA_SHARE)
    available = available_bytes()
    if available is None:
        raise ConfigError(
            "the free memory of this machine is unknown; give --kv-memory, such as 4GB"
        )
    return int(available * CPU_SHARE)


def available_bytes() -> int | None:
    """Memory of the host that is free; None where it does not tell."""
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, amount = line.partition(":")
            if name == "MemAvailable":
                return int(amount.split()[0]) * 1024
    return None


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


def host_blocks_in(options: JobOptions, shape: ModelShape, device: str, dtype: str) -> int:
    """Blocks that KV may take on the host, where it goes when it has to leave the device.

    Left to us, a CPU has none: its KV is in the host's memory already. Several devices that share a
    model have none either.
    """
    if options.tensor_parallel > 1:
        return 0
    block_bytes = BLOCK_TOKENS * shape.kv_bytes_per_token(dtype)
    given = parse_host_bytes(options.host_kv_memory)
    if given is None:
        available = available_bytes() if device == "cuda" else None
        return 0 if available is None else int(available * HOST_SHARE) // block_bytes
    if 0 < given < block_bytes:
        raise ConfigError(
            f"--host-kv-memory {options.host_kv_memory} holds no block of {BLOCK_TOKENS} tokens, "
            f"which takes {block_bytes} bytes for this model; give more, or 0"
        )
    return given // block_bytes


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


def host_blocks_for_all(plan: Plan, kv_blocks: int) -> int:
    """Blocks that the plan may fill on the host beside so many on the device.

    What leaves are shared nodes, and what running sequences have alone: these ran together once.
    """
    return min(_node_blocks(plan) + kv_blocks, max(0, blocks_for_all(plan) - kv_blocks))


def _node_blocks(plan: Plan) -> int:
    tree = plan.tree
    return int((-(-(tree.end - tree.start).astype(np.int64) // BLOCK_TOKENS)).sum())


def blocks_for_all(plan: Plan) -> int:
    """Blocks that hold the KV of the whole plan at once, every answer at its limit."""
    tree = plan.tree
    answers = np.asarray([sampling.max_tokens for sampling in plan.samplings], dtype=np.int64)
    own = plan.prompts.lengths - tree.tail_start[plan.rank_of] + answers
    return max(1, _node_blocks(plan) + int((-(-own // BLOCK_TOKENS)).sum()))
