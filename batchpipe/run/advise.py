"""Which advice a job gets: what the planner finds, and what its texts tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from batchpipe.config import JobOptions
from batchpipe.planner.advice import (
    Advice,
    duplicates_advice,
    kv_memory_advice,
    step_tokens_advice,
)
from batchpipe.planner.plan import Plan
from batchpipe.planner.planning import Setting
from batchpipe.run.column_order import (
    BetterOrder,
    better_column_order,
    better_line_order,
    sampled_rows,
    template_parts,
)
from batchpipe.run.language import Language
from batchpipe.run.plan_job import alone_blocks
from batchpipe.run.prepare import Job

MOST_PROMPTS = 200_000  # of a job whose advice is simulated without being asked for


def advise(
    options: JobOptions,
    job: Job,
    plan: Plan,
    language: Language,
    setting: Setting,
    *,
    thorough: bool,
) -> list[Advice]:
    """All that is worth changing; ``thorough`` simulates however large the job is."""
    if not plan.rows:
        return []
    advice = _text_order(options, job, plan, language, setting)
    advice += duplicates_advice(plan, setting.cost)
    if thorough or len(plan.prompts) <= MOST_PROMPTS:
        advice += kv_memory_advice(plan, setting, int(alone_blocks(plan).max()))
        advice += step_tokens_advice(plan, setting)
    return advice


def _text_order(
    options: JobOptions, job: Job, plan: Plan, language: Language, setting: Setting
) -> list[Advice]:
    """That repeated text should stand first, where that is worth a word."""
    if language.tokenizer is None:
        return []
    asked = np.flatnonzero(plan.sample == 0)  # the samples of a row share everything already
    prompts = asked[sampled_rows(len(asked))]
    better: BetterOrder | None
    if options.template is not None:
        rows = job.runnable[plan.first_row[prompts]]
        better = _columns(options.template, job, rows.tolist())
    else:
        better = better_line_order(plan.prompts.take(prompts), language.tokenizer)
    if better is None or not better.worth:
        return []
    gain_tokens = int((better.after - better.before) * plan.prompts.lengths[asked].sum())
    shareable = plan.shareable_prompt_tokens
    before, after = (
        tokens / plan.row_prompt_tokens for tokens in (shareable, shareable + gain_tokens)
    )
    what = better.moved
    if options.template is None:
        what = f"the lines that rows repeat ({what!r}) before what differs"
    return [
        Advice(
            f"put {what}: then {after:.1%} of the prompt tokens can be shared, not {before:.1%}",
            gain_tokens * setting.cost.token_seconds,
            gain_tokens,
        )
    ]


def _columns(option: str, job: Job, rows: list[int]) -> BetterOrder | None:
    source = Path(option[1:]).read_text(encoding="utf-8") if option.startswith("@") else option
    parts = template_parts(source, job.rows.names)
    names = {name for part in parts for name in part.columns}
    values = {}
    for name in sorted(names):
        column = job.rows.values(name)
        values[name] = [column[row] for row in rows]
    return better_column_order(parts, values)
