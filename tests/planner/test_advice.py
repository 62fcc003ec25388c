"""Advice: its figures are right, and there is none where nothing would be gained."""

from __future__ import annotations

from dataclasses import replace

import pytest
from small_jobs import LLAMA_8B

from batchpipe.planner.advice import (
    Advice,
    duplicates_advice,
    kv_memory_advice,
    step_tokens_advice,
    work_seconds,
)
from batchpipe.planner.kv_ledger import BLOCK_TOKENS
from batchpipe.planner.machine.machines import MACHINES
from batchpipe.planner.machine.step_cost import StepCost
from batchpipe.planner.plan import Plan
from batchpipe.planner.planning import Setting, dry_run, make_plan
from batchpipe.planner.request import Prompts, Sampling

# Llama-3 8B.
COST = StepCost(LLAMA_8B, MACHINES["a100-80g"], "bfloat16")
PLENTY = Setting(COST, kv_blocks=20_000, step_tokens=2048)


def plan_of(count: int, prompt_tokens: int, sampling: Sampling, setting: Setting) -> Plan:
    """So many prompts that share nothing."""
    rows = [[row, *range(prompt_tokens - 1)] for row in range(count)]
    return make_plan(Prompts.pack(rows), [sampling] * count, order="dfs", setting=setting)


def repeated(sampling: Sampling) -> Plan:
    """Prompt 1 2 three times, 3 4 5 twice, 6 once."""
    rows = [[1, 2], [3, 4, 5], [1, 2], [6], [3, 4, 5], [1, 2]]
    return make_plan(Prompts.pack(rows), [sampling] * len(rows))


def answers_of(tokens: int, **fields: object) -> Sampling:
    return Sampling(max_tokens=tokens, ignore_eos=True, **fields)  # type: ignore[arg-type]


def test_what_collapsed_rows_save_is_counted() -> None:
    [advice] = duplicates_advice(repeated(answers_of(10)), COST)
    assert "of 6 rows 3 are equal to another" in advice.text
    assert "saves 30 answer tokens" in advice.text
    assert advice.gain_tokens == 30
    decoding = 30 * (COST.token_seconds + COST.head_seconds)
    reading = (2 * (2 * 10 + 50) + (3 * 10 + 50)) * COST.key_seconds
    assert advice.gain_seconds == pytest.approx(decoding + reading)


def test_rows_that_draw_for_themselves_are_told_what_a_seed_saves() -> None:
    plan = repeated(answers_of(10, temperature=0.7, n=2))
    [advice] = duplicates_advice(plan, None)
    assert "of 6 rows 3 are equal to another and draw their own answers" in advice.text
    assert "a seed or temperature 0 saves 60 answer tokens" in advice.text
    assert advice == Advice(advice.text, None, 60)
    seeded = repeated(answers_of(10, temperature=0.7, n=2, seed=1))
    [collapsed] = duplicates_advice(seeded, None)
    assert collapsed.gain_tokens == 60


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_rows_that_all_differ_get_no_word_of_duplicates(temperature: float) -> None:
    plan = plan_of(4, 3, answers_of(10, temperature=temperature), PLENTY)
    assert duplicates_advice(plan, COST) == []


def test_memory_that_nothing_fills_can_serve_something_else() -> None:
    plan = plan_of(40, 100, answers_of(50), PLENTY)  # 40 x 10 blocks
    [advice] = kv_memory_advice(plan, PLENTY, least_blocks=10)
    assert advice.text.startswith("KV memory of 5.24 GB would do instead of 41.94 GB")
    assert "loses 0.0%" in advice.text
    assert advice.gain_seconds == 0


def test_no_memory_is_advised_that_the_longest_request_does_not_fit() -> None:
    plan = plan_of(40, 100, answers_of(50), PLENTY)
    assert kv_memory_advice(plan, PLENTY, least_blocks=10_001) == []
    [advice] = kv_memory_advice(plan, PLENTY, least_blocks=10_000)
    assert advice.text.startswith("KV memory of 20.97 GB would do")


def test_short_memory_is_told_what_twice_of_it_gains() -> None:
    short = replace(PLENTY, kv_blocks=64)  # 6 of 60 requests at once
    plan = plan_of(60, 100, answers_of(50), short)
    [advice] = kv_memory_advice(plan, short, least_blocks=10)
    assert advice.text.startswith("KV memory of 0.27 GB, twice of what there is, would save")
    twice = replace(short, kv_blocks=128)
    gained = dry_run(plan, short).makespan_seconds - dry_run(plan, twice).makespan_seconds
    assert advice.gain_seconds == pytest.approx(gained)
    assert gained > 0


def test_a_small_step_is_told_of_a_larger_one_and_what_it_gains() -> None:
    small = replace(PLENTY, step_tokens=128)
    plan = plan_of(100, 500, answers_of(20), small)
    [advice] = step_tokens_advice(plan, small)
    words = advice.text.split()
    assert words[0] == "--step-tokens"
    assert words[2:5] == ["instead", "of", "128"]
    advised = replace(small, step_tokens=int(words[1]))
    now, then = (dry_run(plan, each).makespan_seconds for each in (small, advised))
    assert advice.gain_seconds == pytest.approx(now - then)
    assert step_tokens_advice(plan, advised) == []


def test_the_gain_of_a_sample_is_brought_up_to_the_job() -> None:
    small = replace(PLENTY, step_tokens=128)
    plan = plan_of(4000, 100, answers_of(2), small)
    [advice] = step_tokens_advice(plan, small)  # by 1000 prompts
    advised = replace(small, step_tokens=int(advice.text.split()[1]))
    now, then = (dry_run(plan, each).makespan_seconds for each in (small, advised))
    assert advice.gain_seconds == pytest.approx(now - then, rel=0.1)


def test_a_sample_that_fits_at_once_tells_nothing_of_memory() -> None:
    huge = replace(PLENTY, kv_blocks=100_000)
    plan = plan_of(4100, 20, answers_of(2), huge)
    assert huge.kv_blocks * BLOCK_TOKENS > 4100 * (20 + 2)
    assert kv_memory_advice(plan, huge, least_blocks=10) == []


def test_the_work_of_a_job_is_computing_and_reading() -> None:
    plan = plan_of(3, 100, answers_of(50), PLENTY)
    cost = plan.cost(COST)
    assert work_seconds(plan, PLENTY) == cost.compute_seconds + cost.memory_seconds
