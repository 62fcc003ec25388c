"""What the model reads for each row: one source for the whole job, decided once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow.types as kinds

from batchpipe.errors import ConfigError
from batchpipe.planner.request import Prompts
from batchpipe.rows.messages import BadMessages, Message, parse_messages
from batchpipe.rows.request_ids import read_request_ids
from batchpipe.rows.source import Rows
from batchpipe.rows.template import RenderError, Template
from batchpipe.rows.token_ids import read_token_ids
from batchpipe.rows.words import listed, shown

PromptKind = Literal["text", "messages", "token_ids"]
Cell = TypeVar("Cell")

SOURCES: dict[str, PromptKind] = {
    "prompt": "text",
    "messages": "messages",
    "prompt_token_ids": "token_ids",
}


@dataclass(frozen=True, slots=True, eq=False)
class PromptTable:
    """Every row's id, and its prompt or the sentence that says why it has none.

    All prompts are of one kind: texts as they are, chats for the chat template, or token ids.
    """

    request_ids: tuple[str, ...]  # [all rows]
    kind: PromptKind
    rows: npt.NDArray[np.int64]  # those with a prompt, rising  # [prompts]
    prompts: Prompts | list[str] | list[list[Message]]  # [prompts]
    faults: dict[int, str]  # row -> why it has no prompt

    def __len__(self) -> int:
        return len(self.request_ids)


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
        return PromptTable(ids, "text", np.zeros(0, dtype=np.int64), [], dict(rows.faults))
    column = None if template is not None else prompt_column or _only_source(rows)
    _check_source(rows, template, prompt_column)
    ids = read_request_ids(rows, id_column)
    if column is None:
        assert template is not None, "no column and no template"
        return _rendered(rows, ids, template)
    kind = SOURCES.get(column) or _kind_of(rows, column)
    if kind == "token_ids":
        return _token_prompts(rows, ids, column)
    if kind == "text":
        return _read(rows, ids, kind, rows.values(column), partial(_text, column))
    from_arrow = any(file.format == "parquet" for file in rows.files)
    chat = partial(_chat, column, from_arrow=from_arrow)
    return _read(rows, ids, kind, rows.values(column), chat)


def _check_source(rows: Rows, template: Template | None, prompt_column: str | None) -> None:
    if template is not None:
        if prompt_column is not None:
            raise ConfigError("--template and --prompt-column exclude each other: give one")
        template.check_columns(rows.names)
    elif prompt_column is not None and prompt_column not in rows.names:
        raise ConfigError(
            f"{rows.source} has no column {prompt_column!r} for --prompt-column; "
            f"its columns are {listed(rows.names)}"
        )


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


def _rendered(rows: Rows, ids: tuple[str, ...], template: Template) -> PromptTable:
    def render(row: dict[str, object]) -> str:
        try:
            return _text("the rendered template", template.render(row))
        except RenderError as bad:
            raise _BadPrompt(str(bad)) from bad

    names = [name for name in template.lookups if name in rows.names]
    return _read(rows, ids, "text", rows.mappings(names), render)


def _read(
    rows: Rows,
    ids: tuple[str, ...],
    kind: PromptKind,
    cells: Iterable[Cell],
    read: Callable[[Cell], Any],
) -> PromptTable:
    """What ``read`` makes of each readable row's cell; the message of a `_BadPrompt` else."""
    faults = dict(rows.faults)
    good: list[int] = []
    prompts: list[Any] = []
    for ordinal, cell in enumerate(cells):
        if ordinal in faults:
            continue
        try:
            prompts.append(read(cell))
            good.append(ordinal)
        except _BadPrompt as bad:
            faults[ordinal] = str(bad)
    return PromptTable(ids, kind, np.array(good, dtype=np.int64), prompts, faults)


def _token_prompts(rows: Rows, ids: tuple[str, ...], column: str) -> PromptTable:
    found = read_token_ids(rows, column)
    readable = np.ones(len(rows), dtype=np.bool_)
    readable[list(rows.faults)] = False
    kept = np.flatnonzero(readable[found.rows])
    faults = {**rows.faults, **{r: why for r, why in found.faults.items() if readable[r]}}
    return PromptTable(ids, "token_ids", found.rows[kept], found.prompts.take(kept), faults)


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
