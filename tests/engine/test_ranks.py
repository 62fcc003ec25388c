"""A model divided among processes gives the tokens of `model.generate`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle import assert_same_tokens, greedy_reference
from test_against_generate import mixed_prompts
from tiny_models import EOS_TOKEN_ID, TINY_MODELS
from transformers import AutoConfig, AutoModelForCausalLM

from batchpipe.config import JobOptions
from batchpipe.engine.engine import Engine
from batchpipe.engine.ranks.orders import Logits, NextSlice, Told, packed, unpacked
from batchpipe.engine.ranks.shared_model import load_shared
from batchpipe.engine.token_batch import form
from batchpipe.errors import ConfigError
from batchpipe.job import tensor_parallel
from batchpipe.planner.kv_ledger import KVLedger
from batchpipe.planner.machine.model_shape import ModelShape
from batchpipe.planner.planning import make_plan
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.planner.schedule.pace import Full
from batchpipe.planner.schedule.token_batcher import TokenBatcher

Model = Callable[[str], Path]

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="divides over CUDA devices here")


def test_a_divided_model_answers_as_generate(tiny_model: Model) -> None:
    folder, prompts = tiny_model("llama"), mixed_prompts()
    plan = make_plan(Prompts.pack(prompts), [Sampling(max_tokens=16)] * len(prompts))
    config = AutoConfig.from_pretrained(folder)
    shape = ModelShape.from_config(config)
    threads = torch.get_num_threads()
    model = load_shared(str(folder), config, shape, dtype="float32", device="cpu", ranks=2)
    decoder = model.bind(14)
    assert decoder.attention.keys.shape[2] == shape.kv_heads // 2
    engine = Engine(
        decoder,
        plan,
        kv_blocks=14,
        pace=Full(24),
        eos_token_ids=frozenset({EOS_TOKEN_ID}),
        request_ids=[f"row-{row}" for row in plan.first_row.tolist()],
    )
    found = {answer.index: answer for step in engine.steps() for answer in step}
    tokens = [list(found[index].token_ids) for index in plan.first_prompt.tolist()]
    assert_same_tokens(tokens, greedy_reference(folder, prompts, 16))
    del model, decoder, engine
    assert not torch.distributed.is_initialized(), "the ranks have not ended with the model"
    assert torch.get_num_threads() == threads


def test_without_accelerate_the_line_that_installs_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tensor_parallel, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"pip install 'batchpipe\[tensor-parallel\]'"):
        tensor_parallel.check_installed(JobOptions("in.jsonl", "m", tensor_parallel=2))


@pytest.mark.parametrize("name", TINY_MODELS)
def test_the_configuration_alone_tells_what_the_model_would(name: str) -> None:
    config = TINY_MODELS[name]()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    divided = {
        place.rpartition(".")[2] for place, style in model._tp_plan.items() if style == "colwise"
    }
    options = JobOptions("in.jsonl", "m", tensor_parallel=2)
    told = contextlib.nullcontext()
    if divided.isdisjoint(tensor_parallel.KEY_PROJECTIONS):
        told = pytest.raises(ConfigError, match="--tensor-parallel 2: transformers")
    with told:
        tensor_parallel.check_divisible(options, config, ModelShape.from_config(config))


def test_a_batch_goes_through_the_pipe_unchanged_but_for_who_draws() -> None:
    prompts = [[1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 9], [1, 2, 3, 4, 8]]
    plan = make_plan(Prompts.pack(prompts), [Sampling(max_tokens=2)] * len(prompts))
    step = TokenBatcher(plan, KVLedger(40), Full(64)).next_step()
    assert step is not None
    cpu = torch.device("cpu")
    batch = form(step.all_chunks(), cpu)
    message = unpacked(packed(Told(3, Logits(batch))), cpu)
    told = message.order.batch
    assert message.model == 3
    assert told.sequences == ()
    for before, after in ((batch, told), (batch.last_layer, told.last_layer)):
        assert (before is None) == (after is None)
    assert np.array_equal(told.input_ids, batch.input_ids)
    assert np.array_equal(told.sampled, batch.sampled)
    ours, theirs = batch.layout, told.layout
    assert np.array_equal(theirs.write_slots, ours.write_slots)
    assert theirs.squares == ours.squares
    for mine, its in zip(ours.shared, theirs.shared, strict=True):
        assert (mine.run, mine.read.query_start) == (its.run, its.read.query_start)
        assert torch.equal(mine.read.slots, its.read.slots)
    assert unpacked(packed(Told(0, NextSlice())), cpu).order == NextSlice()
