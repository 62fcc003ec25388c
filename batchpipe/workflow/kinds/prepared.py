"""A workflow that is ready to run: each step as what asks for its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from batchpipe.config import JobOptions
from batchpipe.errors import ConfigError
from batchpipe.job.forms import check_judge, grammars
from batchpipe.job.language import Language
from batchpipe.job.row_sampling import default_sampling
from batchpipe.planner.query.graph import QueryGraph
from batchpipe.planner.request import Sampling
from batchpipe.rows.parameters import sampled_by
from batchpipe.structured.judge import Matches, matches_by_re
from batchpipe.workflow.kinds.groups import Groups
from batchpipe.workflow.kinds.inline_steps import Inline, exploding, filtering, reducing
from batchpipe.workflow.kinds.model_steps import Answering, Choosing, ModelStep, Voting
from batchpipe.workflow.kinds.tool_steps import Bench, Calculating, Querying, Requesting, ToolStep
from batchpipe.workflow.kinds.wording import Wording
from batchpipe.workflow.lowering.lower import Lowered
from batchpipe.workflow.lowering.readings import Reading, readings_of
from batchpipe.workflow.running.levels import Levels
from batchpipe.workflow.steps import (
    Asked,
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

SQL_THREADS = 8
HTTP_THREADS = 32


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
    benches: dict[str, Bench[Any]] = field(default_factory=dict)  # by tool step
    closing: ExitStack = field(default_factory=ExitStack)  # of databases and connections


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
    flow = lowered.flow
    made = Prepared(
        flow,
        graph,
        lowered.output,
        Levels(graph, flow),
        languages,
        inline={},
        wordings={},
        model_steps={},
        tool_steps={},
        groups={},
    )
    try:
        maker = _Maker(made, options)
        for operator in graph.operators:
            step = flow.by_name[operator.name]
            maker.make(operator.name, readings_of(step, lowered.names))
    except BaseException:
        made.closing.close()
        raise
    return made


class _Maker:
    """Makes each step's part of what is prepared."""

    def __init__(self, made: Prepared, options: Mapping[str, JobOptions]) -> None:
        self._made, self._options = made, options
        self._clients: dict[str, Any] = {}  # databases by name, and what sends requests

    def make(self, name: str, readings: Mapping[str, Reading]) -> None:
        made = self._made
        inline: dict[str, Inline] = made.inline  # type: ignore[assignment]
        tools: dict[str, ToolStep] = made.tool_steps  # type: ignore[assignment]
        match step := made.flow.by_name[name]:
            case Filter():
                inline[name] = filtering(step, readings)
            case Explode():
                inline[name] = exploding(step, readings)
            case Reduce():
                inline[name] = reducing(step, made.levels.gathers[name], readings)
                if step.by:
                    made.groups[name] = Groups(step)  # type: ignore[index]
            case Python():
                from batchpipe.workflow.operators.python import Function

                tools[name] = Calculating(step, readings)
                made.benches[name] = self._closed(Bench(1, name, Function(step), step.batch_rows))
            case Sql():
                tools[name] = self._querying(step, readings)
            case Http():
                tools[name] = self._requesting(step, readings)
            case _:
                self._asking(step, readings)

    def _closed(self, bench: Bench[Any]) -> Bench[Any]:
        self._made.closing.callback(bench.close)
        return bench

    def _querying(self, step: Sql, readings: Mapping[str, Reading]) -> Querying:
        from batchpipe.workflow.operators.database import Database
        from batchpipe.workflow.operators.sql import Query

        key = f"database {step.database}"
        if key not in self._clients:
            url = self._made.flow.databases[step.database]
            database = Database(step.database, url, threads=SQL_THREADS)
            bench: Bench[Any] = self._closed(Bench(SQL_THREADS, step.database))
            self._made.closing.callback(database.close)  # first, so that no attempt is waited for
            self._clients[key] = (database, bench)
        database, self._made.benches[step.name] = self._clients[key]
        query = Query(step, database)
        query.check()
        return Querying(step, readings, query)

    def _requesting(self, step: Http, readings: Mapping[str, Reading]) -> Requesting:
        from batchpipe.workflow.operators.http import Client, Endpoint

        if "http" not in self._clients:
            client = Client(threads=HTTP_THREADS)
            bench: Bench[Any] = self._closed(Bench(HTTP_THREADS, "http"))
            self._made.closing.callback(client.close)
            self._clients["http"] = (client, bench)
        client, self._made.benches[step.name] = self._clients["http"]
        return Requesting(step, readings, Endpoint(step, client))

    def _asking(self, step: Llm | Vote | Cascade, readings: Mapping[str, Reading]) -> None:
        made = self._made
        wordings: dict[str, Wording] = made.wordings  # type: ignore[assignment]
        model_steps: dict[str, ModelStep] = made.model_steps  # type: ignore[assignment]
        wordings[step.name] = Wording(step, made.graph.by_name[step.name], readings)
        languages = dict(made.languages)
        if isinstance(step, Cascade):
            model_steps[step.name] = Choosing(step, languages)
            return
        models = (step.model,) if isinstance(step, Llm) else step.models
        samplings = [self._sampling(step, model) for model in models]
        matches = self._matches(step, samplings[0], models)
        if isinstance(step, Vote):
            model_steps[step.name] = Voting(step, samplings, languages, matches)
        else:
            model_steps[step.name] = Answering(step, samplings[0], languages[step.model], matches)

    def _sampling(self, step: Asked, model: str) -> Sampling:
        options = replace(self._options[model], sampling=dict(step.sampling))
        try:
            found = sampled_by(default_sampling(options, self._made.languages[model]), {})
        except ConfigError as error:
            raise ConfigError(f"{step.place}: {error}") from error
        if isinstance(found, str):
            raise ConfigError(f"{step.place}: {found}")
        return found

    def _matches(self, step: Asked, sampling: Sampling, models: tuple[str, ...]) -> Matches:
        """What knows whether an answer is as the step asks, which can be compiled."""
        constraint = sampling.constraint
        if constraint is None:
            return matches_by_re
        check_judge([sampling])
        fault = grammars().grammar_fault(constraint)
        if fault is not None:
            raise ConfigError(f"{step.place}: {constraint.kind}: {fault}")
        for model in models:
            if not self._made.languages[model].eos_token_ids:
                raise ConfigError(
                    f"{step.place}: model {model} has no token that ends an answer, which choices, "
                    f"schema, regex and grammar need; set eos_token_id in its "
                    f"generation_config.json"
                )
        found: Callable[..., Any] = grammars().matches
        return found
