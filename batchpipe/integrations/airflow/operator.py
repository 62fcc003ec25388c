"""`BatchPipeOperator`: one `batchpipe run` as an Airflow task."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from airflow.providers.common.compat.sdk import AirflowException, BaseOperator, TaskDeferred, conf

from batchpipe.background.log_lines import LogLines
from batchpipe.background.room import log_path
from batchpipe.background.watch import Ended, launch, look, stop
from batchpipe.errors import BatchpipeError
from batchpipe.integrations.airflow.batch_manifest import batch_manifest
from batchpipe.integrations.airflow.command_line import check_options, command_line
from batchpipe.integrations.airflow.failures import COMPLETE, failing, refuse_failure
from batchpipe.integrations.airflow.result_rows import write_result_rows
from batchpipe.integrations.airflow.trigger import BatchPipeTrigger
from batchpipe.rows.location import local_path
from batchpipe.rows.words import one_line

PYTHON = "BATCHPIPE_PYTHON"  # the environment variable that names the interpreter with batchpipe
FOLLOW_SECONDS = 0.5


class BatchPipeOperator(BaseOperator):
    """Answers every row of a table; the task's XCom is a manifest, the rows are in ``out``.

    The run is a process of its own, and its directory all that there is to know of it. A retry, a
    cleared task or a worker that comes after a killed one waits for a process that still runs, or
    goes on where it was: no finished row is answered twice.

    ``template`` is batchpipe's own, over the input's columns, and Airflow does not render it.

    :param input: job file, directory, glob or URL (templated)
    :param model: Hub id or directory of the model (templated)
    :param out: results, ``.parquet`` or ``.jsonl`` (templated); name it by ``{{ ds }}``, not by try
    :param run_dir: where the run keeps its state, ``OUT.run`` by default (templated)
    :param template: Jinja template over the columns, or ``@file``
    :param max_tokens: most tokens of an answer
    :param temperature: 0 is greedy
    :param max_errors: tolerated error rows, a count or ``5%``; without it any fails the task
    :param options: every other option of ``batchpipe run`` by its name, e.g. ``{"dtype": "float32",
        "stop": ["END"]}`` (templated; a ``template`` that comes from here is rendered once)
    :param rows_out: also write the rows as common.ai's ``LLMBatchOperator`` does, and name that
        file in the manifest (templated)
    :param python: the interpreter that batchpipe is installed for; ``$BATCHPIPE_PYTHON`` or the
        worker's own by default (templated)
    :param env: environment variables of the run, beside the worker's (templated)
    :param deferrable: give the worker free, and wait in the triggerer
    :param poll_seconds: between two looks of the triggerer
    """

    template_fields: Sequence[str] = (
        "input",
        "model",
        "out",
        "run_dir",
        "options",
        "rows_out",
        "python",
        "env",
    )
    _process: subprocess.Popen[bytes] | None = None
    _is_stopped = False

    def __init__(
        self,
        *,
        input: str,
        model: str,
        out: str,
        run_dir: str | None = None,
        template: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        max_errors: str | int | None = None,
        options: Mapping[str, Any] | None = None,
        rows_out: str | None = None,
        python: str | None = None,
        env: Mapping[str, str] | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_seconds: float = 10.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.input = input
        self.model = model
        self.out = out
        self.run_dir = run_dir
        self.template = template
        self.max_tokens = max_tokens
        self.temperature = temperature
        self.max_errors = max_errors
        self.options = dict(options or {})
        self.rows_out = rows_out
        self.python = python
        self.env = env
        self.deferrable = deferrable
        self.poll_seconds = poll_seconds
        check_options(self.options)

    def execute(self, context: Any) -> dict[str, Any]:
        """All rows are answered, by this try or by those before it."""
        return self._answer(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        """The same once the triggerer has seen the end of the process."""
        ended = Ended(event["code"], event["said"])
        self._tell(LogLines(log_path(self._directory()), event["log_bytes"]))
        if not event["is_ours"] and ended.code not in COMPLETE:
            return self._answer(context)
        with failing():
            return self._result(ended)

    def find_input(self, context: Any) -> None:
        """``input`` is a job file's name."""

    def resume_execution(
        self, next_method: str, next_kwargs: dict[str, Any] | None, context: Any
    ) -> Any:
        """As Airflow's own; a run that has taken longer than ``execution_timeout`` is stopped."""
        if next_method == "__fail__" and "timeout" in str((next_kwargs or {}).get("error")).lower():
            self.on_kill()
        return super().resume_execution(next_method, next_kwargs, context)

    def on_kill(self) -> None:
        """The process is asked to stop: what is finished stays, and the next try goes on."""
        if self._is_stopped:
            return  # a second SIGTERM would not wait for the end of a step
        self._is_stopped = True
        if self._process is not None:
            self._process.terminate()
            return
        try:
            stop(self._directory())
        except BatchpipeError as error:
            self.log.warning(str(error))

    def _directory(self) -> str:
        """The run directory, the same from every process."""
        run_dir = self.run_dir or f"{self.out}.run"
        path = local_path(run_dir)
        return run_dir if path is None else os.path.abspath(path)

    def _answer(self, context: Any) -> dict[str, Any]:
        with failing():
            self.find_input(context)
            log = LogLines(log_path(self._directory()))
            is_ours = look(self._directory()) is not None
            if is_ours:
                self._launch()
            else:
                self.log.info("the process of an earlier try is at work: this one waits for it")
            if self.deferrable:
                self._wait_in_triggerer(log, is_ours)
            ended = self._follow(log)
            if not is_ours and ended.code not in COMPLETE:
                self._launch()
                ended = self._follow(log)
            return self._result(ended)

    def _launch(self) -> None:
        python = self.python or os.environ.get(PYTHON) or sys.executable
        options = {
            "template": self.template,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "max_errors": self.max_errors,
        }
        given = {name: value for name, value in options.items() if value is not None}
        words = command_line(
            self.input, self.model, self.out, self._directory(), {**self.options, **given}
        )
        said = shlex.join([python, "-m", "batchpipe", *(one_line(word, 100) for word in words)])
        self.log.info("%s", said)
        self._process = launch(python, words, self._directory(), self.env or {})
        if self._is_stopped:  # while it started
            self._process.terminate()

    def _follow(self, log: LogLines) -> Ended:
        """How the process ended, once it has; what it says goes to the task's log."""
        try:
            while (ended := look(self._directory())) is None:
                self._tell(log)
                time.sleep(FOLLOW_SECONDS)
        except BaseException:  # a timeout, or Ctrl-C in `airflow dags test`
            self.on_kill()
            raise
        self._tell(log)
        if self._process is not None:
            self._process.wait()
            self._process = None
        return ended

    def _tell(self, log: LogLines) -> None:
        for line in log.new():
            self.log.info("%s", line)

    def _wait_in_triggerer(self, log: LogLines, is_ours: bool) -> NoReturn:
        if self._is_stopped:
            raise AirflowException("the task was stopped; the next try goes on from there")
        # `airflow dags test` hands on the event alone, so that all goes into that.
        handed_on = {"log_bytes": log.read_bytes, "is_ours": is_ours}
        raise TaskDeferred(
            trigger=BatchPipeTrigger(self._directory(), self.poll_seconds, handed_on),
            method_name="execute_complete",
            timeout=self.execution_timeout,
        )

    def _result(self, ended: Ended) -> dict[str, Any]:
        refuse_failure(ended, self._directory())
        if self.rows_out is not None:
            write_result_rows(self._directory(), self.rows_out)
        return batch_manifest(self._directory(), self.rows_out)
