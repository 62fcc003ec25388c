"""What the model reads for each row: one source for the whole job, decided once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow.types as kinds

from batchpipe.errors import ConfigError
from batchpipe.planner.request import Prompts
from batchpipe.rows.batch import Rows, RowSource
from batchpipe.rows.messages import BadMessages, Message, parse_messages
from batchpipe.rows.template import RenderError, Template
from batchpipe.rows.token_ids import read_token_ids
from batchpipe.rows.words import listed, shown

PromptKind = Literal["text", "messages", "token_ids", "rendered"]
Wanted = npt.NDArray[np.bool_]  # [rows of a batch]

SOURCES: dict[str, PromptKind] = {
    "prompt": "text",
    "messages": "messages",
    "prompt_token_ids": "token_ids",
}


@dataclass(frozen=True, slots=True, eq=False)
class PromptTable:
    """The prompt of each row that was wanted, or the sentence that says why it has none.

    All prompts are of one kind: texts as they are, chats for the chat template, what that made of
    chats, or token ids.
    """

    kind: PromptKind
    rows: npt.NDArray[np.int64]  # places of those with a prompt, rising  # [prompts]
    prompts: Prompts | list[str] | list[list[Message]]  # [prompts]
    faults: dict[int, str]  # place -> why it has no prompt


class BadPrompt(ValueError):
    """What should be a prompt is none; the message is the row's fault sentence."""


class PromptReader:
    """Reads prompts from the template, the named column or the one column that is there.

    Raises ``ConfigError`` where the columns leave no choice or several, and for a column that does
    not exist. Input without a readable row asks for nothing.
    """

    def __init__(
        self,
        source: RowSource,
        *,
        template: Template | None = None,
        prompt_column: str | None = None,
    ) -> None:
        self._template = template
        self._from_arrow = source.from_arrow
        self._kind: PromptKind = "text"
        self._column: str | None = None
        if source.readable:
            _check_options(source, template, prompt_column)
            if template is None:
                self._column = prompt_column or _only_source(source)
                self._kind = SOURCES.get(self._column) or _kind_of(source, self._column)

    def read(self, rows: Rows, wanted: Wanted | None = None) -> PromptTable:
        """The prompts of these rows; those not ``wanted`` have neither a prompt nor a fault."""
        readable = np.ones(len(rows), dtype=np.bool_) if wanted is None else wanted.copy()
        faults = {place: why for place, why in rows.faults.items() if readable[place]}
        readable[list(faults)] = False
        if not readable.any():
            return PromptTable(self._kind, np.zeros(0, dtype=np.int64), _none(self._kind), faults)
        if self._kind == "token_ids":
            assert self._column is not None
            return _token_prompts(rows, self._column, readable, faults)
        return self._read(rows, readable, faults)

    def _read(self, rows: Rows, readable: Wanted, faults: dict[int, str]) -> PromptTable:
        good: list[int] = []
        prompts: list[Any] = []
        for place, cell in enumerate(self._cells(rows)):
            if not readable[place]:
                continue
            try:
                prompts.append(self._prompt(cell))
                good.append(place)
            except BadPrompt as bad:
                faults[place] = str(bad)
        return PromptTable(self._kind, np.array(good, dtype=np.int64), prompts, faults)

    def _cells(self, rows: Rows) -> Iterable[Any]:
        """What each row's prompt is made of: a cell, or a mapping for the template."""
        if self._template is None:
            assert self._column is not None
            return rows.values(self._column)
        return rows.mappings([name for name in self._template.lookups if name in rows.names])

    def _prompt(self, cell: Any) -> str | list[Message]:
        if self._template is not None:
            return _rendered(self._template, cell)
        assert self._column is not None
        if self._kind == "text":
            return prompt_text(self._column, cell)
        return _chat(self._column, cell, from_arrow=self._from_arrow)


def _check_options(source: RowSource, template: Template | None, prompt_column: str | None) -> None:
    if template is not None:
        if prompt_column is not None:
            raise ConfigError("--template and --prompt-column exclude each other: give one")
        template.check_columns(source.names)
    elif prompt_column is not None and prompt_column not in source.names:
        raise ConfigError(
            f"{source.spec} has no column {prompt_column!r} for --prompt-column; "
            f"its columns are {listed(source.names)}"
        )


def _only_source(source: RowSource) -> str:
    found = [name for name in SOURCES if name in source.names]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(
            f"{source.spec} has the columns {listed(found)}, and only one can be the prompt: "
            f"choose it with --prompt-column"
        )
    raise ConfigError(
        f"{source.spec} has none of the columns {listed(SOURCES)}; "
        f"its columns are {listed(source.names)}: choose one with --prompt-column "
        f"or build the prompt with --template"
    )


def _kind_of(source: RowSource, column: str) -> PromptKind:
    """What a renamed column holds, by its Arrow type or its first value in the whole job."""
    if source.schema is not None:
        kind = source.schema.field(column).type
        if kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind):
            return "messages" if kinds.is_struct(kind.value_type) else "token_ids"
        return "text"
    cells = (cell for rows in source.batches() for cell in rows.values(column))
    first = next((cell for cell in cells if cell is not None), None)
    if isinstance(first, list) and first:
        return "messages" if isinstance(first[0], dict) else "token_ids"
    return "text"


def _none(kind: PromptKind) -> Prompts | list[str]:
    return Prompts.pack([]) if kind == "token_ids" else []


def _token_prompts(
    rows: Rows, column: str, readable: Wanted, faults: dict[int, str]
) -> PromptTable:
    found = read_token_ids(rows, column)
    kept = np.flatnonzero(readable[found.rows])
    faults |= {place: why for place, why in found.faults.items() if readable[place]}
    return PromptTable("token_ids", found.rows[kept], found.prompts.take(kept), faults)


def _rendered(template: Template, row: Mapping[str, object]) -> str:
    try:
        return prompt_text("the rendered template", template.render(row))
    except RenderError as bad:
        raise BadPrompt(str(bad)) from bad


def prompt_text(column: str, cell: object) -> str:
    """The cell as a text that has tokens; `BadPrompt` where it is none."""
    if cell is None:
        raise BadPrompt(f"{column} is null")
    if not isinstance(cell, str):
        raise BadPrompt(f"{column} is {shown(cell)}, not a text")
    if not cell:
        raise BadPrompt(f"{column} is empty")
    try:
        cell.encode()
    except UnicodeEncodeError as error:
        raise BadPrompt(
            f"{column} has half a surrogate pair (\\u{ord(cell[error.start]):04x}) "
            f"at character {error.start + 1}"
        ) from error
    return cell


def _chat(column: str, cell: object, *, from_arrow: bool) -> list[Message]:
    if cell is None:
        raise BadPrompt(f"{column} is null")
    try:
        return parse_messages(cell, from_arrow=from_arrow)
    except BadMessages as bad:
        joint = "" if str(bad).startswith("[") else " "
        raise BadPrompt(f"{column}{joint}{bad}") from bad
