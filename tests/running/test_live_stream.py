"""A long stream of prompts through a small live model: numbers change hands, answers do not.

Its plan stays as large as what was ever there at once, and whatever is kept by a prompt's number
(constraints, scores, random numbers, guesses) is of the prompt that has the number now.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from oracle import assert_same_tokens, greedy_reference

from batchpipe.config import JobOptions, RunOptions
from batchpipe.engine.answer import Answer
from batchpipe.engine.logprobs import Logprobs
from batchpipe.job.language import load_config, load_language
from batchpipe.planner.request import Constraint, Sampling
from batchpipe.running.engines import connect
from batchpipe.running.live import LiveEngine, Request, open_live
from batchpipe.running.own_engine import OwnBackend

LETTERS = Constraint("regex", "[a-c]{3,9}")
DIGITS = Constraint("choices", '["17", "1", "205", "2050"]')
# By ticket, in turn: most are greedy, so that guesses are tried too.
SAMPLINGS = (
    Sampling(max_tokens=14),
    Sampling(max_tokens=9, ignore_eos=True),
    Sampling(max_tokens=12, temperature=1.0),
    Sampling(max_tokens=10, constraint=LETTERS),
    Sampling(max_tokens=6, logprobs=1, prompt_logprobs=1),
    Sampling(max_tokens=0, prompt_logprobs=2, prompt_logprobs_from=3),
    Sampling(max_tokens=8, temperature=0.7, constraint=DIGITS),
)
GREEDY = (0, 1)
PROMPTS = 84
AT_ONCE = 9
FOLLOWER = 1000  # added to the ticket that it follows


@pytest.fixture
def opened(model: Path) -> Callable[..., LiveEngine]:
    def make(kv_memory: str, speculate: str) -> LiveEngine:
        options = JobOptions(
            input="", model=str(model), kv_memory=kv_memory, dtype="float32", speculate=speculate
        )
        backend = connect(options, RunOptions(out="", step_tokens=64))
        assert isinstance(backend, OwnBackend)
        language = load_language(options, load_config(options))
        return open_live(backend, language, "float32", constraints=[LETTERS, DIGITS])

    return make


def stems() -> list[list[int]]:
    chance = random.Random(11)
    return [[chance.randrange(380) for _ in range(50)] for _ in range(3)]


def some_prompts() -> list[list[int]]:
    chance = random.Random(7)
    return [
        chance.choice(stems())[: chance.randrange(20, 50)]
        + [chance.randrange(380) for _ in range(chance.randrange(2, 20))]
        for _ in range(PROMPTS)
    ]


def request(ticket: int, tokens: list[int], sampling: Sampling, **others: int) -> Request:
    return Request(ticket, np.array(tokens, dtype=np.int32), sampling, f"row-{ticket}", **others)


class Stream:
    """Prompts that come as others are answered; every other greedy one has a follower."""

    def __init__(self, live: LiveEngine) -> None:
        self.live = live
        self.prompts = dict(enumerate(some_prompts()))
        self.found: dict[int, Answer] = {}
        self.most = 0
        self._heads: list[list[int]] = []

    def run(self) -> None:
        chance, coming = random.Random(5), list(range(PROMPTS))
        while coming or self.live.unfinished:
            while coming and self.live.unfinished < AT_ONCE:
                for ticket in coming[: chance.randrange(1, 4)]:
                    self._ask(coming.pop(0), feeds=int(has_follower(ticket)))
                self._expect(chance.choice(stems()))
            for ticket, answer in self.live.step():
                self.found[ticket] = answer
                if has_follower(ticket):
                    known = [*self.prompts[ticket], *answer.token_ids, 5, 6, 7]
                    self.prompts[FOLLOWER + ticket] = known
                    self._ask(FOLLOWER + ticket, follows=ticket)

    def _ask(self, ticket: int, **others: int) -> None:
        sampling = SAMPLINGS[ticket % FOLLOWER % len(SAMPLINGS)]
        self.live.submit([request(ticket, self.prompts[ticket], sampling, **others)])
        self._count()

    def _expect(self, head: list[int]) -> None:
        """This beginning is expected, and the one before no more."""
        for before in self._heads:
            self.live.expect(np.array(before, dtype=np.int32), more=False)
        self._heads = [head]
        self.live.expect(np.array(head, dtype=np.int32), more=True)
        self._count()

    def _count(self) -> None:
        self.most = max(self.most, self.live.unfinished + len(self._heads))


def has_follower(ticket: int) -> bool:
    return ticket < FOLLOWER and ticket % len(SAMPLINGS) in GREEDY and ticket % 2 == 0


@pytest.mark.parametrize(("kv_memory", "speculate"), [("4MB", "auto"), ("100KB", "off")])
def test_a_stream_is_answered_as_if_every_prompt_had_a_number_of_its_own(
    opened: Callable[..., LiveEngine], model: Path, kv_memory: str, speculate: str
) -> None:
    stream = Stream(opened(kv_memory, speculate))
    stream.run()
    plan, counts = stream.live._engine.plan, stream.live.spent().counts
    assert len(plan.prompts) == len(plan.samplings) <= stream.most < PROMPTS / 4
    assert kv_memory == "4MB" or counts.preemptions, "memory is short"
    assert_answers_are_right(stream, opened("8MB", "off"), model)


def assert_answers_are_right(stream: Stream, other: LiveEngine, model: Path) -> None:
    """Greedy ones are `model.generate`'s, all others those of a plan that nobody joins later."""
    found, prompts = stream.found, stream.prompts
    assert found.keys() == prompts.keys()
    assert all(each.fault is None for each in found.values())
    for sampling in (SAMPLINGS[place] for place in GREEDY):
        some = [n for n in prompts if SAMPLINGS[n % FOLLOWER % len(SAMPLINGS)] is sampling]
        expected = greedy_reference(
            model,
            [prompts[n] for n in some],
            sampling.max_tokens,
            ignore_eos=sampling.ignore_eos,
        )
        assert_same_tokens([list(found[n].token_ids) for n in some], expected)
    some = [n for n in prompts if n % FOLLOWER % len(SAMPLINGS) not in GREEDY]
    other.submit([request(n, prompts[n], SAMPLINGS[n % len(SAMPLINGS)]) for n in some])
    while other.unfinished:
        for ticket, expected_answer in other.step():
            assert found[ticket].token_ids == expected_answer.token_ids, ticket
            assert_same_scores(found[ticket].logprobs, expected_answer.logprobs)
            assert_same_scores(found[ticket].prompt_logprobs, expected_answer.prompt_logprobs)


def assert_same_scores(ours: Logprobs | None, theirs: Logprobs | None) -> None:
    assert (ours is None) == (theirs is None)
    if ours is not None and theirs is not None:
        np.testing.assert_allclose(ours.values, theirs.values, atol=1e-4)
        np.testing.assert_allclose(ours.top_values, theirs.top_values, atol=1e-4)
