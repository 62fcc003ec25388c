"""The plan of a workflow on a machine: made smaller, costed, and its models placed in phases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import networkx as nx

from batchpipe.planner.query.cost import (
    ASSUMED,
    CallSeconds,
    ModelHost,
    asking_seconds,
    tool_seconds,
)
from batchpipe.planner.query.estimate import Estimate
from batchpipe.planner.query.graph import QueryGraph
from batchpipe.planner.query.optimise import Optimised, optimise
from batchpipe.planner.query.placement import ModelSize, Placement, Stage
from batchpipe.planner.query.rules import RULES, filters_first
from batchpipe.planner.query.spread import placed_on
from batchpipe.planner.query.statistics import Statistics

TOOLS_AT_ONCE = 16
NEXT_MODEL = 0.3  # of the rows of a vote or a cascade that each further model is asked for


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a workflow runs on."""

    hosts: Mapping[str, ModelHost]  # by model
    sizes: Mapping[str, ModelSize]
    device_bytes: int  # of each worker
    call_seconds: Mapping[str, CallSeconds] = field(default_factory=dict)  # by operator, if known
    tools_at_once: int = TOOLS_AT_ONCE
    workers: int = 1  # devices alike, each with models of its own


@dataclass(frozen=True, slots=True)
class QueryPlan:
    """What a workflow does, how long each operator takes, and which models are there when."""

    optimised: Optimised
    seconds: Mapping[str, float]  # by operator
    placement: Placement
    call_seconds: Mapping[str, CallSeconds]  # by operator that asks no model, where it costs

    @property
    def graph(self) -> QueryGraph:
        """The workflow as it is to run."""
        return self.optimised.graph


def plan_query(graph: QueryGraph, statistics: Statistics, hardware: Hardware) -> QueryPlan:
    """The plan of this workflow; whatever follows from the statistics is an expectation.

    Filters may keep a model's operators apart that could else have run in one phase. Where models
    take turns, they come first only if that is faster.

    Raises:
        networkx.NetworkXUnfeasible: operators await one another in a circle
        ValueError: a model is larger than the device
    """
    plan = _planned(optimise(graph, statistics), hardware)
    if plan.placement.is_co_resident or not any(each.after for each in plan.graph.operators):
        return plan
    rules = [rule for rule in RULES if rule is not filters_first]
    other = _planned(optimise(graph, statistics, rules), hardware)
    return other if _all_seconds(other) < _all_seconds(plan) else plan


def _all_seconds(plan: QueryPlan) -> float:
    tools = (plan.seconds[each.name] for each in plan.graph.operators if not each.models)
    return plan.placement.seconds + sum(tools)


def _planned(optimised: Optimised, hardware: Hardware) -> QueryPlan:
    stages = stages_of(optimised.graph, optimised.after, hardware.hosts)
    calls = {
        each.name: known
        for each in optimised.graph.operators
        if (known := hardware.call_seconds.get(each.name, ASSUMED.get(each.kind))) is not None
    }
    seconds = {
        each.name: _tool_seconds(calls.get(each.name), optimised.after[each.name], hardware)
        for each in optimised.graph.operators
    }
    for stage in stages:
        seconds[stage.operator] += stage.seconds
    placement = placed_on(stages, hardware.sizes, hardware.device_bytes, hardware.workers)
    return QueryPlan(optimised, seconds, placement, calls)


def _tool_seconds(call: CallSeconds | None, estimate: Estimate, hardware: Hardware) -> float:
    if call is None:
        return 0.0
    return tool_seconds(estimate.calls, call.seconds, hardware.tools_at_once)


def stages_of(
    graph: QueryGraph, estimates: Mapping[str, Estimate], hosts: Mapping[str, ModelHost]
) -> tuple[Stage, ...]:
    """What each operator asks of each of its models, as far as operators without one allow."""
    stages: list[Stage] = []
    last: dict[str, int] = {}  # stage of each operator that asks a model
    for operator in graph.operators:
        above = nx.ancestors(graph.edges, operator.name)
        after = frozenset(last[name] for name in above if name in last)
        share = 1.0
        for model in operator.models:
            asked = _share(estimates[operator.name], share)
            stages.append(Stage(operator.name, model, asking_seconds(asked, hosts[model]), after))
            after = frozenset({len(stages) - 1})
            last[operator.name] = len(stages) - 1
            share *= NEXT_MODEL
    return tuple(stages)


def _share(estimate: Estimate, share: float) -> Estimate:
    return replace(
        estimate,
        rows=estimate.rows * share,
        calls=estimate.calls * share,
        prompt_tokens=estimate.prompt_tokens * share,
        computed_tokens=estimate.computed_tokens * share,
        output_tokens=estimate.output_tokens * share,
    )
