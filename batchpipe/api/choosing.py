"""Each row's label with the probabilities of all labels; nothing is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchpipe.api.asked import Asked
from batchpipe.api.loaded import Loaded
from batchpipe.errors import ConfigError
from batchpipe.job.prepare import Job
from batchpipe.journal.part_file import table_of
from batchpipe.rows.parameters import constraint_in
from batchpipe.rows.results import Result
from batchpipe.running.answers import failed_results
from batchpipe.running.progress import Watcher
from batchpipe.running.score_in_memory import scoring_by
from batchpipe.scoring import Choice, choose
from batchpipe.structured.constraint import most_tokens

PROBABILITIES, MARGIN = "probabilities", "margin"


def choices_table(
    loaded: Loaded, asked: Asked, job: Job, labels: Sequence[str], watcher: Watcher
) -> pa.Table:
    """The rows' results, with a struct of the labels' probabilities and the margin of the best.

    Raises:
        ConfigError: the model's tokens cannot tell the labels apart
    """
    tokens = loaded.language.tokenize(labels, special_tokens=False)
    answer = scoring_by(loaded.language, loaded.backend, loaded.dtype, watcher)
    end = min(loaded.language.eos_token_ids, default=None)
    try:
        choices = choose(answer, list(job.prompts), tokens, end_token_id=end)
    except ValueError as error:
        raise ConfigError(f"choices {list(labels)} cannot be told apart: {error}") from error
    found = dict(zip(job.runnable.tolist(), choices, strict=True))
    lengths = dict(zip(job.runnable.tolist(), job.prompts.lengths.tolist(), strict=True))
    results = [_result(row, choice, labels, lengths[row]) for row, choice in found.items()]
    table = table_of([*results, *failed_results(job.faults)])
    probabilities, margins = _numbers(found, len(asked.table), len(labels))
    unknown = np.isnan(margins)
    return table.append_column(
        PROBABILITIES,
        pa.StructArray.from_arrays(
            [pa.array(column, mask=unknown) for column in probabilities.T],
            names=list(labels),
            mask=pa.array(unknown),
        ),
    ).append_column(MARGIN, pa.array(margins, mask=unknown))


def empty_choices_table(labels: Sequence[str]) -> pa.Table:
    """The same of no rows."""
    struct = pa.struct([(label, pa.float64()) for label in labels])
    table = table_of([])
    table = table.append_column(PROBABILITIES, pa.array([], struct))
    return table.append_column(MARGIN, pa.array([], pa.float64()))


def with_room(asked: Asked) -> Asked:
    """The same with prompts that leave room for the longest of the choices that are asked for."""
    choices = constraint_in(asked.options["sampling"])
    assert choices is not None, "choices are given"
    sampling = {"max_tokens": most_tokens(choices)}
    return replace(asked, options={**asked.options, "sampling": sampling})


def _result(row: int, choice: Choice, labels: Sequence[str], prompt_tokens: int) -> Result:
    if choice.fault is not None:
        return Result.failed(row, choice.fault)
    return Result(
        row,
        output=labels[choice.best],
        prompt_tokens=prompt_tokens,
        cached_tokens=choice.cached_tokens,
    )


def _numbers(
    found: dict[int, Choice], rows: int, labels: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Probabilities and margins of all rows, NaN where there are none."""
    probabilities, margins = np.full((rows, labels), np.nan), np.full(rows, np.nan)
    for row, choice in found.items():
        if choice.fault is None:
            probabilities[row], margins[row] = choice.probabilities, choice.margin
    return probabilities, margins
