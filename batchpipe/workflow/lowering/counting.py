"""What can be counted of a workflow before it runs: rows, different values, tokens.

Reads the input and tokenizers; no weights, and asks nobody.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow as pa

from batchpipe.job.language import Language
from batchpipe.job.row_sampling import DEFAULT_MAX_TOKENS
from batchpipe.planner.query.counts import Counts
from batchpipe.planner.query.estimate import OUTPUT_TOKENS
from batchpipe.planner.query.graph import INPUT, Operator
from batchpipe.planner.query.prompt import pieces
from batchpipe.planner.query.statistics import Statistics, distinct_values
from batchpipe.rows.source import Source
from batchpipe.rows.template import RenderError
from batchpipe.structured.constraint import constraint_of, labels_of
from batchpipe.workflow.lowering.expressions import Expression
from batchpipe.workflow.lowering.input_columns import first_rows
from batchpipe.workflow.lowering.lower import Lowered
from batchpipe.workflow.lowering.operator_of import models_of
from batchpipe.workflow.lowering.readings import readings_of
from batchpipe.workflow.steps import Asked, Cascade, Explode, Filter, Flow, Step, Vote

SAMPLED = 256  # values of a column that are tokenized


def counted(lowered: Lowered, source: Source, languages: Mapping[str, Language]) -> Statistics:
    """What is known of the workflow over this input; languages by the models' names in it."""
    flow, graph = lowered.flow, lowered.graph
    read = sorted({column for each in graph.operators for column in each.reads} & {*graph.inputs})
    rows = list(first_rows(source, read))
    inner, kept = _rows_of_lists(lowered, rows, len(source)), _kept(lowered, rows)
    known = Statistics(rows={INPUT: float(len(source)), **inner}, kept=kept)
    sets = Counts(graph, known).together_read()
    asking = [each for each in graph.operators if each.models]
    return Statistics(
        rows=known.rows,
        distinct=distinct_values(_fingerprints(source, read), sets) if sets else {},
        column_tokens=_column_tokens(rows, read, asking, languages),
        static_tokens={each.name: _static_tokens(lowered, each, languages) for each in asking},
        output_tokens={
            each.name: _output_tokens(flow.by_name[each.name], languages) for each in asking
        },
        kept=kept,
        prompts_per_row=samples_of(flow),
    )


def samples_of(flow: Flow) -> dict[str, float]:
    """Prompts for a row, where they are several: a vote's, by its first model."""
    return {step.name: float(step.samples) for step in flow.steps if isinstance(step, Vote)}


def _rows_of_lists(
    lowered: Lowered, rows: Sequence[Mapping[str, Any]], whole: int
) -> dict[str, float]:
    """Rows of the levels that are made of lists of the input."""
    means = {
        name: fmean([len(value) if isinstance(value, list) else 0 for value in values])
        for name, values in _evaluated(lowered, Explode, rows).items()
        if values
    }
    return {name: mean * whole for name, mean in means.items()}


def _kept(lowered: Lowered, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The share of rows that go on, by the filters that read the input alone."""
    found = _evaluated(lowered, Filter, rows)
    return {name: fmean(map(bool, values)) for name, values in found.items() if values}


def _evaluated(
    lowered: Lowered, kind: type[Step], rows: Sequence[Mapping[str, Any]]
) -> dict[str, list[Any]]:
    """What these steps' expressions make of the rows, where they read nothing but the input."""
    found: dict[str, list[Any]] = {}
    for step in lowered.flow.steps:
        if not isinstance(step, kind):
            continue
        [expression] = readings_of(step, lowered.names).values()
        if isinstance(expression, Expression) and not any("." in c for c in expression.columns):
            values = found.setdefault(step.name, [])
            for row in rows:
                with suppress(RenderError):
                    values.append(expression.evaluate(row))
    return found


def _fingerprints(source: Source, names: Sequence[str]) -> pa.Table:
    """A number for each value, equal for equal values; 8 bytes, however long the text is."""
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for batch in source.batches():
        for name in names:
            hashes = (hash(_comparable(value)) for value in batch.values(name))
            columns[name].append(np.fromiter(hashes, dtype=np.int64, count=len(batch)))
    none = np.empty(0, dtype=np.int64)
    return pa.table({name: np.concatenate([none, *parts]) for name, parts in columns.items()})


def _comparable(value: object) -> object:
    if isinstance(value, (list, dict)):
        return json.dumps(value, default=str, sort_keys=True)
    return value


def _column_tokens(
    rows: Sequence[Mapping[str, Any]],
    read: Iterable[str],
    asking: Iterable[Operator],
    languages: Mapping[str, Language],
) -> dict[str, float]:
    """Mean tokens of the columns that prompts read, by the first model that reads them."""
    found: dict[str, float] = {}
    sample = rows[:: max(1, len(rows) // SAMPLED)]
    for operator in asking:
        for column in {*operator.reads} & {*read} - found.keys():
            texts = [str(row[column]) for row in sample if row.get(column) is not None]
            found[column] = _tokens(texts, languages[operator.models[0]])
    return found


def _tokens(texts: list[str], language: Language) -> float:
    if not texts:
        return 0.0
    return fmean(map(len, language.tokenize(texts, special_tokens=False)))


def _static_tokens(
    lowered: Lowered, operator: Operator, languages: Mapping[str, Language]
) -> tuple[float, ...]:
    """Of each block, tokens of what is the same in every prompt."""
    language = languages[operator.models[0]]
    counts = []
    for block in operator.blocks:
        texts = [p.text for p in pieces(lowered.graph, operator, block) if not p.columns]
        counts.append(float(sum(map(len, language.tokenize(texts, special_tokens=False)))))
    return tuple(counts)


def _output_tokens(step: Step, languages: Mapping[str, Language]) -> float:
    """Tokens of an answer, as far as what is asked tells; a choice is scored and not written."""
    if isinstance(step, Cascade):
        return 1.0
    assert isinstance(step, Asked), f"{step.name} asks no model"
    if "choices" in step.sampling:
        labels = labels_of(constraint_of("choices", step.sampling["choices"]))
        return _tokens(labels, languages[models_of(step)[0]]) + 1
    most = float(step.sampling.get("max_tokens", DEFAULT_MAX_TOKENS))
    return most if step.sampling.get("ignore_eos") else min(most, OUTPUT_TOKENS)
