"""Batch files rewritten for another API or as job files, streamed; nothing is lost unsaid."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from batchpipe.errors import ConfigError
from batchpipe.rows.batch import Record, Rows
from batchpipe.rows.batch_files.anthropic_lines import read_anthropic, write_anthropic
from batchpipe.rows.batch_files.job_rows import ID, read_job_row, write_job_row
from batchpipe.rows.batch_files.mistral_lines import read_mistral, write_mistral
from batchpipe.rows.batch_files.openai_lines import read_openai, write_openai, write_vllm
from batchpipe.rows.batch_files.request import BadRequest, BatchRequest, Written
from batchpipe.rows.batch_files.result_lines import RESULTS
from batchpipe.rows.json_text import to_json
from batchpipe.rows.output_file import writing
from batchpipe.rows.output_path import check_output, output_format
from batchpipe.rows.parameters import check_sampling
from batchpipe.rows.parquet_rows import write_rows
from batchpipe.rows.request_ids import CUSTOM_ID, RequestIds
from batchpipe.rows.source import Source, open_source
from batchpipe.rows.words import listed

JOBS = ("parquet", "jsonl")  # both are job files
KINDS = {True: "a chat", False: "a plain prompt"}

READERS: dict[str, Callable[[Record], BatchRequest]] = {
    "openai": read_openai,
    "anthropic": read_anthropic,
    "mistral": read_mistral,
}
WRITERS: dict[str, Callable[[BatchRequest], Written]] = {
    "openai": write_openai,
    "vllm": write_vllm,
    "anthropic": write_anthropic,
    "mistral": write_mistral,
    **dict.fromkeys(JOBS, write_job_row),
}

# Fields by which a format is known, the first that fits; a job file is what none fits.
KNOWN_BY = {
    "openai": {"custom_id", "url", "body"},
    "anthropic": {"custom_id", "params"},
    "mistral": {"custom_id", "body"},
    **{name: set(found.fields) for name, found in RESULTS.items()},
}


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """What `batchpipe convert` was asked."""

    input: str
    out: str
    source: str | None = None  # a format; None: by the input's fields
    to: str | None = None  # a format; None: by OUT's ending
    model: str | None = None
    max_tokens: int | None = None
    drop_unsupported: bool = False
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class Converted:
    """What became of the input."""

    rows: int
    source: str
    to: str
    dropped: int  # requests of which something was left out
    output: str

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def __str__(self) -> str:
        dropped = f", something left out of {self.dropped:,} of them" if self.dropped else ""
        return f"{self.rows:,} lines from {self.source} to {self.to}{dropped}\n{self.output}"


def convert_file(options: ConvertOptions) -> Converted:
    """OUT has every request of the input in its own format, in order; or it is not there.

    Raises:
        ConfigError: a line is no request, or OUT's format cannot say all of it, with the line
    """
    to = options.to or _by_ending(options.out)
    if (to == "parquet") != (output_format(options.out) == "parquet"):
        raise ConfigError(f"--to {to} does not go with the name {options.out}")
    check_output(options.out, overwrite=options.overwrite, source=options.input)
    source = open_source(options.input)
    format_ = options.source or _by_fields(source)
    if format_ in RESULTS and to not in JOBS:
        raise ConfigError(
            f"{options.input} has results, which become a table: --to parquet or --to jsonl"
        )
    lines = _Lines(source, format_, to, options)
    if to == "parquet":
        write_rows(options.out, lines.batches)
    else:
        with writing(options.out) as stream:
            for batch in lines.batches():
                stream.writelines(to_json(line).encode() + b"\n" for line in batch)
    return Converted(len(source), format_, to, lines.dropped, options.out)


class _Lines:
    """The lines of OUT, as often as they are asked for."""

    def __init__(self, source: Source, format_: str, to: str, options: ConvertOptions) -> None:
        self.dropped = 0
        self._source, self._format, self._to, self._options = source, format_, to, options
        self._told: set[str] = set()
        self._kind: tuple[bool, str] | None = None  # of the first request, and where it is

    def batches(self) -> Iterator[list[Record]]:
        """All lines in order, a batch of the input at a time."""
        self.dropped = 0
        column = ID if self._format in JOBS else CUSTOM_ID
        ids = RequestIds(self._source, column if column in self._source.names else None)
        for rows in self._source.batches():
            named = zip(rows.mappings(rows.names), ids.read(rows), strict=True)
            yield [self._line(rows, place, *each) for place, each in enumerate(named)]

    def _line(self, rows: Rows, place: int, record: Record, name: str) -> Record:
        try:
            if place in rows.faults:
                raise BadRequest(rows.faults[place])
            if self._format in RESULTS:
                return RESULTS[self._format].row(record)
            return self._written(rows.where(place), self._request(record, name))
        except BadRequest as bad:
            raise ConfigError(rows.named(place, str(bad))) from bad

    def _request(self, record: Record, name: str) -> BatchRequest:
        options = self._options
        if self._format in JOBS:
            request = read_job_row(record, name, from_arrow=self._source.from_arrow)
        else:
            request = READERS[self._format](record)
        parameters = dict(request.parameters)
        if options.max_tokens is not None:
            parameters.setdefault("max_tokens", options.max_tokens)
        try:
            check_sampling(**{"temperature": 1.0, **parameters})
        except ConfigError as error:
            raise BadRequest(str(error)) from error
        return replace(request, model=options.model or request.model, parameters=parameters)

    def _written(self, where: str, request: BatchRequest) -> Record:
        if self._to in JOBS:
            self._check_kind(where, request)
        line, unsaid = WRITERS[self._to](request)
        if not unsaid:
            return line
        if not self._options.drop_unsupported:
            raise BadRequest(
                f"{self._to} has no word for {listed(unsaid)}: --drop-unsupported leaves it out"
            )
        self.dropped += 1
        for phrase in unsaid:
            name = phrase.partition(" (")[0]
            if name not in self._told:
                self._told.add(name)
                print(f"{where}: {phrase} is left out, here and below", file=sys.stderr)
        return line

    def _check_kind(self, where: str, request: BatchRequest) -> None:
        """A job file has one kind of prompt."""
        self._kind = self._kind or (request.is_chat, where)
        if self._kind[0] != request.is_chat:
            raise BadRequest(
                f"it is {KINDS[request.is_chat]}, and {self._kind[1]} is "
                f"{KINDS[not request.is_chat]}: a job file has one kind; give each its own file"
            )


def _by_ending(out: str) -> str:
    if output_format(out) == "parquet":
        return "parquet"
    raise ConfigError(f"{out} may be of several formats: say which by --to {'|'.join(WRITERS)}")


def _by_fields(source: Source) -> str:
    if source.schema is not None:
        return "parquet"
    names = set(source.names)
    return next((name for name, fields in KNOWN_BY.items() if fields <= names), "jsonl")
