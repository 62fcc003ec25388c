"""JSON lines: bytes in, one record or one sentence per line out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import blake2b
from itertools import islice
from typing import BinaryIO

from batchpipe.errors import ConfigError
from batchpipe.rows.batch import Piece, Record

# Deeper values parse or not by the depth of the caller's own stack; real rows stay below ten.
DEEPEST = 200

_BOM = b"\xef\xbb\xbf"
_KINDS: dict[type, str] = {
    list: "an array",
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
}


class _BadLine(ValueError):
    """A line is no row; the message continues "FILE line N"."""


def read_lines(
    stream: BinaryIO, name: str, *, limit: int | None
) -> Iterator[tuple[int, bytes, Record | None, str]]:
    """Every line that is not blank: its number, itself, its object, and why it has none.

    At most ``limit`` lines; they are counted from 1, blank ones too, as editors do.

    Raises ``ConfigError`` for a ``.json`` file that is one array.
    """
    for row, (number, line) in enumerate(islice(_numbered(stream), limit)):
        if row == 0 and line.lstrip().startswith(b"["):
            _refuse_array(name)
        try:
            yield number, line, parse_line(line), ""
        except _BadLine as bad:
            yield number, line, None, f"{name} line {number}{bad}"


def line_pieces(
    stream: BinaryIO, name: str, *, limit: int | None, most_rows: int, most_bytes: int
) -> Iterator[Piece]:
    """All rows in order; a piece has at most so many rows, and one line more than so many bytes."""
    records: list[Record | None] = []
    hashes: list[str] = []  # of the line's bytes, 16 hex characters
    lines: list[int] = []
    faults: dict[int, str] = {}
    size_bytes = 0
    for number, line, record, fault in read_lines(stream, name, limit=limit):
        if record is None:
            faults[len(records)] = fault
        records.append(record)
        lines.append(number)
        hashes.append(blake2b(line.strip(), digest_size=8).hexdigest())
        size_bytes += len(line)
        if len(records) >= most_rows or size_bytes >= most_bytes:
            yield Piece(size_bytes, faults, records=records, hashes=hashes, lines=lines)
            records, hashes, lines, faults, size_bytes = [], [], [], {}, 0
    if records:
        yield Piece(size_bytes, faults, records=records, hashes=hashes, lines=lines)


def _numbered(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers."""
    for number, line in enumerate(stream, start=1):
        text = line.removeprefix(_BOM) if number == 1 else line
        if text.strip():
            yield number, text


def _refuse_array(name: str) -> None:
    if name.lower().removesuffix(".gz").removesuffix(".zst").endswith(".json"):
        raise ConfigError(
            f"{name} is one JSON array, and a job file has one object per line: "
            f"jq -c '.[]' {name} > jobs.jsonl converts it"
        )


def parse_line(line: bytes) -> Record:
    """The object on this line; ``_BadLine`` says where and why it is none."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        where = error.start
        raise _BadLine(f" byte {where + 1}: not UTF-8 (byte 0x{line[where]:02x})") from error
    if line.count(b"[") + line.count(b"{") > DEEPEST and _depth(text) > DEEPEST:
        raise _BadLine(f": nested deeper than {DEEPEST} levels")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise _BadLine(f" column {error.colno}: not JSON ({error.msg})") from error
    except ValueError as error:  # a whole number of more than 4,300 digits
        raise _BadLine(f": not readable ({error})") from error
    if not isinstance(value, dict):
        raise _BadLine(f": {_KINDS[type(value)]}, not an object with columns as keys")
    return value


def _depth(text: str) -> int:
    """How deep brackets nest, strings aside."""
    deepest = level = 0
    in_string = escaped = False
    for sign in text:
        if in_string:
            if escaped:
                escaped = False
            elif sign == "\\":
                escaped = True
            elif sign == '"':
                in_string = False
        elif sign == '"':
            in_string = True
        elif sign in "[{":
            level += 1
            deepest = max(deepest, level)
        elif sign in "]}":
            level -= 1
    return deepest
