"""A length trace as a job that can be planned: made-up tokens, answers as long as it says."""

from __future__ import annotations

from typing import Any

from batchpipe.config import JobOptions
from batchpipe.job.fit import fit
from batchpipe.job.language import Language
from batchpipe.job.prepare import Job
from batchpipe.planner.machine.model_shape import context_of
from batchpipe.planner.request import Sampling
from batchpipe.rows.request_ids import RequestIds
from batchpipe.rows.source import Source
from batchpipe.rows.template import Template
from batchpipe.rows.trace import is_trace, read_trace

TOKEN_IDS = 2**31  # a trace's tokens are of no vocabulary


def reads_as_trace(options: JobOptions, source: Source, template: Template | None) -> bool:
    """True where the rows have lengths and nothing says how to make prompts of them."""
    return template is None and options.prompt_column is None and is_trace(source.names)


def bare_language(options: JobOptions, config: Any) -> Language:
    """The model's context alone; it has no tokenizer, and a trace needs none."""
    context = context_of(config.get_text_config())
    return Language(options.model, config, None, TOKEN_IDS, context, frozenset(), {})


def prepare_trace(options: JobOptions, source: Source, language: Language) -> Job:
    """Every request of the trace, or why it does not fit the model.

    Raises:
        ConfigError: the trace is none, naming file and row
    """
    trace = read_trace(options.input, options.limit)
    made: dict[int, Sampling] = {}
    samplings = [
        made.setdefault(tokens, Sampling(max_tokens=tokens, ignore_eos=True))
        for tokens in trace.output_tokens.tolist()
    ]
    fitted = fit(
        trace.prompts,
        samplings,
        context=language.context,
        vocab=language.vocab,
        on_too_long=options.on_too_long,
    )
    ids = RequestIds(source, options.id_column)
    request_ids = [each for rows in source.batches() for each in ids.read(rows)]
    return Job(
        source=source,
        request_ids=tuple(request_ids[row] for row in fitted.kept.tolist()),
        faults=fitted.faults,
        skipped=fitted.skipped,
        runnable=fitted.kept,
        prompts=fitted.prompts,
        samplings=fitted.samplings,
    )
