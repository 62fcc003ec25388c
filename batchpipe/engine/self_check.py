"""Is the model still itself with our attention? Asked once, before any row is answered."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from batchpipe.engine.faults import is_device_lost, is_out_of_memory
from batchpipe.engine.model import bind
from batchpipe.engine.token_batch import form
from batchpipe.errors import UnsupportedModelError
from batchpipe.planner.kv_ledger import KVLedger
from batchpipe.planner.machine.model_shape import ModelShape
from batchpipe.planner.planning import make_plan
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.planner.schedule.pace import Full
from batchpipe.planner.schedule.token_batcher import TokenBatcher

# Long enough for the prefix to be read on its own (`reads.SHARED_READ_MIN_KEYS`), and short,
# since a large model on a CPU shall not wait for it. A step takes less than a prompt.
PREFIX_TOKENS, TAIL_TOKENS = 90, (7, 4, 1)
STEP_TOKENS = 40
KV_BLOCKS = 16

# Median difference of the scores over their spread. Rounding stays below a hundredth of this in
# float32, and a wrong context gives about 1.
TOLERATED = {torch.float32: 0.02, torch.bfloat16: 0.35, torch.float16: 0.35}


def check_attention(model: Any, shape: ModelShape, name: str) -> None:
    """Prompts that share a prefix score as in the model's own attention.

    The model comes with its own attention and is left with ours, unbound.

    Raises:
        UnsupportedModelError: the scores differ: the model does something that we do not know of
    """
    prompts = _prompts(shape)
    refused = f"model {name} ({type(model.config).__name__}) cannot be served"
    own = torch.cat([_own_scores(model, prompt) for prompt in prompts])
    try:
        ours = _our_scores(model, shape, prompts)
    except (UnsupportedModelError, RuntimeError, TypeError, ValueError, LookupError) as error:
        if is_out_of_memory(error) or is_device_lost(error):
            raise
        raise UnsupportedModelError(f"{refused}: it fails on packed rows ({error})") from error
    difference = float((ours - own).abs().median() / own.std().clamp_min(1e-6))
    if not difference <= TOLERATED[model.dtype]:
        raise UnsupportedModelError(
            f"{refused}: with batchpipe's attention its scores differ from its own by "
            f"{difference:.2g} of their spread"
        )


def _prompts(shape: ModelShape) -> Prompts:
    draws = np.random.default_rng(0)
    prefix = draws.integers(0, shape.vocab, min(PREFIX_TOKENS, shape.context // 2))
    tails = [draws.integers(0, shape.vocab, length) for length in TAIL_TOKENS]
    return Prompts.pack([np.concatenate([prefix, tail]).astype(np.int32) for tail in tails])


def _own_scores(model: Any, prompt: Any) -> Tensor:  # [1, vocab]
    input_ids = torch.from_numpy(prompt.astype(np.int64)).to(model.device).unsqueeze(0)
    with torch.inference_mode():
        logits: Tensor = model(input_ids=input_ids, use_cache=False, logits_to_keep=1).logits
    return logits[0, -1:].float()


def _our_scores(model: Any, shape: ModelShape, prompts: Prompts) -> Tensor:  # [prompts, vocab]
    decoder = bind(model, shape, KV_BLOCKS)
    plan = make_plan(prompts, [Sampling(max_tokens=1)] * len(prompts))
    batcher = TokenBatcher(plan, KVLedger(KV_BLOCKS), Full(STEP_TOKENS))
    scores: dict[int, Tensor] = {}
    while (step := batcher.next_step()) is not None:
        batch = form(step.all_chunks(), decoder.device)
        logits = decoder.logits(batch)
        batcher.computed(step)
        for sequence, row in zip(batch.sequences, logits, strict=True):
            scores[sequence.index] = row
            batcher.finish(sequence, ended_itself=False)
    return torch.stack([scores[index] for index in range(len(prompts))])
