"""EXPLAIN of a workflow: its plan as written and after the rules, what they save, and the time.

Reads the input, configurations and tokenizers; no weights. Asks no host, and databases only what
they think that queries cost.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from batchpipe.config import JobOptions
from batchpipe.errors import ConfigError
from batchpipe.explain.layout import as_html, table, time_text
from batchpipe.explain.preview import planned_device
from batchpipe.job.language import Language, load_config, load_language, shape_of
from batchpipe.job.tensor_parallel import check_divisible
from batchpipe.planner.query.estimate import Estimate, together
from batchpipe.planner.query.explain import explain_query, explain_rules, step_line
from batchpipe.planner.query.graph import INPUT, Operator
from batchpipe.planner.query.graph_text import described, graph_tree
from batchpipe.planner.query.optimise import Optimised, optimise
from batchpipe.planner.query.planning import QueryPlan, plan_query
from batchpipe.planner.query.statistics import Statistics
from batchpipe.rows.source import open_source
from batchpipe.workflow.lowering.call_costs import call_costs
from batchpipe.workflow.lowering.counting import counted, samples_of
from batchpipe.workflow.lowering.hardware import hardware_of
from batchpipe.workflow.lowering.input_columns import input_types
from batchpipe.workflow.lowering.lower import columns_read, lowered
from batchpipe.workflow.lowering.model_options import check_models, model_options, placed
from batchpipe.workflow.steps import Flow


@dataclass(frozen=True, slots=True)
class WorkflowPlan:
    """A workflow's plan before and after the rules; prints as text or JSON.

    Numbers are expectations: answers, filters and lists are not known before they are there.
    """

    source: str
    rows: int | None  # of the input; None where the workflow alone is planned, for a single row
    optimised: Optimised
    placed: QueryPlan | None  # with times and phases, where there is an input

    @property
    def before(self) -> Estimate:
        """All calls and tokens as the workflow is written."""
        return together(self.optimised.written, self.optimised.before)

    @property
    def after(self) -> Estimate:
        """The same after the rules."""
        return together(self.optimised.graph, self.optimised.after)

    def as_json(self) -> dict[str, Any]:
        """Plain values, a part for each step as it is written."""
        plan, placed = self.optimised, self.placed
        return {
            "workflow": self.source,
            "rows": self.rows,
            "calls": {"written": self.before.calls, "planned": self.after.calls},
            "tokens": {"written": self.before.tokens, "planned": self.after.tokens},
            "saved_calls": self.before.calls - self.after.calls,
            "saved_tokens": self.before.tokens - self.after.tokens,
            "steps": [self._step(each) for each in plan.written.operators],
            "rules": [asdict(each) for each in plan.trace],
            "phases": None if placed is None else _phases(placed),
            "expected_seconds": None if placed is None else placed.placement.seconds,
        }

    def _step(self, operator: Operator) -> dict[str, Any]:
        plan = self.optimised
        now = plan.graph.by_name.get(operator.name)  # None where it was dropped
        is_asked = now is not None and now.name == operator.name
        told: dict[str, Any] = {
            "name": operator.name,
            "kind": operator.kind,
            "level": operator.level,
            "reads": list(operator.reads),
            "models": list(operator.models),
            "written": asdict(plan.before[operator.name]),
            "planned": asdict(plan.after[operator.name]) if is_asked else None,
            "same_as": now.name if now is not None and not is_asked else None,
        }
        if now is not None and is_asked:
            told |= {"after": sorted(now.after), "extends": now.extends}
            told |= {"collapses": now.collapses, "block_order": list(now.block_order)}
        if self.placed is not None:
            told["seconds"] = self.placed.seconds.get(operator.name) if is_asked else None
            call = self.placed.call_seconds.get(operator.name) if is_asked else None
            told["call_seconds"] = None if call is None else asdict(call)
        return told

    def __str__(self) -> str:
        plan = self.optimised
        facts = {"workflow": self.source}
        if self.rows is not None:
            facts["rows"] = f"{self.rows:,}"
        for name in ("calls", "tokens"):
            written, planned = (getattr(each, name) for each in (self.before, self.after))
            facts[name] = f"{written:,.0f} as written, {planned:,.0f} after the rules"
        if self.placed is not None:
            seconds = time_text(self.placed.placement.seconds)
            facts["expected time"] = f"{seconds} of the models, their loading included"
        after = _planned(plan) if self.placed is None else explain_query(self.placed)
        return f"{table(facts)}\n\nas written\n{_written(plan)}\n\nafter the rules\n{after}"

    def _repr_html_(self) -> str:
        return as_html(str(self))


def plan_workflow(
    flow: Flow,
    input: str | os.PathLike[str] | None = None,
    *,
    limit: int | None = None,
    machine: str | None = None,
) -> WorkflowPlan:
    """What a run of the workflow over this input would ask, before and after the rules.

    Without an input it is planned for a single row, and no model need be there.

    Raises:
        ConfigError: something in the workflow cannot work, or the input or a model is not there
    """
    if input is None:
        found = lowered(flow, columns_read(flow))
        single = Statistics(rows={INPUT: 1.0}, prompts_per_row=samples_of(flow))
        return WorkflowPlan(flow.source, None, optimise(found.graph, single), None)
    source = open_source(os.fspath(input), limit=limit)
    found = lowered(flow, input_types(source, flow))
    check_models(flow)
    languages = languages_of(flow)
    statistics = counted(found, source, languages)
    options = {
        name: replace(each, machine=machine or each.machine)
        for name, each in model_options(flow).items()
    }
    devices = _devices(flow, options, languages)
    try:
        costs = call_costs(flow, found.graph)
        hardware = hardware_of(options, devices, languages, costs)
        plan = plan_query(found.graph, statistics, hardware)
    except ValueError as error:
        raise ConfigError(f"{flow.source}: {error}") from error
    return WorkflowPlan(flow.source, len(source), plan.optimised, plan)


def _devices(
    flow: Flow, options: Mapping[str, JobOptions], languages: Mapping[str, Language]
) -> dict[str, str]:
    """The kind of device that each model is planned for, which it can be on."""
    devices: dict[str, str] = {}
    for name, asked in options.items():
        with placed(flow, name):
            devices[name] = planned_device(asked)
            if asked.tensor_parallel > 1:
                config = languages[name].config
                check_divisible(asked, config, shape_of(asked, config))
    return devices


def languages_of(flow: Flow) -> dict[str, Language]:
    """The tokenizers and configurations of the workflow's models, by their names in it."""
    asked = model_options(flow)
    return {name: load_language(each, load_config(each)) for name, each in asked.items()}


def _written(plan: Optimised) -> str:
    """The operators as they are written, each with what it would do."""

    def told(operator: Operator) -> str:
        found = plan.before[operator.name]
        if not operator.is_costly:
            return f"{described(operator)}: {_amount(found.rows, 'row')}"
        tokens = f", {_amount(found.tokens, 'token')}" if operator.models else ""
        return f"{described(operator)}: {_amount(found.calls, 'call')}{tokens}"

    return graph_tree(plan.written, told)


def _planned(plan: Optimised) -> str:
    """The same after the rules, as `explain_query` has it but without a machine."""
    tree = graph_tree(plan.graph, lambda operator: step_line(plan, operator))
    return f"{explain_rules(plan)}\n\n{tree}"


def _phases(plan: QueryPlan) -> list[dict[str, Any]]:
    stages = plan.placement.stages
    return [
        {
            "models": list(phase.models),
            "loads": list(phase.loads),
            "steps": [stages[each].operator for each in phase.stages],
            "seconds": phase.seconds,
        }
        for phase in plan.placement.phases
    ]


def _amount(number: float, word: str) -> str:
    amount = f"{number:,.0f}"
    return f"{amount} {word}" if amount == "1" else f"{amount} {word}s"
