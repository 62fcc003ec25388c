"""A workflow that is ready to run: each step as what asks for its rows."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from batchpipe.config import JobOptions
from batchpipe.job.language import Language
from batchpipe.planner.query.graph import QueryGraph
from batchpipe.workflow.kinds.asked_models import model_step
from batchpipe.workflow.kinds.benches import Bench
from batchpipe.workflow.kinds.groups import Groups
from batchpipe.workflow.kinds.inline_steps import Inline, exploding, filtering, reducing
from batchpipe.workflow.kinds.model_steps import ModelStep
from batchpipe.workflow.kinds.tool_steps import ToolStep
from batchpipe.workflow.kinds.tools import Tools
from batchpipe.workflow.kinds.wording import Wording
from batchpipe.workflow.lowering.lower import Lowered
from batchpipe.workflow.lowering.readings import readings_of
from batchpipe.workflow.running.levels import Levels
from batchpipe.workflow.steps import (
    Cascade,
    Explode,
    Filter,
    Flow,
    Http,
    Llm,
    Python,
    Reduce,
    Sql,
    Vote,
)


@dataclass(frozen=True, eq=False)
class Prepared:
    """All that the runtime needs to know of a workflow, by step."""

    flow: Flow
    graph: QueryGraph
    output: Mapping[str, str]  # label -> column that the results show
    levels: Levels
    languages: Mapping[str, Language]  # by the model's name in the workflow
    inline: Mapping[str, Inline]
    wordings: Mapping[str, Wording]
    model_steps: Mapping[str, ModelStep]
    tool_steps: Mapping[str, ToolStep]
    groups: Mapping[str, Groups]
    benches: Mapping[str, Bench[Any]]  # by tool step
    closing: ExitStack  # of databases and connections


def prepared(
    lowered: Lowered,
    graph: QueryGraph,  # after the rules
    options: Mapping[str, JobOptions],  # by the model's name in the workflow
    languages: Mapping[str, Language],
) -> Prepared:
    """Every step can be asked; databases are looked at, and no weights are loaded.

    Raises:
        ConfigError: a step cannot, whatever the row
    """
    flow, levels = lowered.flow, Levels(graph, lowered.flow)
    inline: dict[str, Inline] = {}
    wordings: dict[str, Wording] = {}
    model_steps: dict[str, ModelStep] = {}
    groups: dict[str, Groups] = {}
    with ExitStack() as closing:
        tools = Tools(flow, closing)
        for operator in graph.operators:
            name = operator.name
            readings = readings_of(flow.by_name[name], lowered.names)
            match step := flow.by_name[name]:
                case Filter():
                    inline[name] = filtering(step, readings)
                case Explode():
                    inline[name] = exploding(step, readings)
                case Reduce():
                    inline[name] = reducing(step, levels.gathers[name], readings)
                    if step.by:
                        groups[name] = Groups(step)
                case Sql() | Http() | Python():
                    tools.add(step, readings)
                case Llm() | Vote() | Cascade():
                    wordings[name] = Wording(step, operator, readings)
                    model_steps[name] = model_step(step, options, languages)
        return Prepared(
            flow=flow,
            graph=graph,
            output=lowered.output,
            levels=levels,
            languages=languages,
            inline=inline,
            wordings=wordings,
            model_steps=model_steps,
            tool_steps=tools.steps,
            groups=groups,
            benches=tools.benches,
            closing=closing.pop_all(),  # now it is who runs it that closes
        )
