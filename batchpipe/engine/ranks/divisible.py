"""Which models can be divided among so many devices; all that can be told before one loads."""

from __future__ import annotations

from importlib.util import find_spec
from math import gcd
from typing import Any, NoReturn

import torch
from transformers import AutoModelForCausalLM

from batchpipe.errors import ConfigError
from batchpipe.planner.machine.model_shape import ModelShape

# What a plan of transformers calls projections that give keys, and the style that divides them.
KEY_PROJECTIONS = ("k_proj", "qkv_proj", "query_key_value")
DIVIDING = "colwise"


def check_divisible(name: str, config: Any, shape: ModelShape, ranks: int) -> None:
    """The model's heads, keys and weights can be divided among so many ranks.

    Raises:
        ConfigError: they cannot, and how many ranks could have them
    """
    if find_spec("accelerate") is None:
        _refuse(
            ranks,
            "it needs the package accelerate, which is not installed: "
            "pip install 'batchpipe[tensor-parallel]'",
        )
    if find_spec("transformers.distributed") is None or not _has_distributed_config():
        _refuse(ranks, "it needs transformers 5.17 or newer; pip install -U transformers")
    if getattr(config, "quantization_config", None) is not None:
        _refuse(ranks, f"the weights of model {name} are quantised; give the model without that")
    with torch.device("meta"):  # the plan, without memory
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    plan: dict[str, str] = getattr(model, "_tp_plan", None) or {}
    if not plan:
        _refuse(ranks, f"transformers has no plan to divide a {type(model).__name__}")
    if not any(
        place.rpartition(".")[2] in KEY_PROJECTIONS and style == DIVIDING
        for place, style in plan.items()
    ):
        _refuse(
            ranks,
            f"transformers' plan for {type(model).__name__} keeps all keys and values on every "
            f"device",
        )
    if shape.heads % ranks or shape.kv_heads % ranks:
        most = gcd(shape.heads, shape.kv_heads)
        fits = [str(number) for number in range(1, most + 1) if most % number == 0]
        _refuse(
            ranks,
            f"model {name} has {shape.heads} attention heads and {shape.kv_heads} of keys and "
            f"values, which so many devices cannot share evenly; give {' or '.join(fits)}",
        )


def _has_distributed_config() -> bool:
    import transformers.distributed

    return hasattr(transformers.distributed, "DistributedConfig")


def _refuse(ranks: int, why: str) -> NoReturn:
    raise ConfigError(f"--tensor-parallel {ranks}: {why}")
