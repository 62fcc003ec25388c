"""What is special about a run of OpenAI batch lines: its answers' form, and its bad lines."""

from __future__ import annotations

import sys
from datetime import datetime

from batchpipe.config import JobOptions, RunOptions
from batchpipe.errors import ConfigError
from batchpipe.job.prepare import Job
from batchpipe.journal.manifest import Manifest
from batchpipe.rows.output_path import output_format
from batchpipe.rows.results import OpenAILines
from batchpipe.rows.source import Source

MOST_TOLD = 10


def check_form(source: Source, run_options: RunOptions) -> None:
    """OUT has room for all that is asked for; `ConfigError` else."""
    is_lines = source.are_requests and output_format(run_options.out) == "jsonl"
    if is_lines and run_options.with_token_ids:
        raise ConfigError(
            f"--with-token-ids: OpenAI's batch lines have no place for token ids; leave it out, or "
            f"write {run_options.out} as .parquet"
        )


def openai_form(source: Source, options: JobOptions, manifest: Manifest) -> OpenAILines | None:
    """How the answers to batch lines are written; None where the rows are a job's own."""
    if not source.are_requests:
        return None
    began = datetime.fromisoformat(manifest.sessions[0].started)
    return OpenAILines(model=options.model_names[0], created=int(began.timestamp()))


def tell_bad_lines(job: Job) -> None:
    """The first lines that cannot be answered stand on stderr, before the model loads."""
    if not job.source.are_requests or not job.faults:
        return
    bad = sorted(job.faults.items())
    for _, sentence in bad[:MOST_TOLD]:
        print(sentence, file=sys.stderr)
    more = len(bad) - MOST_TOLD
    also = f", {more:,} of them not shown" if more > 0 else ""
    print(f"{len(bad):,} lines cannot be answered{also}; the others run", file=sys.stderr)
