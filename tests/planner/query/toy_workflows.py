"""Small workflows to plan: operators in a line each."""

from __future__ import annotations

from typing import Any

from batchpipe.planner.query.graph import EXPLODE, FILTER, INPUT, REDUCE, Operator, QueryGraph

SHAPES = {"filter": FILTER, "explode": EXPLODE, "reduce": REDUCE}
WRITES = {
    "filter": (),
    "explode": ("item", "index"),
    "reduce": ("items",),
    "sql": ("rows", "first"),
    "http": ("status", "text", "json"),
    "python": ("value",),
}
COSTLY = {"llm", "vote", "cascade", "sql", "http"}


def step(name: str, kind: str, *reads: str, **fields: Any) -> Operator:
    """An operator with what its kind usually has."""
    if kind in ("llm", "vote", "cascade"):
        fields.setdefault("models", ("small",))
        fields.setdefault("blocks", (" ".join(f"⟨{at}⟩" for at in range(len(reads))),))
    if kind == "explode":
        fields.setdefault("makes", name)
    fields.setdefault("arguments", kind)
    fields.setdefault("writes", WRITES.get(kind, ("output",)))
    return Operator(
        name,
        kind,
        reads,
        level=fields.pop("level", INPUT),
        shape=SHAPES.get(kind, "map"),
        is_costly=kind in COSTLY,
        **fields,
    )


def workflow(*operators: Operator, outputs: tuple[str, ...] = ()) -> QueryGraph:
    """A workflow over an input with the columns `title`, `genre` and `text`."""
    return QueryGraph(operators, ("title", "genre", "text"), outputs)
