"""A dataframe in, the same dataframe with the model's answers out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, TypeVar, Unpack

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchpipe.api.asked import Asked, asked_of
from batchpipe.api.choosing import (
    MARGIN,
    PROBABILITIES,
    choices_table,
    empty_choices_table,
    with_room,
)
from batchpipe.api.frame_run import durable_results
from batchpipe.api.frames import Frame, frame_of
from batchpipe.api.keywords import SamplingKeywords, check_names, checked
from batchpipe.api.llm import at_work
from batchpipe.api.model import Model, check_model, opened
from batchpipe.api.sampling import SamplingParams
from batchpipe.api.sentences import in_python, python_words
from batchpipe.api.watching import watching
from batchpipe.errors import ConfigError, FailedRowsWarning, RowsFailed
from batchpipe.job.forms import check_own_form
from batchpipe.job.prepare import prepare
from batchpipe.journal.part_file import table_of
from batchpipe.rows.logprob_columns import asked_columns
from batchpipe.rows.memory import MemoryRows
from batchpipe.rows.parameters import constraint_in
from batchpipe.running.in_memory import answer_in_memory
from batchpipe.running.progress import Progress, Watcher
from batchpipe.structured.column import column_of
from batchpipe.structured.constraint import labels_of

AnyFrame = TypeVar("AnyFrame")

DETAILS = (
    "status",
    "finish_reason",
    "error",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
)


def annotate(
    frame: AnyFrame,
    *,
    model: Model,
    template: str | None = None,
    prompt: str | None = None,
    messages: str | None = None,
    output: str = "output",
    details: bool = False,
    probabilities: bool = False,
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

    With ``choices`` and ``probabilities`` nothing is drawn: each row has its likeliest label.

    >>> prompts = pa.table({"prompt": ['{"category":"', '{"category":"delivery","urgency":"']})
    >>> labelled = bp.annotate(
    ...     prompts, model=MODEL_DIR, choices=["low", "high"], probabilities=True, output="urgency"
    ... )
    >>> labelled.column_names
    ['prompt', 'urgency', 'urgency_probabilities', 'urgency_margin']

    Args:
        frame: the dataframe
        model: an `LLM`, which stays open, or a model's name or directory
        template: Jinja over the columns, such as ``"Sentiment of: {{ text }}"``, or ``"@file"``
        prompt: the column that is the prompt: texts or lists of token ids
        messages: the column that has chats, lists of role and content or their JSON; without any
            of the three, the column named prompt, messages or prompt_token_ids
        output: the name of the new column; with ``n`` above 1 it has the first sample, and
            ``<output>_outputs`` all; ``logprobs`` and ``prompt_logprobs`` are columns behind it,
            ``<output>_logprobs`` and so on. With ``choices`` or ``schema``, ``<output>_parsed`` is
            the value in the answer: categorical, or a struct of the schema's types
        details: also ``<output>_status``, ``_finish_reason``, ``_error`` and the token counts
        probabilities: with ``choices``: the column has each row's likeliest label, a struct
            ``<output>_probabilities`` how likely each is given that it is one of them, and
            ``<output>_margin`` by how much the best one is more than the second; each label of a
            row counts in its progress
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
    check_model(model)
    params = SamplingParams(**sampling)
    labels = _labels(params) if probabilities else None
    with python_words():
        asked = asked_of(given, template, prompt, messages, id_column)
        check_own_form({} if labels else params.given())
    chosen = {} if seed is None else checked({"seed": seed})
    asked = replace(asked, options={**asked.options, **chosen, "sampling": params.given()})
    columns = _new_columns(given, output, params, details=details, probable=labels is not None)
    watcher = watching(progress)
    if labels is not None and run_dir is not None:
        raise ConfigError("probabilities are kept in no run_dir: leave one of both")
    if run_dir is not None and len(given):
        results = durable_results(model, asked.table, asked.options, os.fspath(run_dir), watcher)
    else:
        results = _results(model, asked, labels, watcher, early=errors == "raise")
    _tell_failed(results, output, raising=errors == "raise")
    added = {new: results.column(column) for new, column in columns.items()}
    return given.with_columns(pa.table(added))  # type: ignore[no-any-return]


def _new_columns(
    frame: Frame, output: str, params: SamplingParams, *, details: bool, probable: bool
) -> dict[str, str]:
    """New column -> the result column that it is."""
    several = (params.n or 1) > 1
    told = sorted(asked_columns(params.given()) - (set() if several else {"outputs_logprobs"}))
    others = [PROBABILITIES, MARGIN] if probable else []
    others += ["parsed"] if column_of(constraint_in(params.given()), ()) and not probable else []
    others += ["outputs"] if several else []
    others += [*told, *(DETAILS if details else ())]
    columns = {output: "output"} | {f"{output}_{name}": name for name in others}
    taken = [name for name in columns if name in frame.names]
    if taken:
        raise ConfigError(
            f"the dataframe has a column {taken[0]!r} already; drop it, or give another output="
        )
    return columns


def _labels(params: SamplingParams) -> list[str]:
    """The choices, which are all that is asked."""
    given = params.given()
    others = [name for name in given if name != "choices"]
    if others or not given:
        why = f"leave {', '.join(others)}" if others else "give choices"
        raise ConfigError(f"probabilities tells how likely choices are and draws nothing: {why}")
    asked = constraint_in(given)
    assert asked is not None, "choices are given"
    return labels_of(asked)


def _typed(results: pa.Table, sampling: dict[str, Any]) -> pa.Table:
    """The same with the values in the answers in the type of what was asked."""
    column = column_of(constraint_in(sampling), ())
    if column is None:
        return results
    place = results.column_names.index("parsed")
    return results.set_column(place, "parsed", column.array(results.column("parsed")))


def _results(
    model: Model,
    asked: Asked,
    labels: list[str] | None,
    watcher: Watcher,
    *,
    early: bool,
) -> pa.Table:
    """The rows' results; ``early`` raises for rows that cannot be asked before any is."""
    if labels is not None:
        asked = with_room(asked)
    if not len(asked.table):
        if labels is not None:
            return empty_choices_table(labels)
        return _typed(table_of([]), asked.options["sampling"])
    source = MemoryRows("the dataframe", tuple(asked.table.column_names), asked.table)
    with opened(model) as llm, at_work(llm) as loaded:
        options = replace(loaded.options, **asked.options)
        job = prepare(options, source, asked.template, loaded.language)
        if early and job.faults:
            row = min(job.faults)
            raise _failed(len(job.faults), len(source), row, job.faults[row])
        loaded = replace(loaded, backend=replace(loaded.backend, options=options))
        if labels is not None:
            return choices_table(loaded, asked, job, labels, watcher)
        rows = answer_in_memory(job, loaded.language, loaded.backend, loaded.dtype, watcher)
    return _typed(table_of([row.result for row in rows]), asked.options["sampling"])


def _tell_failed(results: pa.Table, output: str, *, raising: bool) -> None:
    """A warning or an error where some row failed, with the first one's reason."""
    wrong = np.flatnonzero(pc.not_equal(results.column("status"), "success").to_numpy())
    if not len(wrong):
        return
    row = int(wrong[0])
    failed = _failed(len(wrong), len(results), row, results.column("error")[row].as_py())
    if raising:
        raise failed
    where = f"null in {output!r}"
    if pc.any(pc.equal(results.column("status"), "invalid_output")).as_py():
        where = f"null in {output!r}, or have there what does not have the form"
    warnings.warn(f"{failed}; they are {where}", FailedRowsWarning, stacklevel=3)


def _failed(failed: int, rows: int, first: int, why: str) -> RowsFailed:
    return RowsFailed(
        f"{failed:,} of {rows:,} rows failed, the first of them row {first}: {in_python(why)}"
    )
