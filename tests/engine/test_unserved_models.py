"""A model is served exactly, or refused by name with the reason."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import TINY_MODELS
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BloomConfig,
    DeepseekV3Config,
    GPT2Config,
    GPTBigCodeConfig,
    MambaConfig,
    T5Config,
)

from batchpipe.engine.attention import PagedAttention
from batchpipe.engine.model import load_model, refuse_by_class
from batchpipe.engine.self_check import check_attention
from batchpipe.engine.served import refuse_by_config
from batchpipe.errors import ConfigError, UnsupportedModelError
from batchpipe.planner.machine.model_shape import ModelShape

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (T5Config(), "it is an encoder-decoder"),
        (MambaConfig(), "it has linear_attention layers"),
        (DeepseekV3Config(), "keys and values of different sizes"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_refused_by_configuration(config: Any, reason: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"model some/name .*{reason}"):
        refuse_by_config("some/name", config)


def test_refused_by_class() -> None:
    with pytest.raises(UnsupportedModelError, match=r"BloomConfig.*attention interface"):
        refuse_by_class("some/name", BloomConfig())


@pytest.mark.parametrize("name", list(TINY_MODELS))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_served_models_pass_the_self_check(
    tiny_model: Callable[[str], Path], name: str, dtype: str
) -> None:
    config = AutoConfig.from_pretrained(tiny_model(name))
    refuse_by_class(name, config)
    model = load_model(str(tiny_model(name)), config, dtype=dtype, device=CPU)
    check_attention(model, ModelShape.from_config(config), name)


@pytest.mark.parametrize("family", [GPT2Config, GPTBigCodeConfig])
def test_other_families_are_served_exactly_or_refused(family: Any, tmp_path: Path) -> None:
    config = family(n_embd=32, n_layer=2, n_head=4, n_positions=64, vocab_size=96)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with suppress(UnsupportedModelError):
        refuse_by_class("family", config)
        model = load_model(str(tmp_path), config, dtype="float32", device=CPU)
        check_attention(model, ModelShape.from_config(config), "family")


def test_an_encoder_is_refused_though_its_code_would_run(tmp_path: Path) -> None:
    """Its queries see keys to their right, which only the scores reveal."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BertConfig(vocab_size=96, intermediate_size=64, **sizes)
    made = AutoModelForCausalLM.from_config(config)
    for weight in made.parameters():
        weight.data.mul_(10 if weight.ndim > 1 else 1)  # a plain initialisation hardly attends
    made.save_pretrained(tmp_path)
    model = load_model(str(tmp_path), config, dtype="float32", device=CPU)
    with pytest.raises(UnsupportedModelError, match=r"model encoder .* cannot be served"):
        check_attention(model, ModelShape.from_config(config), "encoder")


def test_a_wrong_attention_is_noticed(
    tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check sees a window that the model's own attention does not have."""
    from batchpipe.kernels import attention, native

    config = AutoConfig.from_pretrained(tiny_model("llama"))
    model = load_model(str(tiny_model("llama")), config, dtype="float32", device=CPU)
    monkeypatch.setattr(native, "kernel", lambda: None)
    monkeypatch.setattr(attention, "merge_into", lambda *parts: None)  # shared parts get lost
    with pytest.raises(UnsupportedModelError, match=r"model here .* differ from its own"):
        check_attention(model, ModelShape.from_config(config), "here")


def test_a_checkpoint_without_all_weights_is_refused(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    config = AutoConfig.from_pretrained(tiny_model("llama"))
    weights = load_file(tiny_model("llama") / "model.safetensors")
    lost = "model.layers.1.mlp.up_proj.weight"
    del weights[lost]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=f"lacks 1 weights, among them {lost}"):
        load_model(str(tmp_path), config, dtype="float32", device=CPU)


def test_a_weight_of_another_shape_is_refused(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    config = AutoConfig.from_pretrained(tiny_model("llama"))
    weights = load_file(tiny_model("llama") / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"] = torch.zeros(3, 5)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="its weights cannot be loaded"):
        load_model(str(tmp_path), config, dtype="float32", device=CPU)


def test_an_attention_with_unknown_tensors_is_refused_by_the_models_name(
    tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = AutoConfig.from_pretrained(tiny_model("llama"))
    model = load_model(str(tiny_model("llama")), config, dtype="float32", device=CPU)
    forward = PagedAttention.attend
    bias = {"position_bias": torch.zeros(1)}
    monkeypatch.setattr(PagedAttention, "attend", lambda *a, **k: forward(*a, **k, **bias))
    with pytest.raises(UnsupportedModelError, match=r"model here .* for position_bias"):
        check_attention(model, ModelShape.from_config(config), "here")
