"""Whether several devices can share a model, as far as can be told before it loads.

Options, the model's configuration and this machine tell it; no torch is needed.
"""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from math import gcd
from pathlib import Path
from typing import Any, NoReturn

from batchpipe.config import ENGINES, JobOptions, parse_host_bytes
from batchpipe.errors import ConfigError
from batchpipe.planner.machine.model_shape import ModelShape

# What a plan of transformers calls projections that give keys, and the style that divides them.
KEY_PROJECTIONS = ("k_proj", "qkv_proj", "query_key_value")
DIVIDING = "colwise"


def check_sharing(options: JobOptions) -> None:
    """Nothing else that is asked for keeps devices from sharing the model.

    Raises:
        ConfigError: the engine, rounded weights or memory on the host do
    """
    wanted = options.tensor_parallel
    if wanted == 1:
        return
    if options.engine != ENGINES[0]:
        raise ConfigError(
            f"--tensor-parallel {wanted} is of --engine {ENGINES[0]} alone; a server is started "
            f"with it, such as vllm serve --tensor-parallel-size {wanted}"
        )
    if options.quantize is not None:
        _refuse(
            options,
            f"--quantize {options.quantize} rounds weights that are whole on one device; leave one "
            f"of the two out",
        )
    if parse_host_bytes(options.host_kv_memory):
        _refuse(
            options,
            f"--host-kv-memory {options.host_kv_memory} is for a model on one device; leave one of "
            f"the two out",
        )


def check_devices(options: JobOptions, found: int) -> None:
    """This machine, which has so many CUDA devices, has those that are to share the model.

    Raises:
        ConfigError: it has fewer, or has some and the model is to be on its processor
    """
    if options.device == "cpu":
        if found:  # transformers divides over these, whatever is asked
            raise ConfigError(
                f"--tensor-parallel {options.tensor_parallel} --device cpu: hide this machine's "
                f"CUDA devices, CUDA_VISIBLE_DEVICES="
            )
        return
    if found < options.tensor_parallel:
        here = f"{found} CUDA device{'' if found == 1 else 's'}" if found else "no CUDA device"
        _refuse(
            options,
            f"this machine has {here}; --quantize makes a model smaller, and a server that has the "
            f"devices is asked by --engine openai",
        )


def cuda_devices_here() -> int:
    """The CUDA devices that torch would find, without it: a plan does not load it."""
    found = sum(bool(re.fullmatch(r"nvidia\d+", path.name)) for path in Path("/dev").glob("nv*"))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return found
    return min(found, len([each for each in visible.split(",") if each.strip() not in ("", "-1")]))


def check_installed(options: JobOptions) -> None:
    """The packages are there that divide a model.

    Raises:
        ConfigError: one is not, and the line that installs it
    """
    if find_spec("accelerate") is None:
        _refuse(
            options,
            "it needs the package accelerate, which is not installed: "
            "pip install 'batchpipe[tensor-parallel]'",
        )
    if find_spec("transformers.distributed") is None or not _has_distributed_config():
        _refuse(options, "it needs transformers 5.17 or newer; pip install -U transformers")


def check_divisible(options: JobOptions, config: Any, shape: ModelShape) -> None:
    """The model's heads, keys and weights can be divided among so many devices.

    Raises:
        ConfigError: they cannot, and among how many they could
    """
    if getattr(config, "quantization_config", None) is not None:
        _refuse(
            options, f"the weights of model {options.model} are quantised; give the model without"
        )
    plan: dict[str, str] = getattr(config.get_text_config(), "base_model_tp_plan", None) or {}
    kind = (getattr(config, "architectures", None) or [type(config).__name__])[0]
    if not plan:
        _refuse(options, f"transformers has no plan to divide a {kind}")
    if not any(
        place.rpartition(".")[2] in KEY_PROJECTIONS and style == DIVIDING
        for place, style in plan.items()
    ):
        _refuse(options, f"transformers' plan for {kind} keeps all keys and values on every device")
    ranks = options.tensor_parallel
    if shape.heads % ranks or shape.kv_heads % ranks:
        most = gcd(shape.heads, shape.kv_heads)
        fits = [str(number) for number in range(1, most + 1) if most % number == 0]
        _refuse(
            options,
            f"model {options.model} has {shape.heads} attention heads and {shape.kv_heads} of keys "
            f"and values, which so many devices cannot share evenly; give {' or '.join(fits)}",
        )


def _has_distributed_config() -> bool:
    import transformers.distributed

    return hasattr(transformers.distributed, "DistributedConfig")


def _refuse(options: JobOptions, why: str) -> NoReturn:
    raise ConfigError(f"--tensor-parallel {options.tensor_parallel}: {why}")
