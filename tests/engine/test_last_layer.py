"""The last layer computes the drawing tokens alone, and nothing of it shows in the answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import TINY_MODELS
from torch import Tensor, nn
from transformers import AutoConfig

from batchpipe.engine.last_layer import LastLayer
from batchpipe.engine.model import Decoder, bind, load_model
from batchpipe.engine.token_batch import TokenBatch, form
from batchpipe.planner.kv_ledger import KVLedger
from batchpipe.planner.machine.model_shape import ModelShape
from batchpipe.planner.planning import make_plan
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.planner.schedule.pace import Full
from batchpipe.planner.schedule.token_batcher import TokenBatcher

CPU = torch.device("cpu")
BLOCKS = 64


def decoder_of(model_dir: Path) -> Decoder:
    config = AutoConfig.from_pretrained(model_dir)
    model = load_model(str(model_dir), config, dtype="float32", device=CPU)
    return bind(model, ModelShape.from_config(config), BLOCKS)


def batches(step_tokens: int = 24) -> list[TokenBatch]:
    """Prompts of several chunks below one prefix; a step begins and ends within one."""
    draw = np.random.default_rng(0)
    prefix = draw.integers(0, 380, 40).tolist()
    prompts = [prefix + draw.integers(0, 380, length).tolist() for length in (1, 9, 30, 45)]
    plan = make_plan(Prompts.pack(prompts), [Sampling(max_tokens=1)] * len(prompts))
    batcher = TokenBatcher(plan, KVLedger(BLOCKS), Full(step_tokens))
    formed = []
    while (step := batcher.next_step()) is not None:
        formed.append(form(step.all_chunks(), CPU))
        batcher.computed(step)
        for sequence in formed[-1].sequences:
            batcher.finish(sequence, ended_itself=False)
    return formed


@pytest.mark.parametrize("name", sorted(TINY_MODELS))
def test_scores_and_kv_are_those_of_a_layer_that_computes_all(
    tiny_model: Callable[[str], Path], name: str
) -> None:
    decoder = decoder_of(tiny_model(name))
    steps = batches()
    assert any(step.last_layer is not None and not step.sequences for step in steps)
    scores = [decoder.logits(step) for step in steps]
    kept = (decoder.attention.keys.clone(), decoder.attention.values.clone())
    slots = torch.cat([step.layout.write_slots for step in steps])
    for step, found in zip(steps, scores, strict=True):
        expected = decoder.logits(replace(step, last_layer=None))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for found, cache in zip(kept, (decoder.attention.keys, decoder.attention.values), strict=True):
        torch.testing.assert_close(found[:, slots], cache[:, slots], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(TINY_MODELS))
def test_its_parts_are_found_in_every_served_model(
    tiny_model: Callable[[str], Path], name: str
) -> None:
    decoder = decoder_of(tiny_model(name))
    names = {part: name for name, part in decoder.model.named_modules()}
    found = {names[part].rpartition(".")[2] for part in decoder.last_layer.parts}
    assert "mlp" in found
    assert found & {"o_proj", "dense"}
    layers = ModelShape.from_config(decoder.model.config).layers
    assert all(f".{layers - 1}." in names[part] for part in decoder.last_layer.parts)


def test_its_mlp_sees_the_drawing_tokens_alone(tiny_model: Callable[[str], Path]) -> None:
    decoder = decoder_of(tiny_model("llama"))
    seen: dict[int, list[int]] = {}
    for layer in decoder.model.model.layers:
        place = layer.self_attn.layer_idx
        layer.mlp.gate_proj.register_forward_pre_hook(
            lambda _module, given, place=place: seen.setdefault(place, []).append(given[0].shape[1])
        )
    step = batches(1000)[0]
    decoder.logits(step)
    *others, last = (seen[place] for place in sorted(seen))
    assert last == [len(step.sequences)]
    assert all(other == [len(step.input_ids)] for other in others)


def test_a_model_is_left_as_it_was(tiny_model: Callable[[str], Path]) -> None:
    decoder = decoder_of(tiny_model("llama"))
    decoder.logits(batches()[0])
    hooks = [m for m in decoder.model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert hooks == []


class Parts(nn.Module):
    """A part that is given and gives several tensors, in the ways that model files have."""

    def forward(self, rows: Tensor, *, router: Tensor, width: Tensor) -> tuple[Any, ...]:
        assert rows.shape[1] == router.shape[1] == 2
        return 2 * rows, (rows + router).flatten(0, 1), width, None


def test_a_part_may_take_and_give_several_tensors() -> None:
    part = Parts()
    rows, router = torch.randn(2, 1, 5, 4)
    width = torch.randn(4)
    tokens = torch.tensor([1, 4])
    with LastLayer((part,)).computing(tokens, 5):
        doubled, flat, same, none = part(rows, router=router, width=width)
    expected = torch.zeros(1, 5, 4)
    expected[:, tokens] = rows[:, tokens]
    torch.testing.assert_close(doubled, 2 * expected)
    expected[:, tokens] += router[:, tokens]
    torch.testing.assert_close(flat, expected[0])
    assert same is width
    assert none is None


def test_a_model_of_other_names_computes_all() -> None:
    assert LastLayer.of(nn.Sequential(nn.Linear(2, 2)), 1).parts == ()
