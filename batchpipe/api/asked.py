"""Which columns of a dataframe are asked, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from batchpipe.api.frames import Frame, columns_of
from batchpipe.errors import ConfigError
from batchpipe.rows.prompts import SOURCES
from batchpipe.rows.template import Template
from batchpipe.rows.words import listed


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What is asked of which columns, and of the model."""

    table: pa.Table  # the columns that prompts are made of, and the one that names rows
    options: dict[str, Any]  # of a job
    template: Template | None


def asked_of(
    frame: Frame,
    template: str | None,
    prompt: str | None,
    messages: str | None,
    id_column: str | None,
) -> Asked:
    """The columns that are needed, and how prompts are made of them."""
    given = {"template": template, "prompt": prompt, "messages": messages}
    chosen = [name for name, value in given.items() if value is not None]
    if len(chosen) > 1:
        raise ConfigError(f"{' and '.join(chosen)} exclude each other: give one")
    names = [str(name) for name in frame.names]
    options: dict[str, Any] = {"row_sampling": False, "id_column": id_column}
    made: Template | None = None
    if template is not None:
        made = Template.from_option(template)
        made.check_columns(names)
        used = [name for name in made.lookups if name in names]
        options["template"] = template
    else:
        used = [prompt or messages or _only_prompt(names)]
        options["prompt_column"] = used[0]
    also = [id_column] if id_column is not None and id_column not in used else []
    table = columns_of(frame, [*used, *also])
    if messages is not None:  # by this name it is a chat whatever it holds, also JSON
        options["prompt_column"] = "messages"
        table = table.rename_columns({messages: "messages"})
    return Asked(table, options, made)


def _only_prompt(names: list[str]) -> str:
    """The one column that a job file would take for its prompt."""
    found = [name for name in SOURCES if name in names]
    if len(found) == 1:
        return found[0]
    why = f"the columns {listed(found)}" if found else f"none of the columns {listed(SOURCES)}"
    raise ConfigError(
        f"the dataframe has {why}; its columns are {listed(names)}: give template=, prompt= or "
        f"messages="
    )
