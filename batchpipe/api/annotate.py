"""A dataframe in, the same dataframe with the model's answers out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, Unpack

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchpipe.api.frame_run import durable_results
from batchpipe.api.frames import Frame, columns_of, frame_of
from batchpipe.api.keywords import SamplingKeywords, check_names, checked
from batchpipe.api.llm import LLM, at_work, opened
from batchpipe.api.sampling import SamplingParams
from batchpipe.api.sentences import in_python, python_words
from batchpipe.api.watching import watching
from batchpipe.errors import ConfigError, FailedRowsWarning, RowsFailed
from batchpipe.journal.part_file import table_of
from batchpipe.rows.logprob_columns import asked_columns
from batchpipe.rows.memory import MemoryRows
from batchpipe.rows.prompts import SOURCES
from batchpipe.rows.results import COLUMNS
from batchpipe.rows.template import Template
from batchpipe.rows.words import listed
from batchpipe.run.in_memory import answer_in_memory
from batchpipe.run.prepare import prepare
from batchpipe.run.progress import Progress, Watcher

AnyFrame = TypeVar("AnyFrame")

DETAILS = (
    "status",
    "finish_reason",
    "error",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
)


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What is asked of which columns, and of the model."""

    table: pa.Table  # the columns that prompts are made of, and the one that names rows
    options: dict[str, Any]  # of a job
    template: Template | None


def annotate(
    frame: AnyFrame,
    *,
    model: LLM | str | os.PathLike[str],
    template: str | None = None,
    prompt: str | None = None,
    messages: str | None = None,
    output: str = "output",
    details: bool = False,
    errors: Literal["null", "raise"] = "null",
    id_column: str | None = None,
    seed: int | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    progress: bool | Callable[[Progress], object] = False,
    **sampling: Unpack[SamplingKeywords],
) -> AnyFrame:
    """The dataframe with a column of answers: polars (also lazy), pandas or a ``pyarrow.Table``.

    All rows are one planned batch. Other columns, their types and a pandas index stay as they are.
    A row whose prompt has a null or is wrong gets a null, and a `FailedRowsWarning` tells how many.

    >>> import batchpipe as bp, pyarrow as pa
    >>> from batchpipe.demo.prompt import MODEL_DIR, load_tickets, messages
    >>> tickets = load_tickets()[:2]
    >>> table = pa.table({"chat": [messages(ticket.text) for ticket in tickets]})
    >>> labelled = bp.annotate(
    ...     table, model=MODEL_DIR, messages="chat", output="label", max_tokens=48
    ... )
    >>> labelled.column_names
    ['chat', 'label']
    >>> print(labelled["label"][0])
    {"category":"return","urgency":"low","order":"C41777"}

    Args:
        frame: the dataframe
        model: an `LLM`, which stays open, or a model's name or directory
        template: Jinja over the columns, such as ``"Sentiment of: {{ text }}"``, or ``"@file"``
        prompt: the column that is the prompt: texts or lists of token ids
        messages: the column that has chats, lists of role and content or their JSON; without any
            of the three, the column named prompt, messages or prompt_token_ids
        output: the name of the new column; with ``n`` above 1 it has the first sample, and
            ``<output>_outputs`` all; ``logprobs`` and ``prompt_logprobs`` are columns behind it,
            ``<output>_logprobs`` and so on
        details: also ``<output>_status``, ``_finish_reason``, ``_error`` and the token counts
        errors: what becomes of failed rows: a null, or `RowsFailed` is raised
        id_column: names the rows, which their random numbers follow; else their places do
        seed: of this call's random numbers; None: the LLM's
        run_dir: a directory that keeps what is finished, so that the same call goes on after a
            stop and computes nothing twice; ``batchpipe status`` and ``retry`` know it
        progress: True shows it on stderr; a function is called with a `Progress`
        sampling: as `SamplingParams`, for all rows

    Raises:
        ConfigError: before any row is answered: a column is not there, an option is wrong, the
            model is not there or closed
        RowsFailed: rows failed, and ``errors="raise"`` asked for that
        StoppedEarly: with ``run_dir``, after Ctrl-C or where the device fails: the same call goes
            on
        TypeError: an unknown keyword, or what is no dataframe
    """
    check_names("annotate", sampling, SamplingKeywords.__annotations__)
    given = frame_of(frame)
    if errors not in ("null", "raise"):
        raise ConfigError(f"errors is {errors!r}; it must be 'null' or 'raise'")
    if not isinstance(model, (LLM, str, os.PathLike)):
        raise TypeError(f"model must be an LLM or a model's name, not {type(model).__name__}")
    params = SamplingParams(**sampling)
    with python_words():
        asked = _asked(given, template, prompt, messages, id_column)
    chosen = {} if seed is None else checked({"seed": seed})
    asked = replace(asked, options={**asked.options, **chosen, "sampling": params.given()})
    columns = _new_columns(given, output, params, details=details)
    watcher = watching(progress)
    if not len(given):
        results = pa.schema(list(COLUMNS.items())).empty_table()
    elif run_dir is None:
        results = _results(model, asked, watcher, early=errors == "raise")
    else:
        results = durable_results(model, asked.table, asked.options, os.fspath(run_dir), watcher)
    _tell_failed(results, output, raising=errors == "raise")
    added = {new: results.column(column) for new, column in columns.items()}
    return given.with_columns(pa.table(added))  # type: ignore[no-any-return]


def _asked(
    frame: Frame,
    template: str | None,
    prompt: str | None,
    messages: str | None,
    id_column: str | None,
) -> Asked:
    """The columns that are needed, and how prompts are made of them."""
    given = {"template": template, "prompt": prompt, "messages": messages}
    chosen = [name for name, value in given.items() if value is not None]
    if len(chosen) > 1:
        raise ConfigError(f"{' and '.join(chosen)} exclude each other: give one")
    names = [str(name) for name in frame.names]
    options: dict[str, Any] = {"row_sampling": False, "id_column": id_column}
    made: Template | None = None
    if template is not None:
        made = Template.from_option(template)
        made.check_columns(names)
        used = [name for name in made.lookups if name in names]
        options["template"] = template
    else:
        used = [prompt or messages or _only_prompt(names)]
        options["prompt_column"] = used[0]
    also = [id_column] if id_column is not None and id_column not in used else []
    table = columns_of(frame, [*used, *also])
    if messages is not None:  # by this name it is a chat whatever it holds, also JSON
        options["prompt_column"] = "messages"
        table = table.rename_columns({messages: "messages"})
    return Asked(table, options, made)


def _only_prompt(names: list[str]) -> str:
    """The one column that a job file would take for its prompt."""
    found = [name for name in SOURCES if name in names]
    if len(found) == 1:
        return found[0]
    why = f"the columns {listed(found)}" if found else f"none of the columns {listed(SOURCES)}"
    raise ConfigError(
        f"the dataframe has {why}; its columns are {listed(names)}: give template=, prompt= or "
        f"messages="
    )


def _new_columns(
    frame: Frame, output: str, params: SamplingParams, *, details: bool
) -> dict[str, str]:
    """New column -> the result column that it is."""
    several = (params.n or 1) > 1
    told = sorted(asked_columns(params.given()) - (set() if several else {"outputs_logprobs"}))
    others = (*(["outputs"] if several else []), *told, *(DETAILS if details else ()))
    columns = {output: "output"} | {f"{output}_{name}": name for name in others}
    taken = [name for name in columns if name in frame.names]
    if taken:
        raise ConfigError(
            f"the dataframe has a column {taken[0]!r} already; drop it, or give another output="
        )
    return columns


def _results(
    model: LLM | str | os.PathLike[str], asked: Asked, watcher: Watcher, *, early: bool
) -> pa.Table:
    """The rows' results; ``early`` raises for rows that cannot be asked before any is."""
    source = MemoryRows("the dataframe", tuple(asked.table.column_names), asked.table)
    with opened(model) as llm, at_work(llm) as loaded:
        options = replace(loaded.options, **asked.options)
        job = prepare(options, source, asked.template, loaded.language)
        if early and job.faults:
            row = min(job.faults)
            raise _failed(len(job.faults), len(source), row, job.faults[row])
        backend = replace(loaded.backend, options=options)
        rows = answer_in_memory(job, loaded.language, backend, loaded.dtype, watcher)
    return table_of([row.result for row in rows])


def _tell_failed(results: pa.Table, output: str, *, raising: bool) -> None:
    """A warning or an error where some row failed, with the first one's reason."""
    wrong = np.flatnonzero(pc.not_equal(results.column("status"), "success").to_numpy())
    if not len(wrong):
        return
    row = int(wrong[0])
    failed = _failed(len(wrong), len(results), row, results.column("error")[row].as_py())
    if raising:
        raise failed
    warnings.warn(f"{failed}; they are null in {output!r}", FailedRowsWarning, stacklevel=3)


def _failed(failed: int, rows: int, first: int, why: str) -> RowsFailed:
    return RowsFailed(
        f"{failed:,} of {rows:,} rows failed, the first of them row {first}: {in_python(why)}"
    )
