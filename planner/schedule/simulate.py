"""A dry run: the engine's own scheduler on a modelled machine, with answers of given lengths."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from batchpipe.planner.machine.step_cost import StepCost
from batchpipe.planner.machine.step_load import StepLoad
from batchpipe.planner.schedule.speculation import even_bet
from batchpipe.planner.schedule.step import Step
from batchpipe.planner.schedule.token_batcher import TokenBatcher


@dataclass(frozen=True, slots=True)
class Simulation:
    """What a plan would do on a machine. Tokens count prompts as if each were computed alone."""

    makespan_seconds: float
    tokens_per_second: float  # prompt and answer tokens
    steps: int
    mean_step_tokens: float
    compute_utilisation: float  # share of the makespan in which compute-bound work is under way
    memory_utilisation: float  # and memory-bound work
    peak_kv_tokens: int
    preemptions: int
    computed_prompt_tokens: int
    recomputed_tokens: int
    swapped_tokens: int  # to host memory
    bound_seconds: float  # T_o

    @property
    def share_of_bound(self) -> float:
        """``T_o`` over the makespan: 1 cannot be beaten without sparing key reads."""
        return self.bound_seconds / self.makespan_seconds if self.makespan_seconds else 1.0


def simulate(
    batcher: TokenBatcher,
    cost: StepCost,
    answers: npt.NDArray[np.int64],  # tokens of each answer  # [prompts]
    *,
    bound_seconds: float = 0.0,
    guess_chance: float = 0.0,
) -> Simulation:
    """Play the plan of a fresh batcher to its end.

    With a chance that a guessed token is right, decodes that are alone advance by what guessing
    brings on average: the batcher's clock ticks once for each token, and a tick takes the share of
    a step that one of its tokens is.
    """
    clock = _Clock(batcher, cost, answers, guess_chance)
    while (step := batcher.next_step()) is not None:
        clock.pass_step(step)
        while clock.skips():
            pass
    counts, tokens = batcher.counts, batcher.plan.prompts.tokens
    seconds = clock.seconds
    return Simulation(
        makespan_seconds=seconds,
        tokens_per_second=(tokens + counts.completion_tokens) / max(seconds, 1e-12),
        steps=round(clock.steps),
        mean_step_tokens=clock.step_tokens / max(1.0, clock.steps),
        compute_utilisation=clock.compute_seconds / max(seconds, 1e-12),
        memory_utilisation=clock.memory_seconds / max(seconds, 1e-12),
        peak_kv_tokens=counts.peak_kv_tokens,
        preemptions=counts.preemptions,
        computed_prompt_tokens=counts.computed_prompt_tokens,
        recomputed_tokens=counts.recomputed_tokens,
        swapped_tokens=counts.swapped_tokens,
        bound_seconds=bound_seconds,
    )


class _Clock:
    """Time, and who ends when."""

    def __init__(
        self,
        batcher: TokenBatcher,
        cost: StepCost,
        answers: npt.NDArray[np.int64],
        guess_chance: float,
    ) -> None:
        self.steps = 0.0
        self.seconds = 0.0
        self.compute_seconds = 0.0
        self.memory_seconds = 0.0
        self.step_tokens = 0.0
        self._guess_chance = guess_chance
        self._batcher = batcher
        self._cost = cost
        self._answers: list[int] = answers.tolist()
        self._ends: list[tuple[int, int]] = []  # heap of (step, prompt); of no account if preempted

    def pass_step(self, step: Step) -> None:
        """The step's time has passed; those who have their answers are gone."""
        batcher = self._batcher
        self._count(step.load, 1)
        self.seconds += self._cost.copy_seconds(sum(len(move.host) for move in step.moves))
        batcher.computed(step)
        for sequence in step.silent:
            batcher.finish(sequence, ended_itself=False)
        for sequence in step.ending:
            left = self._answers[sequence.index] - batcher.decoding.produced(sequence)
            heapq.heappush(self._ends, (batcher.decoding.clock + max(0, left), sequence.index))
        self._finish()

    def skips(self) -> bool:
        """Pass the steps in which only decodes advance, up to the next event, if there are any."""
        batcher = self._batcher
        clock = batcher.decoding.clock
        until = min(batcher.settled_until, self._ends[0][0] if self._ends else clock)
        steps = batcher.advance_decodes(max(0, until - clock))
        if not steps:
            return False
        # Keys grow by one a decode and step, so the middle step takes the mean time.
        load = batcher.decode_load()
        grown = load.decodes * (steps + 1) // 2
        self._count(replace(load, own_keys=load.own_keys - grown), steps)
        self._finish()
        return True

    def _count(self, load: StepLoad, ticks: int) -> None:
        steps: float = ticks
        if self._guess_chance and load.drawn and not load.prefill_tokens:
            bet = even_bet(self._cost, load, self._guess_chance)
            steps *= load.drawn / bet.tokens
            load = bet.load
        self.steps += steps
        compute, memory = self._cost.compute_seconds(load), self._cost.memory_seconds(load)
        self.seconds += steps * self._cost.seconds(load)
        self.compute_seconds += steps * compute
        self.memory_seconds += steps * memory
        self.step_tokens += steps * load.tokens

    def _finish(self) -> None:
        batcher = self._batcher
        clock = batcher.decoding.clock
        while self._ends and self._ends[0][0] <= clock:
            _, index = heapq.heappop(self._ends)
            sequence = batcher.decoding.sequences.get(index)
            if sequence is None:  # preempted; it came or will come back with another end
                continue
            produced = batcher.decoding.produced(sequence)
            if produced >= self._answers[index]:
                limit = batcher.plan.samplings[index].max_tokens
                batcher.finish(sequence, ended_itself=produced < limit)
