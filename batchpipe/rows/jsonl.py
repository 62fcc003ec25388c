"""JSON lines: bytes in, one record or one sentence per line out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import BinaryIO

from batchpipe.errors import ConfigError

Record = dict[str, object]

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


@dataclass(frozen=True, slots=True)
class Lines:
    """What one file holds: a record per row, None where the row has a fault."""

    records: list[Record | None] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)  # of the line's bytes, 16 hex characters
    faults: dict[int, str] = field(default_factory=dict)  # row in this file -> sentence


class _BadLine(ValueError):
    """A line is no row; the message continues "FILE line N"."""


def read_lines(stream: BinaryIO, name: str, *, limit: int | None) -> Lines:
    """Every line of ``stream`` is a row of the answer, save blank ones; at most ``limit`` rows.

    Raises ``ConfigError`` for a ``.json`` file that is one array.
    """
    lines = Lines()
    for number, line in _numbered(stream):
        if limit is not None and len(lines.records) >= limit:
            break
        if not lines.records and line.lstrip().startswith(b"["):
            _refuse_array(name)
        lines.hashes.append(blake2b(line.strip(), digest_size=8).hexdigest())
        try:
            lines.records.append(parse_line(line))
        except _BadLine as bad:
            lines.faults[len(lines.records)] = f"{name} line {number}{bad}"
            lines.records.append(None)
    return lines


def _numbered(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, counted from 1 as editors do."""
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
