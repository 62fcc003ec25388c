"""Memory that runs short changes no answer: a step goes on in smaller pieces."""

from __future__ import annotations

import gc
import os
import random
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from weakref import ReferenceType, ref

import numpy as np
import pytest
import torch
from oracle import assert_same_tokens, greedy_reference, load_tokenizer
from tiny_models import EOS_TOKEN_ID, TINY_MODELS, make_model
from transformers import AutoConfig

from batchpipe.engine import engine as engine_module
from batchpipe.engine.engine import Answer, Engine
from batchpipe.engine.faults import is_out_of_memory
from batchpipe.engine.model import bind, load_model
from batchpipe.engine.sampling import sample
from batchpipe.engine.token_batch import TokenBatch, form
from batchpipe.errors import DeviceLost, OutOfMemory
from batchpipe.planner.machine.model_shape import ModelShape
from batchpipe.planner.planning import make_plan
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.planner.schedule.pace import Full
from batchpipe.planner.schedule.segment import Chunk

Model = Callable[[str], Path]

ROOMS = [1, 2, 3, 7, 64]  # tokens that fit
STEP_TOKENS = 200
OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB."

# Where in the forward pass memory runs short: before any key is stored, between the two layers'
# keys, and after all of them.
PLACES = {
    "first": lambda model: model.get_input_embeddings(),
    "between": lambda model: model.model.layers[0].mlp,
    "last": lambda model: model.model.layers[1].mlp,
}


@pytest.fixture(scope="module", autouse=True)
def quick_collections() -> Iterator[None]:
    """A shortage collects garbage, which here would be most of the time."""
    gc.freeze()
    yield
    gc.unfreeze()


@dataclass
class Shortage:
    """Raises at one place of the model wherever ``fails`` says so; keeps what was tried."""

    fails: Callable[[int], bool]  # of the tokens of a batch
    place: str = "between"
    error: Exception | None = None  # else a new `torch.OutOfMemoryError` each time
    tried: list[int] = field(default_factory=list)  # tokens of every batch
    failed: list[int] = field(default_factory=list)  # those of them that failed, by their place

    def install(self, model: Any) -> None:
        PLACES[self.place](model).register_forward_pre_hook(self._check)

    def _check(self, module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        tokens = given[0].shape[1]
        self.tried.append(tokens)
        if self.fails(tokens):
            self.failed.append(len(self.tried) - 1)
            raise self.error or torch.OutOfMemoryError(OUT_OF_MEMORY)


def above(room: int) -> Callable[[int], bool]:
    return lambda tokens: tokens > room


def engine_of(
    model_dir: Path,
    prompts: list[list[int]],
    samplings: list[Sampling],
    shortage: Shortage | None = None,
    *,
    kv_blocks: int = 400,
    step_tokens: int = STEP_TOKENS,
    answer_lengths: tuple[int, ...] = (),
) -> Engine:
    plan = make_plan(Prompts.pack(prompts), samplings)
    config = AutoConfig.from_pretrained(model_dir)
    model = load_model(str(model_dir), config, dtype="float32", device=torch.device("cpu"))
    if shortage is not None:
        shortage.install(model)
    engine = Engine(
        bind(model, ModelShape.from_config(config), kv_blocks),
        plan,
        kv_blocks=kv_blocks,
        pace=Full(step_tokens),
        eos_token_ids=frozenset({EOS_TOKEN_ID}),
        request_ids=[f"row-{row}" for row in plan.first_row.tolist()],
        tokenizer=load_tokenizer(str(model_dir)),
    )
    for length in answer_lengths:
        engine.batcher.lengths.add(0, length)
    return engine


def answers(engine: Engine) -> list[Answer]:
    found = {answer.index: answer for step in engine.steps() for answer in step}
    engine.batcher.ledger.check_integrity()
    assert engine.batcher.ledger.used == 0, "KV is left over"
    assert len(found) == len(engine.plan.prompts)
    return [
        found[first + sample]
        for first in engine.plan.first_prompt.tolist()
        for sample in range(engine.plan.samplings[first].n)
    ]


def tokens(found: list[Answer]) -> list[list[int]]:
    return [list(answer.token_ids) for answer in found]


def family_prompts(seed: int = 0) -> list[list[int]]:
    """Prefixes on three levels with prompts that end at their borders, loners, and twins."""
    rng = np.random.default_rng(seed)

    def some(count: int) -> list[int]:
        return rng.integers(0, 380, count).tolist()

    root = some(29)
    prompts = [root, some(1), some(2), some(90)]
    for child in (root + some(18), root + some(5)):
        prompts.append(child)
        for grandchild in (child + some(16), child + some(7)):
            prompts += [grandchild, *(grandchild + some(n) for n in (1, 4, 11))]
    prompts += [prompts[6]]
    rng.shuffle(prompts)
    return prompts


@pytest.mark.parametrize("place", list(PLACES))
@pytest.mark.parametrize("room", ROOMS)
def test_tokens_equal_generate_in_pieces_of_any_size(
    tiny_model: Model, room: int, place: str
) -> None:
    prompts = family_prompts()
    shortage = Shortage(above(room), place)
    engine = engine_of(tiny_model("llama"), prompts, [Sampling(max_tokens=9)] * 23, shortage)
    reference = greedy_reference(tiny_model("llama"), prompts, 9)
    assert_same_tokens(tokens(answers(engine)), reference)
    assert engine.memory_shortages == len(shortage.failed) > 0
    assert engine.most_tokens is not None
    assert (room + 1) // 2 <= engine.most_tokens <= room
    assert engine.counts.computed_prompt_tokens == engine.plan.tree.computed_tokens


@pytest.mark.parametrize("name", ["gemma2", "mistral", "gpt_neox", "qwen3_moe"])
def test_other_kinds_of_attention_are_as_indifferent(tiny_model: Model, name: str) -> None:
    prompts = family_prompts(1)
    shortage = Shortage(above(7), "first")
    engine = engine_of(tiny_model(name), prompts, [Sampling(max_tokens=9)] * 23, shortage)
    assert_same_tokens(tokens(answers(engine)), greedy_reference(tiny_model(name), prompts, 9))
    assert engine.memory_shortages > 0


@pytest.mark.parametrize("room", ROOMS)
def test_tokens_equal_generate_while_kv_runs_out_as_well(tiny_model: Model, room: int) -> None:
    prompts = family_prompts()
    engine = engine_of(
        tiny_model("qwen3"),
        prompts,
        [Sampling(max_tokens=16)] * 23,
        Shortage(above(room)),
        kv_blocks=12,
        answer_lengths=(1,) * 50,  # a forecast that is wrong for every row
    )
    reference = greedy_reference(tiny_model("qwen3"), prompts, 16)
    assert_same_tokens(tokens(answers(engine)), reference)
    assert engine.counts.preemptions > 0
    assert engine.memory_shortages > 0


def test_penalties_and_stop_strings_end_where_generate_ends(tiny_model: Model) -> None:
    prompts, model_dir = family_prompts(3), tiny_model("llama")
    free = greedy_reference(model_dir, prompts, 12, repetition_penalty=1.3)
    texts = [load_tokenizer(str(model_dir)).decode(each.token_ids[4:8]) for each in free]
    stops = tuple(sorted({text[1:3] for text in texts if text.isascii() and len(text) > 3})[:4])
    sampling = Sampling(max_tokens=12, repetition_penalty=1.3, stop=stops)
    reference = greedy_reference(model_dir, prompts, 12, repetition_penalty=1.3, stop_strings=stops)
    found = answers(engine_of(model_dir, prompts, [sampling] * 23, Shortage(above(3))))
    assert_same_tokens(tokens(found), reference)
    assert "stop_string" in {answer.ended_by for answer in found}


def drawn_rows() -> list[Sampling]:
    """Each row another way to draw."""
    ways = [
        Sampling(max_tokens=8, temperature=0.9, top_k=40, top_p=0.95, min_p=0.01, n=2),
        Sampling(max_tokens=8, temperature=1.0, seed=7),
        Sampling(max_tokens=8, temperature=0.7, seed=8, repetition_penalty=1.3),
        Sampling(max_tokens=8, temperature=0.8, stop=("e", "th")),
        Sampling(max_tokens=8),
    ]
    return [ways[row % len(ways)] for row in range(23)]


@pytest.mark.parametrize("room", ROOMS)
def test_drawn_tokens_are_those_of_an_undisturbed_run(tiny_model: Model, room: int) -> None:
    model_dir, prompts, samplings = tiny_model("llama"), family_prompts(), drawn_rows()
    undisturbed = list(engine_of(model_dir, prompts, samplings).steps())
    engine = engine_of(model_dir, prompts, samplings, Shortage(above(room)))
    assert list(engine.steps()) == undisturbed  # in the same steps and in the same order
    assert engine.memory_shortages > 0


@pytest.mark.parametrize("seed", range(5))
def test_one_shortage_in_any_step_changes_nothing_but_the_pieces(
    tiny_model: Model, seed: int
) -> None:
    model_dir, prompts, samplings = tiny_model("llama"), family_prompts(seed), drawn_rows()
    counting = Shortage(lambda _: False)
    undisturbed = answers(engine_of(model_dir, prompts, samplings, counting))
    fatal = random.Random(seed).randrange(len(counting.tried))
    once = Shortage(lambda _: len(once.tried) == fatal + 1, random.Random(seed).choice([*PLACES]))
    engine = engine_of(model_dir, prompts, samplings, once)
    assert answers(engine) == undisturbed
    assert once.failed == [fatal]
    assert engine.memory_shortages == 1
    assert engine.most_tokens == once.tried[fatal] // 2


def test_a_size_that_failed_is_never_tried_again(tiny_model: Model) -> None:
    shortage = Shortage(above(20))
    answers(engine_of(tiny_model("llama"), family_prompts(), drawn_rows(), shortage))
    limits = [shortage.tried[at] // 2 for at in shortage.failed]
    bounds = [*shortage.failed, len(shortage.tried)]
    for limit, (after, until) in zip(limits, pairwise(bounds), strict=True):
        assert max(shortage.tried[after + 1 : until + 1]) <= limit
    assert len(limits) <= STEP_TOKENS.bit_length()


def test_a_shortage_while_drawing_changes_nothing(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_dir, prompts, samplings = tiny_model("llama"), family_prompts(), drawn_rows()
    undisturbed = answers(engine_of(model_dir, prompts, samplings))

    def sample_few(logits: torch.Tensor, draws: Any = ()) -> torch.Tensor:
        if len(logits) > 2:
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)
        return sample(logits, draws)

    monkeypatch.setattr(engine_module, "sample", sample_few)
    engine = engine_of(model_dir, prompts, samplings)
    assert answers(engine) == undisturbed
    assert engine.memory_shortages > 0


def _raise_in_a_cycle(kept: list[Exception]) -> None:
    error = torch.OutOfMemoryError(OUT_OF_MEMORY)  # this frame is in its traceback
    raise error


def _raise_behind_another(kept: list[Exception]) -> None:
    try:
        raise KeyError("not the reason")
    except KeyError as error:
        cycle = error  # noqa: F841
        raise torch.OutOfMemoryError(OUT_OF_MEMORY) from None


def _raise_and_keep(kept: list[Exception]) -> None:
    kept.append(torch.OutOfMemoryError(OUT_OF_MEMORY))
    raise kept[-1]


@pytest.mark.parametrize("fail", [_raise_in_a_cycle, _raise_behind_another, _raise_and_keep])
def test_what_a_failed_piece_held_is_freed_before_the_next(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch, fail: Callable[[list[Exception]], None]
) -> None:
    kept: list[Exception] = []
    held: list[ReferenceType[Any]] = []
    freed: list[bool] = []

    def run_short(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        if given[0].shape[1] > 20:
            held.extend((ref(given[0]), ref(engine.decoder.attention.batch.layout.positions)))
            fail(kept)

    def form_next(chunks: list[Chunk], device: torch.device) -> TokenBatch:
        freed.extend(tensor() is None for tensor in held)
        held.clear()
        return form(chunks, device)

    monkeypatch.setattr(engine_module, "form", form_next)
    engine = engine_of(tiny_model("llama"), family_prompts(), [Sampling(max_tokens=3)] * 23)
    engine.decoder.model.model.layers[1].mlp.register_forward_pre_hook(run_short)
    answers(engine)
    assert len(freed) == 2 * engine.memory_shortages > 0
    assert all(freed)


def test_an_engine_that_ran_short_leaves_no_kv_behind(tiny_model: Model) -> None:
    engine = engine_of(tiny_model("llama"), family_prompts(), drawn_rows(), Shortage(above(20)))
    keys = ref(engine.decoder.attention.keys)
    answers(engine)
    gc.disable()
    try:
        del engine
        assert keys() is None
    finally:
        gc.enable()


def test_no_room_for_one_token_stops_with_what_to_do(tiny_model: Model) -> None:
    shortage = Shortage(above(0), error=torch.OutOfMemoryError(OUT_OF_MEMORY))
    engine = engine_of(tiny_model("llama"), family_prompts(), drawn_rows(), shortage)
    with pytest.raises(OutOfMemory, match=r"device cpu .* 1 token \(CUDA out of.*--kv-memory") as e:
        answers(engine)
    assert e.value.exit_code == 75
    assert e.value.__cause__ is shortage.error
    assert shortage.tried[-1] == 1
    assert engine.memory_shortages == len(shortage.tried)


def test_a_lost_device_stops_resumably(tiny_model: Model) -> None:
    error = torch.AcceleratorError("CUDA error: unspecified launch failure\nCompile with ...")
    lost = Shortage(lambda _: len(lost.tried) == 3, error=error)
    engine = engine_of(tiny_model("llama"), family_prompts(), drawn_rows(), lost)
    with pytest.raises(DeviceLost) as caught:
        answers(engine)
    assert str(caught.value) == (
        "device cpu is lost (CUDA error: unspecified launch failure); what is finished is on disk, "
        "and the same command goes on from there"
    )
    assert caught.value.exit_code == 75
    assert len(lost.tried) == 3


def test_another_error_is_left_as_it_is(tiny_model: Model) -> None:
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)")
    broken = Shortage(lambda _: len(broken.tried) == 3, error=error)
    engine = engine_of(tiny_model("llama"), family_prompts(), drawn_rows(), broken)
    with pytest.raises(RuntimeError) as caught:
        answers(engine)
    assert caught.value is error
    assert engine.memory_shortages == 0


def test_kv_beyond_all_memory_is_a_recognised_shortage(tiny_model: Model) -> None:
    engine = engine_of(tiny_model("llama"), [[1]], [Sampling(max_tokens=1)])
    shape = ModelShape.from_config(engine.decoder.model.config)
    with pytest.raises(RuntimeError) as caught:
        bind(engine.decoder.model, shape, 1 << 36)
    assert is_out_of_memory(caught.value)


def test_a_real_shortage_of_the_host_is_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TINY_MODELS["llama"]()
    config.intermediate_size, config.num_hidden_layers = WIDE_TOKEN_BYTES // 4, 2
    monkeypatch.setitem(TINY_MODELS, "wide", lambda: config)
    model_dir = make_model("wide", tmp_path)
    prompts = np.random.default_rng(0).integers(0, 380, (12, 350)).tolist()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as child:
        found, most_tokens = child.submit(_answers_in_little_memory, model_dir, prompts).result()
    assert_same_tokens(found, greedy_reference(model_dir, prompts, 4))
    assert most_tokens is not None


WIDE_TOKEN_BYTES = 2**16  # of one token's activation in the MLP, of which a step holds a few


def _answers_in_little_memory(
    model_dir: Path, prompts: list[list[int]]
) -> tuple[list[list[int]], int | None]:
    """A step of all prompts takes 0.8 GB; the process has 0.25, and as much again at most.

    That is what the allocator keeps for it (`host_memory`).
    """
    torch.set_num_threads(1)
    samplings = [Sampling(max_tokens=4)] * len(prompts)
    engine = engine_of(model_dir, prompts, samplings, kv_blocks=300, step_tokens=4200)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + 2**28
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return tokens(answers(engine)), engine.most_tokens
