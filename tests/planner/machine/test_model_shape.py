"""Sizes from configurations, against the modules that transformers builds from them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_models import TINY_MODELS
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    Glm4MoeConfig,
    GPT2Config,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OlmoeConfig,
    OPTConfig,
    PhiConfig,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
    Starcoder2Config,
)

from batchpipe.planner.machine.model_shape import UNBOUNDED, ModelShape

TOLERANCE = 0.02  # biases and the like

# On the meta device a model takes no memory, so that sizes can be those of real models.
MORE_MODELS: dict[str, Any] = {
    "gemma": lambda: GemmaConfig(num_hidden_layers=3),
    "glm4_moe": lambda: Glm4MoeConfig(num_hidden_layers=4, n_routed_experts=8),
    "gpt2": GPT2Config,
    "gpt_oss": lambda: GptOssConfig(num_hidden_layers=3, num_local_experts=8),
    "olmoe": lambda: OlmoeConfig(num_hidden_layers=3, num_experts=8),
    "opt": OPTConfig,
    "phi": lambda: PhiConfig(num_hidden_layers=3),
    "qwen2_moe": lambda: Qwen2MoeConfig(num_hidden_layers=3, num_experts=8),
    "qwen2_moe_every_second": lambda: Qwen2MoeConfig(
        num_hidden_layers=5, num_experts=8, decoder_sparse_step=2
    ),
    "qwen3_moe_some_dense": lambda: Qwen3MoeConfig(
        num_hidden_layers=5, num_experts=8, mlp_only_layers=[0, 3]
    ),
    "qwen3_moe_none_sparse": lambda: Qwen3MoeConfig(num_hidden_layers=2, mlp_only_layers=[0, 1]),
    "starcoder2": lambda: Starcoder2Config(num_hidden_layers=3),
}


def counted(config: Any) -> dict[str, int]:
    """Parameters of the built model by what they are for; norms are left out."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings().weight
    counts = {"linear": 0, "experts": 0, "head": head.numel(), "all": 0}
    for name, parameter in model.named_parameters():
        counts["all"] += parameter.numel()
        positions_or_tokens = any(part in name for part in ("embed", "wte", "wpe"))
        if parameter is head or positions_or_tokens or "norm" in name or ".ln_" in name:
            continue
        counts["experts" if ".experts." in name else "linear"] += parameter.numel()
    return counts


@pytest.mark.parametrize("name", [*TINY_MODELS, *MORE_MODELS])
def test_counts_are_those_of_the_built_model(name: str) -> None:
    config = (TINY_MODELS | MORE_MODELS)[name]()
    shape, counts = ModelShape.from_config(config), counted(config)
    assert shape.linear_parameters == pytest.approx(counts["linear"], rel=TOLERANCE)
    assert shape.expert_parameters == pytest.approx(counts["experts"], rel=TOLERANCE)
    assert shape.head_parameters == counts["head"]
    assert shape.parameters == pytest.approx(counts["all"], rel=TOLERANCE)
    assert shape.weight_bytes("bfloat16") == 2 * shape.parameters
    assert shape.weight_bytes("float32") == 4 * shape.parameters
    assert shape.tied_head == config.tie_word_embeddings
    assert bool(shape.experts) == bool(shape.expert_parameters) == bool(shape.experts_per_token)


@pytest.mark.parametrize(("kind", "least", "most"), [("int8", 1, 1), ("int4", 0.5, 0.55)])
def test_linear_weights_alone_are_quantized(kind: str, least: float, most: float) -> None:
    shape = replace(ModelShape.from_config(TINY_MODELS["mixtral"]()), quantize=kind)
    others = 2 * (shape.parameters - shape.linear_parameters)
    assert shape.expert_parameters > 0
    linear = shape.weight_bytes("bfloat16") - others
    assert least * shape.linear_parameters <= linear <= most * shape.linear_parameters


LLAMA_31_8B = LlamaConfig(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    max_position_embeddings=131072,
)
QWEN3_30B_A3B = Qwen3MoeConfig(
    vocab_size=151936,
    hidden_size=2048,
    intermediate_size=6144,
    moe_intermediate_size=768,
    num_hidden_layers=48,
    num_attention_heads=32,
    num_key_value_heads=4,
    head_dim=128,
    num_experts=128,
    num_experts_per_tok=8,
)
MIXTRAL_8X7B = MixtralConfig(
    vocab_size=32000,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    num_local_experts=8,
    num_experts_per_tok=2,
)


@pytest.mark.parametrize(
    ("config", "published", "published_active"),
    [
        (LLAMA_31_8B, 8.03e9, 8.03e9),
        (QWEN3_30B_A3B, 30.5e9, 3.3e9),
        (MIXTRAL_8X7B, 46.7e9, 12.9e9),
    ],
    ids=["llama-3.1-8b", "qwen3-30b-a3b", "mixtral-8x7b"],
)
def test_sizes_are_the_published_ones(
    config: Any, published: float, published_active: float
) -> None:
    shape = ModelShape.from_config(config)
    assert shape.parameters == pytest.approx(published, rel=0.005)
    # Publishers count the embedding as active too; it is looked up, and nothing is multiplied.
    embedding = shape.vocab * shape.hidden
    assert shape.active_parameters + embedding == pytest.approx(published_active, rel=TOLERANCE)


def test_router_of_a_layer_without_experts_counts_nothing() -> None:
    dense = Qwen3MoeConfig(num_hidden_layers=2, mlp_only_layers=[0, 1])
    shape = ModelShape.from_config(dense)
    assert (shape.experts, shape.experts_per_token, shape.expert_parameters) == (0, 0, 0)
    assert shape.active_parameters == shape.linear_parameters + shape.head_parameters


def test_tied_head_is_stored_once() -> None:
    tied, apart = (
        ModelShape.from_config(LlamaConfig(tie_word_embeddings=tied)) for tied in (True, False)
    )
    assert apart.parameters - tied.parameters == tied.head_parameters
    assert apart.active_parameters == tied.active_parameters


QWEN_WINDOW = {"num_hidden_layers": 4, "sliding_window": 32, "max_window_layers": 3}


@pytest.mark.parametrize(
    ("config", "windows"),
    [
        (LlamaConfig(num_hidden_layers=2), (0, 0)),
        (MistralConfig(num_hidden_layers=3, sliding_window=4096), (4096,) * 3),
        (MistralConfig(num_hidden_layers=3, sliding_window=None), (0,) * 3),
        (Qwen2Config(**QWEN_WINDOW), (0,) * 4),
        (Qwen2Config(**QWEN_WINDOW, use_sliding_window=True), (0, 0, 0, 32)),
        (Qwen3MoeConfig(num_hidden_layers=2, sliding_window=32), (0, 0)),
        (Gemma2Config(), (4096, 0) * 13),
        (
            Gemma3TextConfig(num_hidden_layers=14, sliding_window=512),
            ((512,) * 5 + (0,)) * 2 + (512,) * 2,
        ),
        (GptOssConfig(num_hidden_layers=4), (128, 0) * 2),
        (GPT2Config(n_layer=2), (0, 0)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_layer_has_its_window(config: Any, windows: tuple[int, ...]) -> None:
    assert ModelShape.from_config(config).windows == windows


SIZES = {"num_attention_heads": 4, "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100}


@pytest.mark.parametrize("missing", list(SIZES))
def test_missing_size_is_named(missing: str) -> None:
    sizes = {name: size for name, size in SIZES.items() if name != missing}
    with pytest.raises(AttributeError) as raised:
        ModelShape.from_config(SimpleNamespace(**sizes))
    assert raised.value.name == missing


def test_a_configuration_of_the_least_sizes_is_read() -> None:
    shape = ModelShape.from_config(SimpleNamespace(**SIZES))
    assert (shape.kv_heads, shape.head_dim, shape.context) == (4, 16, UNBOUNDED)
    assert shape.linear_parameters == 2 * (4 * 64 * 64 + 8 * 64 * 64)  # GPT-2's proportions
    assert shape.windows == (0, 0)
    assert shape.kv_bytes_per_token("float32") == 2 * 2 * 64 * 4


def test_widths_that_differ_by_layer_count_each_once() -> None:
    shape = ModelShape.from_config(SimpleNamespace(**SIZES, intermediate_size=[100, 200]))
    assert shape.linear_parameters == 2 * 4 * 64 * 64 + 3 * 64 * (100 + 200)
