"""Every error that batchpipe raises on purpose.

    BatchpipeError            exit 1   the run failed
    ├── RowsFailed            exit 1   `annotate` was told to raise where rows fail
    ├── ConfigError           exit 2   a wrong option, path, column or model, found before any work
    ├── UnsupportedModelError exit 2   a model that this engine cannot serve, named with the reason
    └── StoppedEarly          exit 75  stopped, and the same command goes on from here
        ├── OutOfMemory       exit 75  the same, where memory lacks room for a single token
        ├── DeviceLost        exit 75  the same, where the device failed for good
        └── Interrupted       exit 130 the same, by Ctrl-C

A full disk exits 75 as well: once there is room, the same command goes on. Any other ``OSError``
exits 1.

A bad row is none of these: it becomes a result row with ``status = error`` and a sentence.
"""

GOES_ON = "what is finished is on disk, and the same command goes on from there"


class BatchpipeError(Exception):
    """A run failed; the message is one clear sentence for the user.

    >>> import batchpipe as bp
    >>> try:
    ...     bp.run("no.parquet", model="any", out="answers.parquet")
    ... except bp.BatchpipeError as error:
    ...     print(error)
    no.parquet does not exist
    """

    exit_code = 1


class RowsFailed(BatchpipeError):
    """Rows of a dataframe failed; the message says how many, and what is wrong with the first.

    >>> import batchpipe as bp, pyarrow as pa
    >>> from batchpipe.demo.prompt import MODEL_DIR
    >>> bp.annotate(pa.table({"prompt": ["Hi", None]}), model=MODEL_DIR, errors="raise")
    Traceback (most recent call last):
        ...
    batchpipe.errors.RowsFailed: 1 of 2 rows failed, the first of them row 1: prompt is null
    """


class FailedRowsWarning(UserWarning):
    """The same, where failed rows are null.

    >>> import batchpipe as bp, pyarrow as pa, warnings
    >>> from batchpipe.demo.prompt import MODEL_DIR
    >>> with warnings.catch_warnings(record=True) as told:
    ...     warnings.simplefilter("always")
    ...     answered = bp.annotate(pa.table({"prompt": ["Hi", None]}), model=MODEL_DIR)
    >>> print(told[0].category.__name__, answered["output"].null_count)
    FailedRowsWarning 1
    """


class ConfigError(BatchpipeError):
    """A setting is wrong; the message names the value and the fix.

    >>> import batchpipe as bp
    >>> bp.SamplingParams(top_p=2)
    Traceback (most recent call last):
        ...
    batchpipe.errors.ConfigError: top_p is 2; it must be a number above 0 and up to 1
    """

    exit_code = 2


class UnsupportedModelError(ConfigError):
    """The model cannot be served; the message names it and says why."""


class StoppedEarly(BatchpipeError):
    """The run stopped before its end and can be resumed by the same command.

    >>> import batchpipe as bp, json, pathlib, tempfile
    >>> from batchpipe.demo.prompt import MODEL_DIR
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> with open(folder / "job.jsonl", "w") as job:
    ...     for prompt in ("Hi", ""):
    ...         print(json.dumps({"prompt": prompt}), file=job)
    >>> try:
    ...     bp.run(folder / "job.jsonl", model=MODEL_DIR, out=folder / "out.jsonl", max_errors=0)
    ... except bp.StoppedEarly as stopped:
    ...     print(str(stopped).partition(" and on disk")[0])
    stopped by max_errors with 1 of 2 rows finished, 1 of them failed
    """

    exit_code = 75


class OutOfMemory(StoppedEarly):
    """Not even a step of one token fits into memory; the message says what to lower."""


class DeviceLost(StoppedEarly):
    """The device computes nothing more for this process; a new one goes on from the disk."""


class Interrupted(StoppedEarly):
    """The user stopped the run with Ctrl-C; it can be resumed by the same command."""

    exit_code = 130
