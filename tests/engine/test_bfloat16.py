"""In bfloat16 the engine is as near to float32 as transformers' own bfloat16 is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import TINY_MODELS
from transformers import AutoConfig, AutoModelForCausalLM

from batchpipe.engine.model import bind, load_model
from batchpipe.engine.token_batch import form
from batchpipe.planner.kv_ledger import KVLedger
from batchpipe.planner.machine.model_shape import ModelShape
from batchpipe.planner.planning import make_plan
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.planner.schedule.pace import Full
from batchpipe.planner.schedule.token_batcher import TokenBatcher

BLOCKS = 200


def prompts_with_a_long_prefix() -> list[list[int]]:
    """Enough queries below one prefix for the dense path, a single, and one prompt apart."""
    rng = np.random.default_rng(1)
    prefix = rng.integers(0, 380, 90).tolist()
    lengths = (1, 9, 17, 33, 40)
    return [prefix + rng.integers(0, 380, n).tolist() for n in lengths] + [prefix[10:40]]


def engine_logits(model_dir: Path, prompts: list[list[int]], dtype: str) -> torch.Tensor:
    device = torch.device("cpu")
    config = AutoConfig.from_pretrained(model_dir)
    model = load_model(str(model_dir), config, dtype=dtype, device=device)
    decoder = bind(model, ModelShape.from_config(config), BLOCKS)
    plan = make_plan(Prompts.pack(prompts), [Sampling(max_tokens=1)] * len(prompts))
    step = TokenBatcher(plan, KVLedger(BLOCKS), Full(4096)).next_step()
    assert step is not None
    batch = form(step.all_chunks(), device)
    logits = decoder.logits(batch)
    assert len(logits) == len(prompts)
    return logits[np.argsort([sequence.index for sequence in batch.sequences])]


def own_logits(model_dir: Path, prompts: list[list[int]], dtype: torch.dtype) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=dtype, attn_implementation="eager"
    ).eval()
    with torch.inference_mode():
        return torch.stack([model(torch.tensor([p])).logits[0, -1].float() for p in prompts])


@pytest.mark.parametrize("name", sorted(set(TINY_MODELS) - {"mixtral", "qwen3_moe"}))
def test_rounding_is_no_worse_than_the_models_own(
    tiny_model: Callable[[str], Path], name: str
) -> None:
    """Mixtures of experts are left out: one rounding chooses another expert, in either engine."""
    prompts = prompts_with_a_long_prefix()
    exact = own_logits(tiny_model(name), prompts, torch.float32)
    ours = (engine_logits(tiny_model(name), prompts, "bfloat16") - exact).abs().median()
    theirs = (own_logits(tiny_model(name), prompts, torch.bfloat16) - exact).abs().median()
    assert ours <= 1.5 * theirs, f"{ours:.4f} from float32, transformers {theirs:.4f}"


@pytest.mark.parametrize("name", list(TINY_MODELS))
def test_float32_logits_are_the_models_own(tiny_model: Callable[[str], Path], name: str) -> None:
    prompts = prompts_with_a_long_prefix()
    exact = own_logits(tiny_model(name), prompts, torch.float32)
    ours = engine_logits(tiny_model(name), prompts, "float32")
    torch.testing.assert_close(ours, exact, atol=2e-4, rtol=2e-4)
