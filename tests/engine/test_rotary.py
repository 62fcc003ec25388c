"""Heads rotated by the compiled kernel: the numbers of the model's own code, and only for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, CohereConfig, LlamaConfig, Qwen3Config
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from batchpipe.engine.rotary import rotate_in_one_pass
from batchpipe.kernels import native, native_rows
from batchpipe.kernels.native import Instructions, Kernel

KERNEL = native.kernel()
pytestmark = pytest.mark.skipif(KERNEL is None, reason="nothing is compiled for this processor")
FORMS = [] if KERNEL is None else [i for i in Instructions if 0 < i <= KERNEL.instructions]
DTYPES = (torch.float32, torch.bfloat16)
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1e-2}


@given(
    st.sampled_from(FORMS or [Instructions.TOO_OLD]),
    st.sampled_from(DTYPES),
    st.integers(1, 9),
    st.integers(1, 5),
    st.integers(1, 9),
    st.booleans(),
)
def test_heads_are_turned_as_by_llama(
    form: Instructions, dtype: torch.dtype, tokens: int, heads: int, vectors: int, is_slice: bool
) -> None:
    assert KERNEL is not None
    width = vectors * 16
    draw = torch.Generator().manual_seed(tokens * 100 + heads)
    rows = torch.randn(tokens, heads + is_slice, width, generator=draw).to(dtype)
    given_heads = rows[:, is_slice:]
    cos, sin = torch.randn(2, tokens, width, generator=draw).to(dtype)
    whole = given_heads.transpose(0, 1).unsqueeze(0)
    expected, _ = apply_rotary_pos_emb(whole, whole, cos.unsqueeze(0), sin.unsqueeze(0))
    found = native_rows.rotate(given_heads, cos, sin, Kernel(KERNEL.library, form))
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(
        found, expected[0].transpose(0, 1), rtol=tolerance, atol=tolerance * 4
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("config_class", [LlamaConfig, Qwen3Config])
def test_a_model_rotates_in_one_pass_and_gives_its_scores(
    config_class: Any, dtype: torch.dtype
) -> None:
    model, ids = tiny(config_class).to(dtype), torch.arange(12).view(1, -1)
    with torch.inference_mode():
        expected = model(ids).logits.float()
        assert rotate_in_one_pass(model, dtype) == 2
        found = model(ids).logits.float()
    tolerance = float(expected.std()) * (1e-5 if dtype is torch.float32 else 0.1)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def test_rows_of_a_batch_go_through_the_models_own_code() -> None:
    model, ids = tiny(LlamaConfig), torch.arange(24).view(2, -1)
    with torch.inference_mode():
        expected = model(ids).logits
        rotate_in_one_pass(model, torch.float32)
        assert torch.equal(model(ids).logits, expected)


def test_other_models_of_the_class_are_left_alone() -> None:
    model, other = tiny(LlamaConfig), tiny(LlamaConfig)
    rotate_in_one_pass(model, torch.float32)
    assert modeling_llama.apply_rotary_pos_emb is apply_rotary_pos_emb
    assert "forward" not in vars(other.model.layers[0].self_attn)


def test_who_turns_neighbours_instead_of_halves_stays() -> None:
    assert rotate_in_one_pass(tiny(CohereConfig), torch.float32) == 0


def test_heads_that_no_vector_divides_stay() -> None:
    assert rotate_in_one_pass(tiny(LlamaConfig, head_dim=24), torch.float32) == 0


def tiny(config_class: Any, head_dim: int = 32) -> Any:
    config = config_class(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=head_dim,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
