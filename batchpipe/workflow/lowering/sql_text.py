"""What a query's text says without a database: its parameters, and that it is one statement."""

from __future__ import annotations

import re

from batchpipe.rows.words import listed
from batchpipe.workflow.authoring.names import Fault, meant

# What is not the query's own: texts, names in quotes, comments, and PostgreSQL's $$texts$$.
_QUOTED = re.compile(
    r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|--[^\n]*|/\*.*?\*/|\$(\w*)\$.*?\$\1\$", re.DOTALL
)
_PARAMETER = re.compile(r"(?<![:\w\\]):(\w+)(?!:)")  # as SQLAlchemy finds them; `::` is a cast


def check_query(query: str, values: set[str]) -> None:
    """The query is one statement, and its parameters are those that have values.

    Raises:
        Fault: it is not, or they are not
    """
    for quoted in _QUOTED.finditer(query):
        inside = _PARAMETER.search(quoted[0])
        if inside is not None:
            raise Fault(
                f"the query has :{inside[1]} within quotes or a comment, where no value is put "
                rf"in; write \:{inside[1]} if it is meant so",
                "query",
            )
    bare = _QUOTED.sub(" ", query)
    if "{{" in bare or "{%" in bare:
        raise Fault("a query is no template; write :name, and its expression under values", "query")
    if bare.rstrip().rstrip(";").strip() == "":
        raise Fault("the query is empty", "query")
    if ";" in bare.rstrip().rstrip(";"):
        raise Fault("the query is several statements; make a step of each", "query")
    named = set(_PARAMETER.findall(bare))
    for name in sorted(named - values):
        raise Fault(
            f"the query's parameter :{name} has no value{meant(name, values)}; values has "
            f"{listed(sorted(values))}",
            "query",
        )
    for name in sorted(values - named):
        raise Fault(
            f"the query has no parameter :{name}{meant(name, named)}; it has "
            f"{listed(f':{each}' for each in sorted(named))}",
            f"values.{name}",
        )
