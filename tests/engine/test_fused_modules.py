"""Fused norms and MLPs: the numbers of the modules they stand for, and only for those."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from batchpipe.engine.fused import FusedGatedMLP, FusedRMSNorm, fuse
from batchpipe.kernels import native, native_rows
from batchpipe.kernels.native import Instructions, Kernel

KERNEL = native.kernel()
pytestmark = pytest.mark.skipif(KERNEL is None, reason="nothing is compiled for this processor")
FORMS = [] if KERNEL is None else [i for i in Instructions if 0 < i <= KERNEL.instructions]
DTYPES = (torch.float32, torch.bfloat16)
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2}


def using(form: Instructions) -> Kernel:
    assert KERNEL is not None
    return Kernel(KERNEL.library, form)


@given(
    st.sampled_from(FORMS or [Instructions.TOO_OLD]),
    st.sampled_from(DTYPES),
    st.integers(1, 9),
    st.integers(1, 7),
    st.floats(1e-3, 1e3),
)
def test_a_norm_is_llamas(
    form: Instructions, dtype: torch.dtype, rows: int, vectors: int, size: float
) -> None:
    width = vectors * 16
    draw = torch.Generator().manual_seed(rows * 100 + vectors)
    inputs = (torch.randn(2, rows, width, generator=draw) * size).to(dtype)
    norm = LlamaRMSNorm(width, eps=1e-6)
    norm.weight.data = torch.randn(width, generator=draw)
    norm = norm.to(dtype).requires_grad_(False)
    found = native_rows.rms_norm(inputs, norm.weight, 1e-6, using(form))
    torch.testing.assert_close(found, norm(inputs), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@given(st.sampled_from(FORMS or [Instructions.TOO_OLD]), st.sampled_from(DTYPES), st.integers(1, 9))
def test_gates_are_silu_of_any_number(form: Instructions, dtype: torch.dtype, rows: int) -> None:
    edges = torch.tensor([0.0, -0.0, 1.0, -1.0, 20.0, -20.0, 88.0, -88.0, 1e4, -1e4, 3e38, -3e38])
    gates = torch.cat([edges, torch.linspace(-9, 9, 20)]).repeat(rows, 1).to(dtype)
    others = torch.linspace(-2, 2, gates.numel()).view_as(gates).to(dtype)
    expected = nn.functional.silu(gates) * others
    found = native_rows.open_gates_(gates.clone(), others, using(form))
    torch.testing.assert_close(found, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_a_number_that_is_none_stays_one() -> None:
    rows = torch.ones(3, 32)
    rows[1, 5] = float("nan")
    normed = native_rows.rms_norm(rows, torch.ones(32), 1e-6)
    assert normed.isnan().all(dim=1).tolist() == [False, True, False]
    opened = native_rows.open_gates_(rows, torch.ones(3, 32))
    assert opened.isnan().sum() == 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_norm_and_mlp_of_a_llama_is_fused_and_gives_its_scores(dtype: torch.dtype) -> None:
    model = llama(hidden_act="silu").to(dtype)
    ids = torch.arange(12).view(1, -1)
    with torch.inference_mode():
        expected = model(ids).logits
        assert fuse(model, dtype) == 2 * 3 + 1
        found = model(ids).logits
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(FusedRMSNorm) == 5
    assert kinds.count(FusedGatedMLP) == 2
    spread = float(expected.float().std())
    difference = (found - expected).float().abs().max()
    assert difference < spread * (1e-5 if dtype is torch.float32 else 0.1)


def test_what_computes_something_else_stays() -> None:
    model = llama(hidden_act="gelu")
    model.model.norm = GemmaRMSNorm(32)
    assert fuse(model, torch.float32) == 4  # the layers' norms
    assert type(model.model.norm) is GemmaRMSNorm
    assert type(model.model.layers[0].mlp) is LlamaMLP


def test_widths_that_no_vector_divides_stay() -> None:
    assert fuse(nn.Sequential(LlamaRMSNorm(30)), torch.float32) == 0


def test_loading_fuses(tiny_model: Any) -> None:
    from batchpipe.engine.model import load_model

    folder: Path = tiny_model("llama")
    config = AutoConfig.from_pretrained(folder)
    model = load_model(str(folder), config, dtype="float32", device=torch.device("cpu"))
    assert any(isinstance(module, FusedRMSNorm) for module in model.modules())


def llama(hidden_act: str) -> Any:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        hidden_act=hidden_act,
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def test_a_norm_takes_rows_of_another_dtype_as_its_model_does() -> None:
    norm = LlamaRMSNorm(32, eps=1e-6).bfloat16().requires_grad_(False)
    rows = torch.randn(3, 32)
    torch.testing.assert_close(FusedRMSNorm(norm)(rows), norm(rows))
