"""One result a row, and the file of all of them: input columns first, then the answer."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from batchpipe.rows.batch_files.openai_answers import OpenAILines, write_openai_answers
from batchpipe.rows.line_results import write_lines
from batchpipe.rows.logprob_columns import LOGPROB_COLUMNS, Cell
from batchpipe.rows.output_file import writing
from batchpipe.rows.output_path import check_output, output_format
from batchpipe.rows.parquet_results import write_parquet
from batchpipe.rows.source import Rows, Source
from batchpipe.structured.column import Column

__all__ = ["OpenAILines", "Result", "check_output", "write_results"]

Status = Literal["success", "error", "invalid_output"]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one row; ``outputs`` has all samples where the row asked for several."""

    ordinal: int
    output: str | None = None
    parsed: str | None = None  # the value in the output, as JSON, where the row asked for a form
    outputs: tuple[str, ...] | None = None
    status: Status = "success"
    finish_reason: FinishReason | None = None
    finish_reasons: tuple[FinishReason, ...] | None = None  # of all ``outputs``
    error: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    output_token_ids: tuple[int, ...] | None = None  # of the first sample
    logprobs: Cell | None = None  # of the first sample's tokens
    outputs_logprobs: tuple[Cell, ...] | None = None  # of all samples, beside ``outputs``
    prompt_logprobs: Cell | None = None

    @classmethod
    def failed(cls, ordinal: int, sentence: str) -> Result:
        """The result of a row that got no answer, with the reason."""
        return cls(ordinal, status="error", error=sentence)


# Result column -> Arrow type, in the order of the file.
COLUMNS: dict[str, pa.DataType] = {
    "output": pa.string(),
    "parsed": pa.string(),
    "outputs": pa.list_(pa.string()),
    "status": pa.string(),
    "finish_reason": pa.string(),
    "finish_reasons": pa.list_(pa.string()),
    "error": pa.string(),
    "prompt_tokens": pa.int64(),
    "cached_tokens": pa.int64(),
    "completion_tokens": pa.int64(),
    "output_token_ids": pa.list_(pa.int32()),
    **LOGPROB_COLUMNS,
}


def write_results(
    source: Source,
    answers: Iterable[pa.Table],
    out: str,
    *,
    with_token_ids: bool,
    several: bool,
    logprobs: Collection[str] = (),
    parsed: Column | None = None,
    openai: OpenAILines | None = None,
) -> None:
    """OUT holds one row per input row, in input order: its own columns, then the answer's.

    ``answers`` are tables of `COLUMNS`, of any sizes, which together have one row per input row in
    the same order; no more of them than one batch of the input needs is held. The format follows
    OUT's ending. ``outputs`` is there where ``several`` says that some row has several, of the
    `LOGPROB_COLUMNS` those that ``logprobs`` names, and ``parsed`` where it is given a type, in
    JSON lines as the value that it is. An input column of a result column's name is kept as
    ``input_<name>``. OUT appears whole or not at all.
    As JSON lines, the answers to batch lines have the form that ``openai`` describes.

    Raises:
        OSError: the disk is full, or the storage of OUT does not take the file
        InputChanged: a job file has other rows than before
    """
    is_parquet = output_format(out) == "parquet"
    if openai is not None and not is_parquet:
        with writing(out) as stream:
            write_openai_answers(stream, _answered(source, answers, list(COLUMNS)), openai)
        return
    source = source.plain
    dropped = LOGPROB_COLUMNS.keys() - set(logprobs)
    dropped |= set() if several else {"outputs", "outputs_logprobs", "finish_reasons"}
    if parsed is None:
        dropped.add("parsed")
    if not with_token_ids:
        dropped.add("output_token_ids")
    added = pa.schema([(name, kind) for name, kind in COLUMNS.items() if name not in dropped])
    kept = kept_names(source.names, added.names)
    answered = _answered(source, answers, added.names)
    with writing(out) as stream:
        if is_parquet:
            write_parquet(stream, source, answered, kept, added, parsed)
        else:
            write_lines(stream, source, answered, kept, added)


def _answered(
    source: Source, answers: Iterable[pa.Table], names: Sequence[str]
) -> Iterator[tuple[Rows, pa.Table]]:
    """Every batch of the source, and these columns of the answers to its rows."""
    coming = iter(answers)
    waiting = pa.schema(list(COLUMNS.items())).empty_table()
    told = 0
    for rows in source.batches():
        while len(waiting) < len(rows):
            answer = next(coming, None)
            assert answer is not None, f"{told} results for {len(source)} rows"
            told += len(answer)
            waiting = pa.concat_tables([waiting, answer])
        yield rows, waiting.slice(0, len(rows)).select(names)
        waiting = waiting.slice(len(rows))
    told += sum(len(answer) for answer in coming)
    assert told == len(source), f"{told} results for {len(source)} rows"


def kept_names(names: Sequence[str], columns: Sequence[str]) -> dict[str, str]:
    """Input column -> its name in the results: its own, save where a result column has that."""
    taken = {*names, *columns}
    kept: dict[str, str] = {}
    for name in names:
        new = name
        while new in columns or (new != name and new in taken):
            new = f"input_{new}"
        taken.add(new)
        kept[name] = new
    return kept
