"""How many prompt tokens go beside the decodes of a step."""

from __future__ import annotations

from typing import Protocol

from batchpipe.planner.job_cost import JobCost
from batchpipe.planner.machine.step_cost import StepCost
from batchpipe.planner.machine.step_load import StepLoad
from batchpipe.planner.schedule.decoding import Decoding
from batchpipe.planner.schedule.step import step_load


class Pace(Protocol):
    """The token budget of each step, and what it learns from the steps that have passed."""

    def prefill_tokens(self, decoding: Decoding) -> int:
        """Prompt tokens that the next step may compute beside these decodes."""

    def density(self) -> float | None:
        """Compute over memory time of what is left to do, where the pace goes by it."""

    def passed(self, load: StepLoad) -> None:
        """A step of this load was computed."""

    def answered(self, index: int, produced: int) -> None:
        """The prompt has its answer, of so many tokens."""


class Full:
    """Steps are filled to ``step_tokens``: best where compute and memory time add up."""

    def __init__(self, step_tokens: int) -> None:
        assert step_tokens > 0, step_tokens
        self.step_tokens = step_tokens

    def prefill_tokens(self, decoding: Decoding) -> int:
        """What the decodes leave of the budget."""
        return self.step_tokens - len(decoding)

    def density(self) -> None:
        """None: a full step looks at no density."""

    def passed(self, load: StepLoad) -> None:
        """Nothing is learnt."""

    def answered(self, index: int, produced: int) -> None:
        """Nothing is learnt."""


class Even:
    """Every step computes and reads in the proportion of all that is left, so both end together.

    BlendServe's prefill budget ``C = N p / d`` keeps the ratio that the root had at the start; here
    it follows what is left, which also covers the end of the job and wrong length estimates.
    Prompt tokens up to the GEMM's knee are free in any case: the weights are read for the decodes.
    """

    def __init__(
        self, step_tokens: int, cost: StepCost, job: JobCost, output_tokens: list[int]
    ) -> None:
        self.step_tokens = step_tokens
        self._cost = cost
        self._job = job
        self._expected = output_tokens  # [prompts]
        self._compute_left = job.compute_seconds
        self._memory_left = job.memory_seconds

    def prefill_tokens(self, decoding: Decoding) -> int:
        """So many that computing takes its due share of the decodes' reading time."""
        decodes = len(decoding)
        if not decodes:
            return self.step_tokens
        load = step_load(decoding, ())
        due = self.density() * self._read_seconds(load) - self._computed_seconds(load)
        tokens = max(int(due / self._cost.token_seconds), self._cost.knee_tokens - decodes)
        return min(tokens, self.step_tokens - decodes)

    def density(self) -> float:
        """``T_comp / T_mem`` of what is left."""
        return max(0.0, self._compute_left) / max(self._memory_left, 1e-9)

    def passed(self, load: StepLoad) -> None:
        """So much less is left."""
        self._compute_left -= self._computed_seconds(load)
        self._memory_left -= self._read_seconds(load)

    def answered(self, index: int, produced: int) -> None:
        """An answer of another length than expected was more or less work."""
        expected = self._expected[index]
        if produced != expected:
            self._compute_left += (produced - expected) * self._cost.token_seconds
            actual = (produced / expected) ** 2 if expected else 1.0
            self._memory_left += (actual - 1) * float(self._job.memory[index])

    def _computed_seconds(self, load: StepLoad) -> float:
        cost = self._cost
        rows = load.tokens * cost.token_seconds + load.drawn * cost.head_seconds
        return rows + load.prefill_pairs * cost.pair_seconds

    def _read_seconds(self, load: StepLoad) -> float:
        """Reading time with every decode on its own account, as `JobCost.memory` has it."""
        return (load.own_keys + load.shared_pairs) * self._cost.key_seconds
