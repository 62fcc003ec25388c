"""Times whole small jobs of a loaded model, step after step, as a run has them.

A step that is repeated finds its keys and activations where they were; the steps of a job do not.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from batchpipe.engine.engine import Engine
from batchpipe.engine.model import bind
from batchpipe.planner.machine.model_shape import ModelShape
from batchpipe.planner.machine.step_load import StepLoad
from batchpipe.planner.planning import make_plan
from batchpipe.planner.request import Prompts, Sampling, TokenIds
from batchpipe.planner.schedule.decoding import Decoding
from batchpipe.planner.schedule.pace import Full, Pace

STEP_TOKENS = 1024
PROMPTS = 32  # half of them below one prefix
PREFIX_TOKENS = 512
LONGEST_TAIL_TOKENS = 512
ANSWER_TOKENS = 32

Played = tuple[list[StepLoad], float]  # the steps of one play, and all its seconds


def play(model: Any, shape: ModelShape, kv_blocks: int, plays: int) -> list[Played]:
    """The same job so many times, each on fresh KV; none where it does not fit."""
    share = min(1.0, (shape.context - ANSWER_TOKENS) / (PREFIX_TOKENS + LONGEST_TAIL_TOKENS))
    prompts = _prompts(shape.vocab, max(0.0, share))
    answers = np.linspace(1, ANSWER_TOKENS, PROMPTS).astype(int).tolist()
    samplings = [Sampling(max_tokens=tokens, ignore_eos=True) for tokens in answers]
    plan = make_plan(prompts, samplings, order="dfs")
    needed = sum(-(-(length + ANSWER_TOKENS) // 16) + 2 for length in prompts.lengths.tolist())
    if needed > kv_blocks or int(prompts.lengths.max()) + ANSWER_TOKENS > shape.context:
        return []
    played = []
    for _ in range(plays):
        engine = Engine(
            bind(model, shape, needed),
            plan,
            kv_blocks=needed,
            pace=(pace := _Listening(Full(STEP_TOKENS))),
            eos_token_ids=frozenset(),
            request_ids=[str(row) for row in plan.first_row.tolist()],
        )
        started = time.perf_counter()
        for _ in engine.steps():
            pass
        played.append((pace.loads, time.perf_counter() - started))
    return played


class _Listening:
    """A pace that keeps the loads of the steps that passed."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self.loads: list[StepLoad] = []

    def prefill_tokens(self, decoding: Decoding) -> int:
        return self._pace.prefill_tokens(decoding)

    def density(self) -> float | None:
        return self._pace.density()

    def passed(self, load: StepLoad) -> None:
        self.loads.append(load)
        self._pace.passed(load)

    def answered(self, index: int, produced: int) -> None:
        self._pace.answered(index, produced)


def _prompts(vocab: int, share: float) -> Prompts:
    """Tails of all lengths, shortened to the share; every other one stands below the prefix."""
    draws = np.random.default_rng(1)

    def some(tokens: int) -> TokenIds:
        return draws.integers(0, vocab, max(1, int(tokens * share)), dtype=np.int32)

    prefix = some(PREFIX_TOKENS)
    tails = np.geomspace(16, LONGEST_TAIL_TOKENS, PROMPTS).astype(int).tolist()
    rows = [some(tokens) for tokens in tails]
    return Prompts.pack(
        [np.concatenate([prefix, row]) if at % 2 else row for at, row in enumerate(rows)]
    )
