"""How the rows of a job are sampled: which columns may say so, and what counts where none does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from batchpipe.config import JobOptions
from batchpipe.errors import ConfigError
from batchpipe.job.language import Language
from batchpipe.planner.request import Sampling
from batchpipe.rows.parameters import check_sampling
from batchpipe.rows.template import Template
from batchpipe.structured.constraint import KINDS

DEFAULT_MAX_TOKENS = 256


def parameter_columns(
    options: JobOptions, names: Sequence[str], template: Template | None
) -> tuple[str, ...]:
    """The columns that may say how their row is asked: none of a dataframe.

    What the template puts into the prompt, such as the schema of a database, is no form for the
    answer.
    """
    if not options.row_sampling:
        return ()
    shown = () if template is None else template.columns
    return tuple(name for name in names if name not in KINDS or name not in shown)


def default_sampling(
    options: JobOptions, language: Language, *, of_an_api: bool = False
) -> Sampling:
    """How a row that says nothing is sampled: by the options, else by the model's own defaults.

    What neither says is greedy and short for a job's own rows. Requests to an API mean what they
    mean there: a temperature of 1, and answers as long as the context allows.
    """
    context = language.context
    limit = {"max_tokens": min(DEFAULT_MAX_TOKENS, max(1, context // 2))}
    if of_an_api:
        limit = {"max_tokens": max(1, context - 1), "temperature": 1}
    defaults = check_sampling(**{**limit, **language.defaults, **options.sampling})
    if defaults.max_tokens >= context and "max_tokens" in options.sampling:
        raise ConfigError(
            f"--max-tokens {defaults.max_tokens} does not fit the context of {options.model}, "
            f"which has {context} positions for prompt and answer together; lower it"
        )
    # A model's own default may be as long as its context.
    return replace(defaults, max_tokens=min(defaults.max_tokens, max(1, context - 1)))
