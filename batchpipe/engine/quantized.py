"""Weights quantised as they load: torchao rounds them. The only file that imports it.

On CUDA a layer is computed by torchao's kernels as well. On a CPU torchao would make every weight
whole again at each product, so there its integers go into layers of our own (`quantized_linear`).

What is quantised are the plain linear layers of the model's blocks. Embeddings, norms, the output
head and the experts of mixtures, which are no linear layers in transformers, stay as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from batchpipe.engine.host_memory import return_freed_memory
from batchpipe.engine.quantized_linear import Int4Linear, Int8Linear
from batchpipe.errors import ConfigError

GROUPS = (128, 64, 32)  # columns of an int4 weight that may share a scale, the largest first
FLOAT8_MULTIPLE = 16  # of both sizes of a weight that the float8 matrix units take

# Kind -> compute capability and dtypes that torchao's kernel needs: float8 Hopper, int4's tinygemm
# Ampere. The sums of int8, which are scaled afterwards, would overflow in float16.
ON_A_GPU = {
    "int8": ((0, 0), ("float32", "bfloat16")),
    "int4": ((8, 0), ("bfloat16",)),
    "float8": ((9, 0), ("bfloat16",)),
}


def check_quantizable(
    name: str, config: Any, quantize: str, *, device: torch.device, dtype: str
) -> None:
    """The model can be quantised so on this device, as far as can be told without its weights.

    Raises:
        ConfigError: torchao is absent, the device or dtype does not compute the kind, or a layer
            does not take it
    """
    _import_torchao(quantize)
    _check_device(quantize, device, dtype)
    with torch.device("meta"):  # the layers and their sizes, without memory
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    check_layers(name, model, quantize)


def check_layers(name: str, model: nn.Module, quantize: str) -> None:
    """The model has linear layers, and each takes this kind of weight; `ConfigError` else."""
    layers = quantized_layers(model)
    if not layers:
        raise ConfigError(
            f"model {name} has no linear layers for --quantize {quantize}; leave the option out"
        )
    for place, linear in layers:
        sizes = f"{linear.in_features} columns and {linear.out_features} rows"
        if quantize == "int4" and group_of(linear.in_features) is None:
            raise ConfigError(
                f"model {name}: layer {place} has {sizes}, and --quantize int4 needs columns that "
                f"are a multiple of {GROUPS[-1]}; choose int8"
            )
        if quantize == "float8" and (linear.in_features | linear.out_features) % FLOAT8_MULTIPLE:
            raise ConfigError(
                f"model {name}: layer {place} has {sizes}, and --quantize float8 needs multiples "
                f"of {FLOAT8_MULTIPLE}; choose int8"
            )


def quantized_layers(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    """Name and layer of what is quantised: every plain linear layer but the head."""
    find_head: Any = getattr(model, "get_output_embeddings", lambda: None)
    head = find_head()
    return [
        (place, layer)
        for place, layer in model.named_modules()
        if type(layer) is nn.Linear and layer is not head
    ]


def group_of(in_features: int) -> int | None:
    """Columns of an int4 weight that share a scale: the largest group that divides them."""
    return next((group for group in GROUPS if in_features % group == 0), None)


def quantize_linears(model: nn.Module, quantize: str, device: torch.device) -> int:
    """The model's layers hold quantised weights on the device; returns how many do.

    One after the other: beside the model there is never more than one layer in two forms, and what
    goes to a GPU goes there a layer at a time.
    """
    torchao = _import_torchao(quantize)
    places = [place for place, _ in quantized_layers(model)]  # names: a layer that is done shall go
    for place in places:
        linear: Any = model.get_submodule(place).to(device)
        torchao.quantize_(linear, _configuration(torchao, quantize, linear, device))
        if device.type == "cpu":
            model.set_submodule(place, _our_layer(quantize, linear))
            del linear
            return_freed_memory()
    return len(places)


def _our_layer(quantize: str, linear: Any) -> nn.Module:
    """The layer with the integers and scales of torchao's weight, the scales in its dtype."""
    weight = linear.weight
    scale = weight.scale.to(weight.dtype)
    if quantize == "int8":
        return Int8Linear(weight.qdata, scale.flatten(), linear.bias)
    return Int4Linear(weight.qdata, scale, linear.bias)


def _configuration(torchao: Any, quantize: str, linear: nn.Linear, device: torch.device) -> Any:
    """How torchao rounds this layer's weight."""
    if quantize == "int8":
        return torchao.Int8WeightOnlyConfig(set_inductor_config=False)
    if quantize == "float8":
        return torchao.Float8DynamicActivationFloat8WeightConfig(
            granularity=torchao.PerRow(), set_inductor_config=False
        )
    group = group_of(linear.in_features)
    if device.type == "cpu":
        four_bits: Any = getattr(torch, "int4")  # noqa: B009  torch's stubs leave it out
        return torchao.IntxWeightOnlyConfig(
            weight_dtype=four_bits, granularity=torchao.PerGroup(group)
        )
    return torchao.Int4WeightOnlyConfig(
        group_size=group, int4_packing_format="tile_packed_to_4d", set_inductor_config=False
    )


def _check_device(quantize: str, device: torch.device, dtype: str) -> None:
    """`ConfigError` where the device or the dtype does not compute this kind of weight."""
    if device.type == "cpu":
        if quantize == "float8":
            raise ConfigError(
                "--quantize float8 needs a Hopper GPU (H100, H200) or newer, and the device is "
                "cpu; choose int8 or int4"
            )
        return
    needed, dtypes = ON_A_GPU[quantize]
    found = torch.cuda.get_device_capability(device)
    if found < needed:
        raise ConfigError(
            f"--quantize {quantize} needs a GPU of compute capability {needed[0]}.{needed[1]}, and "
            f"{torch.cuda.get_device_name(device)} has {found[0]}.{found[1]}; choose int8"
        )
    if dtype not in dtypes:
        raise ConfigError(
            f"--quantize {quantize} computes in {' or '.join(dtypes)} on a GPU, and the dtype is "
            f"{dtype}; give --dtype {dtypes[-1]}"
        )


def _import_torchao(quantize: str) -> Any:
    """torchao's module of quantisation, or `ConfigError` where it is not installed."""
    try:
        import torchao.quantization
    except ImportError as error:
        raise ConfigError(
            f"--quantize {quantize} needs torchao ({error}): pip install 'batchpipe[quant]'"
        ) from error
    return torchao.quantization
