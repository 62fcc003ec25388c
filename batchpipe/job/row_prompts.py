"""From rows to token ids: read from their columns, rendered by the chat template, tokenized."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import TemplateError

from batchpipe.job.language import TOKENIZED_AT_ONCE, Language
from batchpipe.planner.request import Prompts
from batchpipe.rows.batch import Rows, RowSource
from batchpipe.rows.prompts import SOURCES, PromptReader, PromptTable
from batchpipe.rows.template import Template
from batchpipe.rows.token_ids import joined

TEMPLATE_ERRORS = (TemplateError, ValueError, TypeError, LookupError, AttributeError)

Flags = npt.NDArray[np.bool_]


class RowPrompts:
    """Reads the prompts of one job: all of one kind, or of every kind where they are requests."""

    def __init__(
        self,
        source: RowSource,
        template: Template | None,
        prompt_column: str | None,
        language: Language,
    ) -> None:
        self._language = language
        self._readers: dict[str | None, PromptReader] = (
            {column: PromptReader(source, prompt_column=column) for column in SOURCES}
            if source.are_requests
            else {None: PromptReader(source, template=template, prompt_column=prompt_column)}
        )

    def read(self, rows: Rows, wanted: Flags) -> tuple[dict[int, str], list[PromptTable]]:
        """Why rows that are wanted have no prompt, and the prompts of all others, by kind."""
        faults = {place: why for place, why in rows.faults.items() if wanted[place]}
        tables: list[PromptTable] = []
        for column, reader in self._readers.items():
            some = wanted if column is None else wanted & _has(rows, column)
            tables.append(reader.read(rows, some))
            faults |= tables[-1].faults
        return faults, tables

    def tokenized(
        self, tables: Sequence[PromptTable], faults: dict[int, str]
    ) -> tuple[npt.NDArray[np.int64], Prompts]:
        """Places without a fault and their token ids; what a template refuses is one fault more.

        Returns:
            places, rising  # [prompts]
            token ids  # [prompts]
        """
        found = [tokenized(table, faults, self._language) for table in tables]
        if len(found) == 1:
            return found[0]
        places = np.concatenate([some for some, _ in found])
        order = np.argsort(places, kind="stable")
        return places[order], joined([prompts for _, prompts in found]).take(order)


def _has(rows: Rows, column: str) -> Flags:
    cells = rows.values(column)
    return np.fromiter((cell is not None for cell in cells), np.bool_, len(cells))


def tokenized(
    table: PromptTable, faults: dict[int, str], language: Language
) -> tuple[npt.NDArray[np.int64], Prompts]:
    """Places without a fault and their token ids; what a template refuses is one fault more.

    Returns:
        places, rising  # [prompts]
        token ids  # [prompts]
    """
    if table.kind == "messages":
        table = rendered(table, faults, language)
    asked = np.flatnonzero(np.isin(table.rows, list(faults), invert=True))
    places = table.rows[asked]
    if isinstance(table.prompts, Prompts):
        return places, table.prompts.take(asked)
    texts: list[Any] = [table.prompts[place] for place in asked.tolist()]
    parts: list[Prompts] = []
    for start in range(0, len(texts), TOKENIZED_AT_ONCE):
        some = texts[start : start + TOKENIZED_AT_ONCE]
        # Packed a piece at a time: a list of Python numbers has nine times the bytes.
        parts.append(Prompts.pack(language.tokenize(some, special_tokens=table.kind == "text")))
    prompts = joined(parts)
    empty = prompts.lengths == 0
    faults.update(dict.fromkeys(places[empty].tolist(), "the prompt has no tokens"))
    return places[~empty], prompts.take(np.flatnonzero(~empty))


def rendered(table: PromptTable, faults: dict[int, str], language: Language) -> PromptTable:
    """What the chat template makes of those chats without a fault; it may refuse some more."""
    taken: list[int] = []
    texts: list[str] = []
    for place, messages in zip(table.rows.tolist(), table.prompts, strict=True):
        if place in faults:
            continue
        try:
            texts.append(language.render_chat(messages))
            taken.append(place)
        except TEMPLATE_ERRORS as error:
            faults[place] = f"the chat template of {language.name} refuses the messages: {error}"
    return PromptTable("rendered", np.array(taken, dtype=np.int64), texts, table.faults)
