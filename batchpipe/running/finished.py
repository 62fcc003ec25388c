"""A run that is complete already, told without reading its input."""

from __future__ import annotations

from dataclasses import replace

from batchpipe.config import JobOptions, RunOptions, allowed_errors
from batchpipe.job.fingerprint import settings_fingerprint
from batchpipe.job.language import load_config
from batchpipe.journal.folder import Folder
from batchpipe.journal.manifest import read_manifest
from batchpipe.journal.summary_file import read_summary
from batchpipe.rows.output_path import output_exists
from batchpipe.rows.template import Template
from batchpipe.running.begin import OF_THE_INPUT, input_states
from batchpipe.running.engines import computing
from batchpipe.running.summary import Summary


def finished_before(folder: Folder, options: JobOptions, run_options: RunOptions) -> Summary | None:
    """The summary of this run where all of it is done, OUT with these very columns included.

    Nothing of the input is read: what tells cheaply of a change says that there was none.
    """
    known, found = read_manifest(folder), read_summary(folder)
    if known is None or found is None or run_options.overwrite:
        return None
    summary = Summary(**found)
    if summary.with_token_ids != run_options.with_token_ids:
        return None
    if summary.repairs != len(known.repairs) or not output_exists(run_options.out):
        return None
    if known.facts["input_states"] != input_states(options.input):
        return None
    template = None if options.template is None else Template.from_option(options.template)
    if options.served_model is None:  # a server that is gone by now need not name it
        options = replace(options, served_model=known.fingerprint.get("served_model"))
    config = load_config(options)
    _, dtype = computing(options, config)
    settings = settings_fingerprint(options, template, config, dtype)
    if settings != {n: part for n, part in known.fingerprint.items() if n not in OF_THE_INPUT}:
        return None
    return with_exit_code(summary, run_options)


def with_exit_code(summary: Summary, run_options: RunOptions) -> Summary:
    """The summary of a run that is complete, and the exit code by what is tolerated now."""
    return replace(summary, exit_code=exit_code(summary.failed, summary.rows, run_options))


def exit_code(failed: int, rows: int, run_options: RunOptions) -> int:
    """Of a run with so many failed rows that came to its end."""
    return 3 if failed > allowed_errors(run_options.max_errors, rows) else 0
