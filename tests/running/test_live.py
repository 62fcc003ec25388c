"""A live model answers what comes while it runs as `model.generate` does, and computes it once."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from oracle import assert_same_tokens, greedy_reference

from batchpipe.config import JobOptions, RunOptions
from batchpipe.engine.answer import Answer
from batchpipe.errors import ConfigError
from batchpipe.job.language import load_config, load_language
from batchpipe.planner.request import Sampling
from batchpipe.running.engines import connect
from batchpipe.running.live import LiveEngine, Request, open_live
from batchpipe.running.own_engine import OwnBackend


@pytest.fixture
def opened(model: Path) -> Callable[..., LiveEngine]:
    def make(
        kv_memory: str = "4MB",
        speculate: str = "auto",
        groups: int = 1,
        host_kv_memory: str = "auto",
        machine: str | None = None,
    ) -> LiveEngine:
        options = JobOptions(
            input="",
            model=str(model),
            kv_memory=kv_memory,
            host_kv_memory=host_kv_memory,
            dtype="float32",
            speculate=speculate,
            machine=machine,
        )
        backend = connect(options, RunOptions(out="", step_tokens=64))
        assert isinstance(backend, OwnBackend)
        language = load_language(options, load_config(options))
        return open_live(backend, language, "float32", groups=groups)

    return make


def request(
    ticket: int, tokens: list[int], most: int, follows: int | None = None, feeds: int = 0
) -> Request:
    ids = np.array(tokens, dtype=np.int32)
    return Request(ticket, ids, Sampling(max_tokens=most), f"row-{ticket}", 0, follows, feeds)


def drained(live: LiveEngine) -> dict[int, Answer]:
    found: dict[int, Answer] = {}
    while live.unfinished:
        found.update(live.step())
    return found


def some_prompts(seed: int, count: int) -> list[list[int]]:
    chance = random.Random(seed)
    stems = [[chance.randrange(380) for _ in range(60)] for _ in range(2)]
    return [
        chance.choice(stems)[: chance.randrange(60)]
        + [chance.randrange(380) for _ in range(chance.randrange(1, 30))]
        for _ in range(count)
    ]


@pytest.mark.parametrize(
    ("kv_memory", "speculate", "host_kv_memory"),
    [("4MB", "auto", "0"), ("120KB", "off", "0"), ("120KB", "off", "2MB")],
)
def test_whoever_comes_late_is_answered_as_generate_does(
    opened: Callable[..., LiveEngine],
    model: Path,
    fast_link: Path,
    kv_memory: str,
    speculate: str,
    host_kv_memory: str,
) -> None:
    prompts = some_prompts(3, 24)
    beside = {"host_kv_memory": host_kv_memory, "machine": str(fast_link)}
    live, found = opened(kv_memory, speculate, **beside), dict[int, Answer]()
    chance = random.Random(1)
    for ticket, prompt in enumerate(prompts):
        live.submit([request(ticket, prompt, 14)])
        for _ in range(chance.randrange(4)):
            found.update(live.step())
    found.update(drained(live))
    counts = live.spent().counts
    assert (counts.swapped_tokens > 0) == (host_kv_memory == "2MB")
    answers = [list(found[ticket].token_ids) for ticket in range(len(prompts))]
    assert_same_tokens(answers, greedy_reference(model, prompts, 14))


def test_a_prompt_that_extends_an_answer_computes_what_is_new(
    opened: Callable[..., LiveEngine], model: Path
) -> None:
    live = opened()
    firsts = some_prompts(5, 8)
    live.submit([request(t, prompt, 12, feeds=1) for t, prompt in enumerate(firsts)])
    found = drained(live)
    seconds = [[*p, *found[t].token_ids, 5, 6, 7] for t, p in enumerate(firsts)]
    live.submit([request(100 + t, prompt, 9, follows=t) for t, prompt in enumerate(seconds)])
    later = drained(live)
    assert_same_tokens(
        [list(later[100 + t].token_ids) for t in range(8)], greedy_reference(model, seconds, 9)
    )
    for ticket, prompt in enumerate(seconds):
        assert later[100 + ticket].cached_tokens == len(prompt) - 4, "the last drawn and three new"
    assert live.spent().kv_tokens == 0


def test_kv_that_leaves_the_device_is_not_computed_again(
    opened: Callable[..., LiveEngine], model: Path, fast_link: Path
) -> None:
    firsts = some_prompts(5, 16)
    answered = greedy_reference(model, firsts, 12)
    seconds = [[*p, *answer.token_ids, 5, 6, 7] for p, answer in zip(firsts, answered, strict=True)]
    spent = {}
    for host in ("0", "4MB"):
        live = opened("160KB", "off", host_kv_memory=host, machine=str(fast_link))
        live.submit([request(t, prompt, 12, feeds=1) for t, prompt in enumerate(firsts)])
        found = drained(live)
        assert_same_tokens([list(found[t].token_ids) for t in range(16)], answered)
        spent[host] = live.spent().counts
        assert spent[host].evicted_tokens > 0, "what is kept for those that follow has to go"
        later = dict[int, Answer]()
        for ticket, prompt in enumerate(seconds):
            live.submit([request(100 + ticket, prompt, 9, follows=ticket)])
            later.update(live.step())
        later.update(drained(live))
        assert_same_tokens(
            [list(later[100 + t].token_ids) for t in range(16)],
            greedy_reference(model, seconds, 9),
        )
        host_ledger = live._engine.batcher._host._ledger
        assert host_ledger is None or host_ledger.free == host_ledger.total
    assert (spent["0"].swapped_tokens, spent["0"].restored_tokens) == (0, 0)
    assert spent["4MB"].restored_tokens > 0
    assert spent["4MB"].computed_prompt_tokens < spent["0"].computed_prompt_tokens


def test_a_beginning_that_is_expected_is_computed_once(opened: Callable[..., LiveEngine]) -> None:
    live = opened()
    head = list(range(80))
    live.expect(np.array(head, dtype=np.int32), more=True)
    for ticket in range(4):
        live.submit([request(ticket, [*head, 90 + ticket, 3], 4)])
        assert drained(live)[ticket].cached_tokens == (80 if ticket else 0)


def test_what_the_memory_cannot_hold_is_refused_by_itself(
    opened: Callable[..., LiveEngine],
) -> None:
    live = opened("64KB")
    live.submit([request(0, list(range(300)), 100), request(1, [1, 2, 3], 4)])
    found = drained(live)
    assert found[0].fault is not None
    assert "KV memory holds" in found[0].fault
    assert found[1].fault is None


def test_host_memory_that_is_not_there_is_refused(opened: Callable[..., LiveEngine]) -> None:
    with pytest.raises(ConfigError, match=r"900TB: this machine has .* free; give less"):
        opened(host_kv_memory="900TB")


def test_a_closed_model_is_gone_from_memory(opened: Callable[..., LiveEngine]) -> None:
    live = opened()
    live.submit([request(0, [1, 2, 3], 4)])
    drained(live)
    model = weakref.ref(live._engine.decoder.model)
    live.close()
    gc.collect()
    assert model() is None


@pytest.mark.parametrize("host_kv_memory", ["0", "4MB"])
def test_scores_of_prompts_stay_true_while_others_join(
    opened: Callable[..., LiveEngine], fast_link: Path, host_kv_memory: str
) -> None:
    prompts = some_prompts(7, 16)
    scored = Sampling(max_tokens=0, prompt_logprobs=2, prompt_logprobs_from=2)
    drawn = Sampling(max_tokens=10, logprobs=1, prompt_logprobs=0)
    samplings = [scored if ticket % 3 else drawn for ticket in range(len(prompts))]

    def asked(ticket: int) -> Request:
        ids = np.array([*prompts[ticket], 8, 9], dtype=np.int32)
        return Request(ticket, ids, samplings[ticket], f"row-{ticket}")

    beside = {"host_kv_memory": host_kv_memory, "machine": str(fast_link)}
    live, found = opened("200KB", "off", **beside), dict[int, Answer]()
    for ticket in range(len(prompts)):
        live.submit([asked(ticket)])
        found.update(live.step())
    found.update(drained(live))
    for ticket in range(len(prompts)):
        alone = opened("200KB", "off")
        alone.submit([asked(ticket)])
        expected = drained(alone)[ticket]
        for ours, theirs in (
            (found[ticket].prompt_logprobs, expected.prompt_logprobs),
            (found[ticket].logprobs, expected.logprobs),
        ):
            assert (ours is None) == (theirs is None)
            if ours is not None and theirs is not None:
                np.testing.assert_allclose(ours.values, theirs.values, atol=1e-4)
                np.testing.assert_allclose(ours.top_values, theirs.top_values, atol=1e-4)


def test_a_scored_prompt_that_loses_its_memory_before_others_join_is_scored_again(
    opened: Callable[..., LiveEngine],
) -> None:
    sampling = Sampling(max_tokens=6, logprobs=1, prompt_logprobs=1)
    prompts = some_prompts(9, 3)

    def asked(ticket: int) -> Request:
        return Request(ticket, np.array(prompts[ticket], dtype=np.int32), sampling, "row")

    alone = opened(speculate="off")
    alone.submit([asked(1)])
    expected = drained(alone)[1].prompt_logprobs
    live = opened(speculate="off")
    live.submit([asked(0), asked(1)])
    for _ in range(5):
        assert not live.step()
    batcher = live._engine.batcher
    batcher._preempt(next(each for each in batcher.running.values() if each.index == 1))
    live.submit([asked(2)])
    live._join()
    found = drained(live)[1].prompt_logprobs
    assert found is not None
    assert expected is not None
    np.testing.assert_allclose(found.values, expected.values, atol=1e-4)
