"""What a rule did to a workflow, told by comparing it before and after."""

from __future__ import annotations

from collections.abc import Iterator

from batchpipe.planner.query.graph import Operator, QueryGraph


def changes(before: QueryGraph, after: QueryGraph) -> tuple[str, ...]:
    """A sentence for each difference, in the order of the operators before."""
    return tuple(_changes(before, after))


def _changes(before: QueryGraph, after: QueryGraph) -> Iterator[str]:
    left = {each.name: each for each in after.operators}
    for old in before.operators:
        new = left.get(old.name)
        if new is not None:
            yield from _noted(old, new)
        elif old.name in after.same_as:
            yield f"{old.name} asks the same as {after.same_as[old.name]}, which answers for both"
        else:
            yield f"{old.name} is dropped: no result depends on it"
    for run in after.fused:
        if run not in before.fused:
            yield f"{listed(run)} are asked together"


def _noted(old: Operator, new: Operator) -> Iterator[str]:
    if awaited := new.after - old.after:
        yield f"{new.name} awaits {listed(sorted(awaited))}"
    if forgotten := old.after - new.after:
        yield f"{new.name} awaits {listed(sorted(forgotten))} no more"
    if new.collapses and not old.collapses:
        yield f"{new.name} is asked once for rows that ask it the same"
    if new.extends is not None and new.extends != old.extends:
        yield f"{new.name} goes on from the prompt and the answer of {new.extends}"
    if new.block_order != old.block_order:
        order = new.block_order or range(len(new.blocks))
        yield f"{new.name} asks its blocks in the order {listed([str(at + 1) for at in order])}"
    if new.level != old.level:
        yield f"{new.name} is asked for the rows of {new.level}"


def listed(names: list[str] | tuple[str, ...]) -> str:
    """The names as a sentence has them."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
