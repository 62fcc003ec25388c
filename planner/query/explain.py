"""A workflow's plan as a person reads it: steps, what the rules spared, and when which model works.

What is counted before the first row has run is an expectation.
"""

from __future__ import annotations

from collections.abc import Iterator

from batchpipe.planner.query.changes import listed
from batchpipe.planner.query.estimate import together
from batchpipe.planner.query.graph import INPUT, Operator
from batchpipe.planner.query.graph_text import INDENT, graph_tree, noted
from batchpipe.planner.query.optimise import Optimised
from batchpipe.planner.query.planning import QueryPlan


def explain_query(plan: QueryPlan) -> str:
    """The whole plan: what the rules did, the steps that are left as a tree, the phases."""
    phases: dict[str, list[int]] = {}
    for number, phase in enumerate(plan.placement.phases, 1):
        for stage in phase.stages:
            numbers = phases.setdefault(plan.placement.stages[stage].operator, [])
            if number not in numbers:  # of a vote or a cascade, whose models are there together
                numbers.append(number)

    def told(operator: Operator) -> str:
        said = step_line(plan.optimised, operator)
        if seconds := plan.seconds[operator.name]:
            said += f"; {_seconds(seconds)}"
        if operator.name in plan.call_seconds:
            call = plan.call_seconds[operator.name]
            said += f" at {_seconds(call.seconds)} a call ({call.source})"
        if operator.name in phases:
            when = [str(number) for number in phases[operator.name]]
            said += f" in phase{'s' if len(when) > 1 else ''} {listed(when)}"
        return said

    parts = [explain_rules(plan.optimised), graph_tree(plan.graph, told), explain_phases(plan)]
    return "\n\n".join(part for part in parts if part)


def explain_rules(optimised: Optimised) -> str:
    """What each rule did and spared, and what is left of the calls and tokens."""
    lines = []
    for applied in optimised.trace:
        counts = {"calls": applied.saved_calls, "tokens": applied.saved_tokens}
        spared = [f"{_count(count)} {name}" for name, count in counts.items() if round(count)]
        lines.append(f"{applied.rule} spares {listed(spared)}" if spared else applied.rule)
        lines += [f"{INDENT}{change}" for change in applied.changes]
    before = together(optimised.written, optimised.before)
    after = together(optimised.graph, optimised.after)
    lines.append(
        f"{len(optimised.written.operators)} steps → {len(optimised.graph.operators)}, "
        f"calls {_change(before.calls, after.calls)}, "
        f"tokens {_change(before.tokens, after.tokens)}"
    )
    return "\n".join(lines)


def step_line(optimised: Optimised, operator: Operator) -> str:
    """A step with its rows, and its calls and tokens before and after the rules."""
    before, after = optimised.before[operator.name], optimised.after[operator.name]
    said = f"{operator.name}: {' '.join((operator.kind, *operator.models))}"
    rows = f"{_count(after.rows)} rows"
    said += f", {rows}" if operator.level == INPUT else f", {rows} of {operator.level}"
    if operator.is_costly:
        said += f", calls {_change(before.calls, after.calls)}"
    if operator.models:
        said += f", tokens {_change(before.computed_tokens, after.computed_tokens)} in"
        said += f" and {_change(before.output_tokens, after.output_tokens)} out"
    if found := noted(operator):
        said += f" ({', '.join(found)})"
    return said


def explain_phases(plan: QueryPlan) -> str:
    """Which models are in memory together, what is loaded for it, and what runs then."""
    return "\n".join(_phase_lines(plan))


def _phase_lines(plan: QueryPlan) -> Iterator[str]:
    placement = plan.placement
    for number, phase in enumerate(placement.phases, 1):
        ran = [
            placement.stages[stage].operator
            if len(plan.graph.by_name[placement.stages[stage].operator].models) == 1
            else f"{placement.stages[stage].operator} ({placement.stages[stage].model})"
            for stage in phase.stages
        ]
        loads = f"loads {listed(phase.loads)}"
        kept = [model for model in phase.models if model not in phase.loads]
        if kept:
            loads += f" beside {listed(kept)}"
        yield f"phase {number}: {loads}; {', '.join(ran)}; {_seconds(phase.seconds)}"
    if placement.phases:
        known = "none is faster" if placement.is_exact else "a good guess"
        yield f"models: {_seconds(placement.seconds)} with loading, {known}"


def _change(before: float, after: float) -> str:
    if round(before) == round(after):
        return _count(after)
    return f"{_count(before)} → {_count(after)}"


def _count(number: float) -> str:
    return f"{round(number):,}"


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds >= 100 else f"{seconds:.3g} s"
