"""How a run that did not answer all rows fails its task: with a retry, or for good."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from batchpipe.background.watch import Ended
from batchpipe.errors import BatchpipeError, ConfigError
from batchpipe.journal.folder import open_folder
from batchpipe.journal.status import describe

SUCCEEDED, USAGE, FAILED_ROWS = 0, 2, 3
COMPLETE = (SUCCEEDED, FAILED_ROWS)


def refuse_failure(ended: Ended, run_dir: str) -> None:
    """The run has answered its rows, or the task fails with the reason.

    Raises:
        AirflowFailException: another try would end in the same way: wrong usage, or bad rows
        AirflowException: another try goes on where this one was
    """
    if ended.code == SUCCEEDED:
        return
    if ended.code == FAILED_ROWS:
        raise AirflowFailException(_failed_rows(run_dir))
    said = ended.said.removeprefix("batchpipe: ").removeprefix("Error: ")
    if ended.code == USAGE:
        raise AirflowFailException(said)
    if ended.code is None:
        raise AirflowException(
            f"the process of {run_dir} was killed (out of memory?), its last words: "
            f"{said or 'none'}; what is finished is on disk, and the next try goes on from there"
        )
    raise AirflowException(f"exit code {ended.code}: {said}")


@contextmanager
def failing() -> Iterator[None]:
    """Errors of batchpipe within the block fail the task, wrong usage for good."""
    try:
        yield
    except ConfigError as error:
        raise AirflowFailException(str(error)) from error
    except BatchpipeError as error:
        raise AirflowException(str(error)) from error


def _failed_rows(run_dir: str) -> str:
    status = describe(open_folder(run_dir))
    kinds = "".join(
        f" ({kind.rows:,} of them, the first {kind.example}: {kind.error})"
        for kind in status.errors[:1]
    )
    return (
        f"{status.failed:,} of {status.rows:,} rows failed{kinds}. All others are answered. Answer "
        f"these once more with `batchpipe retry {run_dir} --status error` and clear the task, or "
        f"tolerate some with max_errors"
    )
