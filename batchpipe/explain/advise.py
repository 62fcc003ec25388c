"""Which advice a job gets: what the planner finds, and what its texts tell."""

from __future__ import annotations

import numpy as np

from batchpipe.config import JobOptions
from batchpipe.explain.column_order import (
    BetterOrder,
    better_column_order,
    better_line_order,
    sampled_rows,
    template_parts,
)
from batchpipe.job.language import Language
from batchpipe.job.plan_job import alone_blocks
from batchpipe.job.prepare import Job
from batchpipe.planner.advice import (
    Advice,
    duplicates_advice,
    kv_memory_advice,
    step_tokens_advice,
)
from batchpipe.planner.plan import Plan
from batchpipe.planner.planning import Setting
from batchpipe.rows.batch import RowSource
from batchpipe.rows.template import Template

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
        better = _columns(options.template, job.source, sorted(rows.tolist()))
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


def _columns(option: str, source: RowSource, rows: list[int]) -> BetterOrder | None:
    parts = template_parts(Template.from_option(option).source, source.names)
    names = sorted({name for part in parts for name in part.columns})
    return better_column_order(parts, _cells(source, names, rows))


def _cells(source: RowSource, names: list[str], rows: list[int]) -> dict[str, list[object]]:
    """These columns of these rows, which rise."""
    cells: dict[str, list[object]] = {name: [] for name in names}
    for batch in source.batches():
        places = [row - batch.first for row in rows if 0 <= row - batch.first < len(batch)]
        for name in names if places else ():
            column = batch.values(name)
            cells[name] += [column[place] for place in places]
    return cells
