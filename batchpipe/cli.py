"""The command line. Loads neither torch nor transformers before a command needs them."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

import batchpipe
from batchpipe.batch_commands import convert, run_batch
from batchpipe.command_options import (
    DEVICE_OPTION,
    DTYPE_OPTIONS,
    ENGINE_OPTIONS,
    JOB_OPTIONS,
    SAMPLING_OPTIONS,
    check_with_workflow,
    check_without_workflow,
    job_options_of,
    tell,
    with_options,
)
from batchpipe.config import PlanOptions, RunOptions, retry_options
from batchpipe.errors import GOES_ON, BatchpipeError, Interrupted, StoppedEarly
from batchpipe.job.collection import own_the_process
from batchpipe.job.hidden_torch import hide_torch
from batchpipe.running.stop import Terminated, raising_terminated
from batchpipe.workflow.options import WorkflowOptions

EXIT_CODES = """\b
Exit codes:
    0    all rows succeeded
    1    the run failed
    2    wrong usage, found before any work
    3    finished, with more error rows than --max-errors
    75   stopped early (SIGTERM, disk full, budget spent, too many errors, server gone, another
         process at work); the same command goes on
    130  interrupted (Ctrl-C); the same command goes on
"""

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@click.group(epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(batchpipe.__version__, prog_name="batchpipe")
def commands() -> None:
    """Answer a whole table of prompts with a language model, as one planned offline batch."""


@commands.command(epilog=EXIT_CODES)
@click.argument("input")
@with_options(JOB_OPTIONS)
@click.option("-o", "--out", required=True, help="Results: .parquet, .jsonl, .jsonl.gz or .zst.")
@click.option(
    "--workflow",
    metavar="FILE",
    help="Run the workflow in this YAML file; its steps say what is asked, and -m may take the "
    "place of its only model.",
)
@click.option("--run-dir", help="Where the run keeps its state [default: OUT.run].")
@click.option("--overwrite", is_flag=True, help="Discard OUT and the run directory.")
@click.option(
    "--max-errors",
    help="Error rows tolerated: a count or 5%. With more of them the run stops early, resumably "
    "[default: it runs to its end, and any error row makes it exit with 3].",
)
@click.option("--step-tokens", type=click.IntRange(min=1), help="Most tokens in one forward pass.")
@click.option("--budget-hours", type=float, help="Stop, resumably, after so many hours.")
@click.option("--budget-cost", type=float, help="The same by cost; needs --price-per-hour.")
@click.option("--with-token-ids", is_flag=True, help="Also write `output_token_ids`.")
@with_options(ENGINE_OPTIONS)
@with_options(SAMPLING_OPTIONS)
@click.pass_context
def run(context: click.Context, /, as_json: bool, workflow: str | None, **given: Any) -> None:
    """Plan, execute and write the answers to INPUT (Parquet or JSONL; file, directory or glob).

    The same command goes on where a stopped run was.
    """
    if workflow is not None:
        from batchpipe.workflow.authoring.yaml_file import read_flow
        from batchpipe.workflow.command import run_workflow

        names = WorkflowOptions.__dataclass_fields__
        check_with_workflow(context, ("workflow", "as_json", *names))
        done = run_workflow(
            read_flow(workflow), WorkflowOptions(**{name: given[name] for name in names})
        )
        tell(done, as_json)
        sys.exit(done.exit_code)
    check_without_workflow(context)
    if given["engine"] == "openai":
        hide_torch()
    from batchpipe.running.job import run as run_job

    own = {name: given.pop(name) for name in RunOptions.__dataclass_fields__}
    summary = run_job(job_options_of(given), RunOptions(**own))
    tell(summary, as_json)
    sys.exit(summary.exit_code)


@commands.command(epilog=EXIT_CODES)
@click.argument("run_dir")
@click.option("--status", default="", help="Rows with one of these: error,invalid_output.")
@click.option("--finish-reason", default="", help="And rows that ended so: length,stop.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="Sample them so, e.g. max_tokens=4096; may be repeated.",
)
@click.option("--max-errors", help="As for `run` [default: what the run was given].")
@click.option("--base-url", help="As for `run` [default: where the run's server was].")
@click.option("--json", "as_json", is_flag=True, help="One JSON summary on stdout.")
def retry(
    run_dir: str,
    status: str,
    finish_reason: str,
    settings: tuple[str, ...],
    max_errors: str | None,
    base_url: str | None,
    as_json: bool,
) -> None:
    """Answer the chosen rows of a run once more; all others stay as they are.

    A row whose new attempt fails keeps the answer that it has.
    """
    asked = retry_options(status, finish_reason, settings, max_errors, base_url)
    from batchpipe.running.job import retry as retry_rows

    summary = retry_rows(run_dir, asked)
    tell(summary, as_json)
    sys.exit(summary.exit_code)


@commands.command()
@click.argument("run_dir")
@click.option("--json", "as_json", is_flag=True, help="One JSON report on stdout.")
def status(run_dir: str, as_json: bool) -> None:
    """Show how far a run is: rows, rate, time left and errors by kind."""
    from batchpipe.journal.folder import open_folder
    from batchpipe.journal.status import describe, read_run
    from batchpipe.workflow.journal.status import describe as describe_workflow
    from batchpipe.workflow.journal.status import is_workflow

    folder = open_folder(run_dir)
    of_workflow = is_workflow(read_run(folder))
    tell(describe_workflow(folder) if of_workflow else describe(folder), as_json)


@commands.command()
@click.argument("run_dir")
@click.option("-o", "--out", help="The page [default: RUN_DIR/report.html].")
@click.option("--json", "as_json", is_flag=True, help="One JSON report on stdout.")
def report(run_dir: str, out: str | None, as_json: bool) -> None:
    """Write one HTML page about a run, finished or not, that opens in any browser, offline."""
    from batchpipe.report.command import report as write_report

    tell(write_report(run_dir, out), as_json)


@commands.command()
@click.argument("input", required=False)
@with_options(JOB_OPTIONS)
@click.option(
    "--workflow",
    metavar="FILE",
    help="Plan the workflow in this YAML file, over INPUT or, without one, over a single row.",
)
@click.option("--simulate", is_flag=True, help="Play the whole job and tell how it went.")
@click.option("--compare", is_flag=True, help="Play it in every order, side by side.")
@click.option("-o", "--out", help="Also write the plan here (.parquet).")
@click.option(
    "--against",
    metavar="RUN_DIR",
    help="Tell which answers of this run stay valid, and plan only the other rows.",
)
@click.option("--step-tokens", type=click.IntRange(min=1), help="Most tokens in one forward pass.")
@with_options(SAMPLING_OPTIONS)
@click.pass_context
def plan(context: click.Context, /, as_json: bool, workflow: str | None, **given: Any) -> None:
    """Show what a run of INPUT would compute, share, need and cost, without loading the model.

    INPUT may also be a length trace: columns input_len, output_len and perhaps hash_ids.

    The expected time stands between two others: from short answers to answers at their limits where
    lengths are unknown, widened by what the machine's profile may err, 15 % measured, 40 % guessed.
    """
    hide_torch()
    if workflow is not None:
        from batchpipe.workflow.authoring.yaml_file import read_flow
        from batchpipe.workflow.lowering.explain import plan_workflow

        check_with_workflow(context, ("input", "workflow", "limit", "machine", "as_json"))
        chosen = {name: given[name] for name in ("input", "limit", "machine")}
        tell(plan_workflow(read_flow(workflow), **chosen), as_json)
        return
    check_without_workflow(context)
    from batchpipe.explain.preview import preview

    own = {name: given.pop(name) for name in PlanOptions.__dataclass_fields__}
    tell(preview(job_options_of(given), PlanOptions(**own)), as_json)


@commands.command()
@click.option("-m", "--model", help="Hub id or local directory [default: a random 30M Llama].")
@with_options(DTYPE_OPTIONS)
@DEVICE_OPTION
@click.option("--quick", is_flag=True, help="Measure a quarter of the steps.")
@click.option("--json", "as_json", is_flag=True, help="One JSON report on stdout.")
def calibrate(
    model: str | None,
    dtype: str,
    quantize: str | None,
    device: str,
    quick: bool,
    as_json: bool,
) -> None:
    """Measure this machine with the real engine and keep its profile for later plans."""
    from batchpipe.job.calibrate import calibrate as measure_machine

    report = measure_machine(model, dtype=dtype, quantize=quantize, device=device, quick=quick)
    tell(report, as_json)


@commands.command()
@click.option("-o", "--out", default="demo-results.parquet", show_default=True)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N tickets.")
@with_options(DTYPE_OPTIONS)
@click.option("--json", "as_json", is_flag=True, help="One JSON summary on stdout.")
def demo(out: str, limit: int | None, dtype: str, quantize: str | None, as_json: bool) -> None:
    """Label shipped support tickets with a shipped tiny model and print the accuracy."""
    from batchpipe.demo.command import run_demo

    tell(run_demo(out, limit, dtype=dtype, quantize=quantize), as_json)


commands.add_command(run_batch)
commands.add_command(convert)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit with its code; whatever stops it is one sentence on stderr."""
    own_the_process()
    with raising_terminated():
        sys.exit(_exit_code(arguments))


def _exit_code(arguments: Sequence[str] | None) -> int:
    try:
        commands.main(arguments, prog_name="batchpipe", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _stopped(Interrupted(f"interrupted by Ctrl-C; {GOES_ON}"))
    except Terminated:
        return _stopped(StoppedEarly(f"stopped by SIGTERM; {GOES_ON}"))
    except BatchpipeError as error:
        return _stopped(error)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        reason = f"{where}{error.strerror or error}"
        if error.errno not in DISK_FULL:
            return _stopped(BatchpipeError(reason))
        return _stopped(StoppedEarly(f"{reason}; free some space: {GOES_ON}"))
    return 0


def _stopped(error: BatchpipeError) -> int:
    click.echo(f"batchpipe: {error}", err=True)
    return error.exit_code
