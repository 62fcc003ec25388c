"""What the model reads for each row: one source for the whole job, decided once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow.types as kinds

from batchpipe.errors import ConfigError
from batchpipe.planner.request import TokenIds
from batchpipe.rows.arrow import IntArray, number_lists
from batchpipe.rows.messages import BadMessages, Message, parse_messages
from batchpipe.rows.request_ids import read_request_ids
from batchpipe.rows.source import Rows
from batchpipe.rows.template import RenderError, Template
from batchpipe.rows.words import listed, shown

PromptKind = Literal["text", "messages", "token_ids"]

SOURCES: dict[str, PromptKind] = {
    "prompt": "text",
    "messages": "messages",
    "prompt_token_ids": "token_ids",
}
_LARGEST_ID = 2**31 - 1


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """One row's prompt: a text as it is, a chat for the chat template, or token ids."""

    kind: PromptKind
    value: str | list[Message] | TokenIds


@dataclass(frozen=True, slots=True, eq=False)
class PromptTable:
    """Every row's id, and its prompt or the sentence that says why it has none."""

    request_ids: tuple[str, ...]
    prompts: tuple[Prompt | str, ...]

    def __len__(self) -> int:
        return len(self.prompts)


class _BadPrompt(ValueError):
    """The message is the row's fault sentence."""


def build_prompts(
    rows: Rows,
    *,
    template: Template | None = None,
    prompt_column: str | None = None,
    id_column: str | None = None,
) -> PromptTable:
    """The prompt of every row, from the template, the named column or the one that is there.

    Raises ``ConfigError`` where the columns leave no choice or several, for a column that does not
    exist, and for a request id that two rows share. Input without a readable row asks for nothing.
    """
    if len(rows.faults) == len(rows):
        ids = tuple(f"row-{ordinal}" for ordinal in range(len(rows)))
        return PromptTable(ids, tuple(rows.faults[ordinal] for ordinal in range(len(rows))))
    found = _prompts(rows, template, prompt_column)
    ids = read_request_ids(rows, id_column)
    prompts = (rows.faults.get(ordinal, prompt) for ordinal, prompt in enumerate(found))
    return PromptTable(ids, tuple(prompts))


def _prompts(
    rows: Rows, template: Template | None, prompt_column: str | None
) -> Iterator[Prompt | str]:
    if template is not None:
        if prompt_column is not None:
            raise ConfigError("--template and --prompt-column exclude each other: give one")
        template.check_columns(rows.names)
        return _rendered(rows, template)
    column = prompt_column or _only_source(rows)
    if column not in rows.names:
        raise ConfigError(
            f"{rows.source} has no column {column!r} for --prompt-column; "
            f"its columns are {listed(rows.names)}"
        )
    kind = SOURCES.get(column) or _kind_of(rows, column)
    if kind == "token_ids":
        return _token_prompts(rows, column)
    return _cell_prompts(rows, column, kind)


def _only_source(rows: Rows) -> str:
    found = [name for name in SOURCES if name in rows.names]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(
            f"{rows.source} has the columns {listed(found)}, and only one can be the prompt: "
            f"choose it with --prompt-column"
        )
    raise ConfigError(
        f"{rows.source} has none of the columns {listed(SOURCES)}; "
        f"its columns are {listed(rows.names)}: choose one with --prompt-column "
        f"or build the prompt with --template"
    )


def _kind_of(rows: Rows, column: str) -> PromptKind:
    """What a renamed column holds, by its Arrow type or its first value."""
    if rows.table is not None:
        kind = rows.table.schema.field(column).type
        if kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind):
            return "messages" if kinds.is_struct(kind.value_type) else "token_ids"
        return "text"
    first = next((cell for cell in rows.values(column) if cell is not None), None)
    if isinstance(first, list) and first:
        return "messages" if isinstance(first[0], dict) else "token_ids"
    return "text"


def _rendered(rows: Rows, template: Template) -> Iterator[Prompt | str]:
    names = [name for name in template.lookups if name in rows.names]
    for row in rows.mappings(names):
        try:
            yield Prompt("text", _text("the rendered template", template.render(row)))
        except (RenderError, _BadPrompt) as bad:
            yield str(bad)


def _cell_prompts(rows: Rows, column: str, kind: PromptKind) -> Iterator[Prompt | str]:
    from_arrow = any(file.format == "parquet" for file in rows.files)
    for cell in rows.values(column):
        try:
            if kind == "text":
                yield Prompt(kind, _text(column, cell))
            else:
                yield Prompt(kind, _chat(column, cell, from_arrow=from_arrow))
        except _BadPrompt as bad:
            yield str(bad)


def _text(column: str, cell: object) -> str:
    if cell is None:
        raise _BadPrompt(f"{column} is null")
    if not isinstance(cell, str):
        raise _BadPrompt(f"{column} is {shown(cell)}, not a text")
    if not cell:
        raise _BadPrompt(f"{column} is empty")
    try:
        cell.encode()
    except UnicodeEncodeError as error:
        raise _BadPrompt(
            f"{column} has half a surrogate pair (\\u{ord(cell[error.start]):04x}) "
            f"at character {error.start + 1}"
        ) from error
    return cell


def _chat(column: str, cell: object, *, from_arrow: bool) -> list[Message]:
    if cell is None:
        raise _BadPrompt(f"{column} is null")
    try:
        return parse_messages(cell, from_arrow=from_arrow)
    except BadMessages as bad:
        joint = "" if str(bad).startswith("[") else " "
        raise _BadPrompt(f"{column}{joint}{bad}") from bad


def _token_prompts(rows: Rows, column: str) -> Iterator[Prompt | str]:
    """Token ids as int32 arrays; a Parquet list column never becomes Python numbers."""
    for cell in _id_lists(rows, column):
        try:
            yield Prompt("token_ids", _token_ids(column, cell))
        except _BadPrompt as bad:
            yield str(bad)


def _id_lists(rows: Rows, column: str) -> Iterator[object]:
    if rows.table is None:
        yield from rows.values(column)
        return
    for chunk in rows.table.column(column).chunks:
        lists = number_lists(chunk)
        yield from chunk.to_pylist() if lists is None else lists


def _token_ids(column: str, cell: object) -> TokenIds:
    if cell is None:
        raise _BadPrompt(f"{column} is null")
    if not isinstance(cell, (list, np.ndarray)):
        raise _BadPrompt(f"{column} is {shown(cell)}, not a list of token ids")
    if len(cell) == 0:
        raise _BadPrompt(f"{column} is empty")
    wrong = _first_wrong(cell)
    if wrong is not None:
        value = cell[wrong] if isinstance(cell, list) else int(cell[wrong])
        raise _BadPrompt(
            f"{column}[{wrong}] is {shown(value)}; a token id is a whole number from 0 to "
            f"{_LARGEST_ID}"
        )
    return np.asarray(cell, dtype=np.int32)


def _first_wrong(ids: list[object] | IntArray) -> int | None:
    """Index of the first element that is no token id."""
    if isinstance(ids, np.ndarray):
        if ids.min() >= 0 and ids.max() <= _LARGEST_ID:
            return None
        return int(np.flatnonzero((ids < 0) | (ids > _LARGEST_ID))[0])
    for index, token in enumerate(ids):
        if type(token) is not int or not 0 <= token <= _LARGEST_ID:
            return index
    return None
