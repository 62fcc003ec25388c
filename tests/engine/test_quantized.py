"""Quantised weights: the products are those of the rounded weights, the tokens `generate`'s."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import assert_same_tokens, greedy_answers
from test_against_generate import answers, mixed_prompts
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, LlamaConfig

from batchpipe.engine.model import load_model
from batchpipe.engine.quantized import check_quantizable, group_of, quantize_linears
from batchpipe.engine.quantized_linear import INT8_KERNEL_ROWS, Int4Linear, Int8Linear
from batchpipe.engine.self_check import check_attention
from batchpipe.errors import ConfigError
from batchpipe.planner.machine.model_shape import ModelShape
from batchpipe.planner.request import Sampling

CPU = torch.device("cpu")
KINDS = {"int8": Int8Linear, "int4": Int4Linear}
# A sum of 96 products; bfloat16 keeps 8 bits of the inputs' products and of their scale.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
Model = Callable[[str], Path]


class Pair(nn.Module):
    """A layer to quantise, and the same layer whole."""

    def __init__(self, in_features: int, out_features: int, dtype: torch.dtype, bias: bool) -> None:
        super().__init__()
        torch.manual_seed(in_features)
        whole = nn.Linear(in_features, out_features, bias=bias).to(dtype).requires_grad_(False)
        self.whole_weight = whole.weight.clone()
        self.layer = whole


def quantized(kind: str, dtype: torch.dtype, *, width: int = 96, bias: bool = True) -> Pair:
    pair = Pair(width, 80, dtype, bias)
    assert quantize_linears(pair, kind, CPU) == 1
    assert type(pair.layer) is KINDS[kind]
    return pair


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [0, 1, INT8_KERNEL_ROWS, INT8_KERNEL_ROWS + 1, 33])
def test_a_layer_multiplies_by_its_rounded_weight(
    kind: str, dtype: torch.dtype, bias: bool, rows: int
) -> None:
    layer: Any = quantized(kind, dtype, bias=bias).layer
    inputs = torch.randn(1, rows, 96, generator=torch.Generator().manual_seed(rows)).to(dtype)
    exact = inputs.double() @ layer.weight().double().T
    exact += layer.bias.double() if bias else 0
    found = layer(inputs)
    assert (found.dtype, found.shape) == (dtype, (1, rows, 80))
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(found.double(), exact, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_large_inputs_stay_finite_in_half_precision(kind: str) -> None:
    layer: Any = quantized(kind, torch.float16).layer
    assert layer(torch.full((8, 96), 1000.0, dtype=torch.float16)).isfinite().all()


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("kind", "levels"), [("int8", 127), ("int4", 7)])
def test_a_weight_is_rounded_to_the_nearest_level_of_its_scale(
    kind: str, levels: int, dtype: torch.dtype
) -> None:
    pair = quantized(kind, dtype)
    layer: Any = pair.layer
    columns = 96 if kind == "int8" else group_of(96)
    grouped = pair.whole_weight.double().view(80, -1, columns)
    half_a_level = grouped.abs().amax(-1, keepdim=True) / levels / 2
    error = (layer.weight().double().view(grouped.shape) - grouped).abs()
    rounding = grouped.abs() * torch.finfo(dtype).eps  # of the scale
    assert (error <= half_a_level * 1.01 + rounding).all()


def test_int4_takes_the_largest_group_that_divides() -> None:
    assert [group_of(width) for width in (1024, 128, 192, 96, 32)] == [128, 128, 64, 32, 32]
    assert group_of(80) is None


def test_integers_take_the_bytes_that_the_plan_counts(tiny_model: Model) -> None:
    config = AutoConfig.from_pretrained(tiny_model("llama"))
    shape = ModelShape.from_config(config)
    for kind, layer_bytes in (("int8", 1.0), ("int4", 0.5)):
        model = load_model(
            str(tiny_model("llama")), config, dtype="bfloat16", device=CPU, quantize=kind
        )
        layers = [each for each in model.modules() if type(each) is KINDS[kind]]
        kept = [each.values if kind == "int8" else each.packed for each in layers]
        assert sum(each.nbytes for each in kept) == shape.linear_parameters * layer_bytes
        assert len(layers) == 7 * shape.layers
        assert type(model.lm_head) not in KINDS.values()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llama", "llama_bias", "gemma2", "phi3", "gpt_neox", "qwen3_moe"])
def test_tokens_equal_generate_of_the_same_quantized_model(
    tiny_model: Model, name: str, kind: str
) -> None:
    prompts = mixed_prompts()
    config = AutoConfig.from_pretrained(tiny_model(name))
    model = load_model(str(tiny_model(name)), config, dtype="float32", device=CPU, quantize=kind)
    reference = greedy_answers(model, prompts, 16)
    samplings = [Sampling(max_tokens=16)] * len(prompts)
    found, _ = answers(tiny_model(name), prompts, samplings, quantize=kind)
    assert_same_tokens([list(answer.token_ids) for answer in found], reference)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_quantized_model_passes_the_self_check(tiny_model: Model, kind: str, dtype: str) -> None:
    config = AutoConfig.from_pretrained(tiny_model("qwen3"))
    model = load_model(str(tiny_model("qwen3")), config, dtype=dtype, device=CPU, quantize=kind)
    check_attention(model, ModelShape.from_config(config), "qwen3")


def test_quantized_scores_are_near_the_whole_models(tiny_model: Model) -> None:
    """8 bits lose little, 4 bits more: neither is a copy of the weights."""
    prompt = torch.from_numpy(np.random.default_rng(0).integers(0, 380, (1, 40)))
    config = AutoConfig.from_pretrained(tiny_model("llama"))
    with torch.inference_mode():
        whole = AutoModelForCausalLM.from_pretrained(tiny_model("llama")).eval()(prompt).logits
        errors = {}
        for kind in KINDS:
            model = load_model(
                str(tiny_model("llama")), config, dtype="float32", device=CPU, quantize=kind
            )
            errors[kind] = float((model(prompt).logits - whole).abs().median() / whole.std())
    assert 0 < errors["int8"] < 0.1 < errors["int4"]


def refusal(config: Any, kind: str, device: torch.device = CPU) -> str:
    with pytest.raises(ConfigError) as refused:
        check_quantizable("some/name", config, kind, device=device, dtype="bfloat16")
    return str(refused.value)


def test_a_layer_that_no_group_divides_is_named() -> None:
    sizes = {"num_hidden_layers": 1, "vocab_size": 96, "num_attention_heads": 4}
    config = LlamaConfig(hidden_size=64, intermediate_size=72, **sizes)
    check_quantizable("some/name", config, "int8", device=CPU, dtype="bfloat16")
    sentence = refusal(config, "int4")
    assert "model some/name: layer model.layers.0.mlp.down_proj has 72 columns" in sentence
    assert "a multiple of 32; choose int8" in sentence


def test_a_model_without_linear_layers_is_named() -> None:
    config = GPT2Config(n_embd=32, n_layer=1, n_head=4, n_positions=64, vocab_size=96)
    assert "model some/name has no linear layers for --quantize int8" in refusal(config, "int8")


def test_float8_needs_a_gpu() -> None:
    sentence = refusal(LlamaConfig(), "float8")
    assert "--quantize float8 needs a Hopper GPU" in sentence
    assert "the device is cpu; choose int8 or int4" in sentence


@pytest.mark.parametrize(("kind", "needed"), [("float8", "9.0"), ("int4", "8.0")])
def test_an_old_gpu_is_named(kind: str, needed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    sentence = refusal(LlamaConfig(), kind, torch.device("cuda"))
    assert f"needs a GPU of compute capability {needed}, and Tesla T4 has 7.5" in sentence


@pytest.mark.parametrize(
    ("kind", "dtype"), [("int4", "float32"), ("float8", "float32"), ("int8", "float16")]
)
def test_a_gpu_computes_each_kind_in_its_dtypes(
    kind: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    with pytest.raises(ConfigError, match=f"the dtype is {dtype}; give --dtype bfloat16"):
        check_quantizable(
            "some/name", LlamaConfig(), kind, device=torch.device("cuda"), dtype=dtype
        )


def test_torchao_that_is_absent_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    monkeypatch.setitem(sys.modules, "torchao", None)
    assert "--quantize int8 needs torchao" in refusal(LlamaConfig(), "int8")
    assert "pip install 'batchpipe[quant]'" in refusal(LlamaConfig(), "int8")
