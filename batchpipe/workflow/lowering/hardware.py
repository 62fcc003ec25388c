"""What a workflow's models run on, by configurations and the machine's profile; no weights."""

from __future__ import annotations

from collections.abc import Mapping

from batchpipe.config import JobOptions
from batchpipe.explain.preview import planned_dtype
from batchpipe.job.kv_memory import blocks_on
from batchpipe.job.language import Language
from batchpipe.job.plan_job import target_of
from batchpipe.planner.kv_ledger import BLOCK_TOKENS
from batchpipe.planner.query.cost import CallSeconds, ModelHost, load_seconds
from batchpipe.planner.query.placement import ModelSize
from batchpipe.planner.query.planning import Hardware


def hardware_of(
    options: Mapping[str, JobOptions],
    devices: Mapping[str, str],  # their kinds
    languages: Mapping[str, Language],
    call_seconds: Mapping[str, CallSeconds],
) -> Hardware:
    """The machine with these models, by their names in the workflow, and with these calls.

    Raises:
        ConfigError: a model's weights leave no room for keys
    """
    hosts: dict[str, ModelHost] = {}
    sizes: dict[str, ModelSize] = {}
    device_bytes = 0
    for name, asked in options.items():
        language = languages[name]
        dtype = planned_dtype(asked.dtype, language)
        target = target_of(
            asked, language.config, device=devices[name], dtype=dtype, elsewhere=True
        )
        cost = target.cost
        blocks = target.kv_blocks or blocks_on(cost.machine, cost.shape, dtype)
        hosts[name] = ModelHost(cost, blocks * BLOCK_TOKENS, target.step_tokens)
        weights = cost.shape.weight_bytes(dtype)
        # No answer is longer than the context, so keys for that many tokens are enough to work.
        tokens = min(language.context, hosts[name].kv_tokens)
        keys = tokens * cost.shape.kv_bytes_per_token(dtype)
        # Each of the GPUs that share a model has an equal part; what else is there has the rest.
        parts = asked.tensor_parallel if cost.machine.device == "cuda" else 1
        sizes[name] = ModelSize(-(-(weights + keys) // parts), load_seconds(weights))
        device_bytes = max(device_bytes, cost.machine.memory_bytes // parts)
    return Hardware(hosts, sizes, device_bytes, call_seconds)
