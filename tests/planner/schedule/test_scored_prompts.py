"""Prompts are scored once for all that share them, and those that draw nothing end with them."""

from __future__ import annotations

import pytest
from dry_run import DryRun, alone_blocks, ample_blocks
from hypothesis import given, settings
from hypothesis import strategies as st
from small_jobs import small_setting
from test_token_batcher import orders, plans, run_of

from batchpipe.planner.plan import Plan
from batchpipe.planner.planning import dry_run, make_plan
from batchpipe.planner.request import Prompts, Sampling


@st.composite
def scoring_plans(draw: st.DrawFn) -> tuple[Plan, list[int]]:
    """A plan some of whose prompts are scored, and some of those draw nothing."""
    before, _ = draw(plans())
    samplings = []
    for prompt in before.prompts:
        limit = draw(st.sampled_from([0, 0, 1, 5, 40]))
        asked = st.integers(0, 2) if not limit else st.none() | st.integers(0, 2)
        first = draw(st.integers(1, len(prompt) + 1))
        samplings.append(
            Sampling(
                max_tokens=limit,
                ignore_eos=draw(st.booleans()),
                prompt_logprobs=draw(asked),
                prompt_logprobs_from=first,
            )
        )
    plan = make_plan(before.prompts, samplings, order=draw(orders))
    answers = [
        s.max_tokens if s.ignore_eos or not s.max_tokens else draw(st.integers(1, s.max_tokens))
        for s in plan.samplings
    ]
    return plan, answers


def scored_tokens(run: DryRun) -> int:
    return sum(len(places) for places in run.scored.values())


@settings(max_examples=200)
@given(
    scoring_plans(),
    st.integers(0, 12),
    st.integers(1, 200),
    st.sampled_from([0, 1, 5]),
    st.sampled_from([0, 5, 1000]),
)
def test_tight_memory_scores_every_token_once(
    planned: tuple[Plan, list[int]],
    spare_blocks: int,
    step_tokens: int,
    optimism: int,
    host_blocks: int,
) -> None:
    plan, answers = planned
    seen = [1] * 20 if optimism == 1 else [optimism] * 3 if optimism else None
    kv_blocks = max(alone_blocks(plan)) + spare_blocks
    tight = run_of(plan, answers, kv_blocks, step_tokens, seen, host_blocks).play()
    ample = run_of(plan, answers, ample_blocks(plan), step_tokens).play()
    assert tight.scored == ample.scored


@settings(max_examples=50)
@given(scoring_plans(), st.integers(0, 12), st.integers(1, 200))
def test_prompts_that_draw_nothing_are_simulated_too(
    planned: tuple[Plan, list[int]], spare_blocks: int, step_tokens: int
) -> None:
    plan, _ = planned
    setting = small_setting(max(alone_blocks(plan)) + spare_blocks, step_tokens)
    found = dry_run(plan, setting)
    assert found.computed_prompt_tokens <= plan.prompts.tokens + found.recomputed_tokens
    assert found.makespan_seconds > 0 or not found.computed_prompt_tokens


@pytest.mark.parametrize("step_tokens", [3, 100])
def test_labels_of_one_token_compute_the_prompt_alone(step_tokens: int) -> None:
    prompt = [1] * 30 + [2]
    scored = Sampling(max_tokens=0, prompt_logprobs=0, prompt_logprobs_from=len(prompt))
    plan = make_plan(Prompts.pack([[*prompt, label] for label in (3, 4, 5)]), [scored] * 3)
    run = run_of(plan, [0] * 3, 20, step_tokens).play()
    assert run.batcher.counts.computed_prompt_tokens == len(prompt)
    assert scored_tokens(run) == 1
