"""A workflow written in Python, step by step."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack

from batchpipe.errors import ConfigError
from batchpipe.workflow.authoring.names import Fault
from batchpipe.workflow.authoring.surroundings import database_url, model_choice, shown_columns
from batchpipe.workflow.authoring.written import step_of
from batchpipe.workflow.steps import Flow

if TYPE_CHECKING:
    from batchpipe.api.workflows import Progress, WorkflowKeywords
    from batchpipe.workflow.lowering.explain import WorkflowPlan
    from batchpipe.workflow.summary import WorkflowSummary

Model = str | os.PathLike[str] | Mapping[str, Any]
Messages = Sequence[Mapping[str, str]]


class Drawing(TypedDict, total=False):
    """How answers are drawn, and the form that they must have: see `batchpipe.SamplingParams`."""

    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    seed: int | None  # of the step's own: equal prompts then draw the same
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    ignore_eos: bool | None
    choices: Sequence[str] | str | None
    schema: object
    regex: str | None
    grammar: str | os.PathLike[str] | None


class Workflow:
    """Steps over a table, planned and run as one batch: models, queries, requests, functions.

    A step makes columns for each row: ``step.output`` is what a later step's template reads. Steps
    may be added in any order; each method returns the workflow, so that calls can be chained.

    >>> import batchpipe as bp
    >>> from batchpipe.demo.prompt import MODEL_DIR
    >>> flow = bp.Workflow(models={"tiny": MODEL_DIR})
    >>> _ = flow.llm("about", "tiny", template="What is {{ title }} about?", max_tokens=16)
    >>> _ = flow.filter("answered", "about.output | length > 0")
    >>> _ = flow.output(topic="about.output")
    >>> [step.name for step in flow.flow.steps], flow.flow.output
    (['about', 'answered'], {'topic': 'about.output'})

    Args:
        models: a name for each model, and its hub id or directory, or an object with ``model`` and
            options of `batchpipe.LLM`
        databases: a name for each database, and its SQLAlchemy URL; ``${NAME}`` in it stands for a
            variable of the environment

    Raises:
        ConfigError: a model's or a step's argument makes no sense; what steps read is checked
            before anything runs
    """

    def __init__(
        self,
        models: Mapping[str, Model] | None = None,
        databases: Mapping[str, str] | None = None,
    ) -> None:
        models, databases = models or {}, databases or {}
        self._flow = Flow(
            steps=(),
            models={name: model_choice(name, each) for name, each in models.items()},
            databases={name: database_url(name, each) for name, each in databases.items()},
        )

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str]) -> Self:
        """The workflow of a YAML file, see `authoring.yaml_file`; more can be added."""
        from batchpipe.workflow.authoring.yaml_file import read_flow

        workflow = cls()
        workflow._flow = read_flow(path)
        return workflow

    @property
    def flow(self) -> Flow:
        """What was written so far, frozen."""
        return self._flow

    def llm(
        self,
        name: str,
        model: str,
        *,
        template: str | Sequence[str] | None = None,
        messages: Messages | None = None,
        order: str | None = None,
        **drawing: Unpack[Drawing],
    ) -> Self:
        """A model answers each row: ``output``, with a schema or choices also ``parsed``.

        Args:
            name: of the step
            model: one of the workflow's models
            template: Jinja2 text, or a list of texts that are joined
            messages: a chat in place of that, contents are templates
            order: ``"free"`` lets the texts of a list stand in any order, which may save work
            drawing: sampling parameters; without a temperature an answer is greedy
        """
        prompt = {"template": template, "messages": messages, "order": order}
        return self._add("llm", name, model, prompt | drawing)

    def vote(
        self,
        name: str,
        models: str | Sequence[str],
        *,
        template: str | Sequence[str] | None = None,
        messages: Messages | None = None,
        order: str | None = None,
        samples: int = 5,
        agreement: float = 1.0,
        weights: str = "majority",
        answer: str | None = None,
        **drawing: Unpack[Drawing],
    ) -> Self:
        """The answer that most samples give: ``output``, ``share``, ``votes`` and ``model``.

        Args:
            name: of the step
            models: the next is asked only where the samples before agree too little
            template, messages, order, drawing: as `llm`; the temperature is 0.7 if not given
            samples: that each model draws
            agreement: the share of them that must agree to ask no further model
            weights: ``"majority"`` counts, ``"modelswitch"`` weighs by each model's consistency
            answer: a regular expression whose first group is what is compared
        """
        prompt = {"template": template, "messages": messages, "order": order}
        counting = {
            "samples": samples,
            "agreement": agreement,
            "weights": weights,
            "answer": answer,
        }
        return self._add("vote", name, models, prompt | counting | drawing)

    def cascade(
        self,
        name: str,
        models: Sequence[str],
        *,
        choices: Sequence[str],
        template: str | Sequence[str] | None = None,
        messages: Messages | None = None,
        order: str | None = None,
        margin: float = 0.2,
    ) -> Self:
        """One of the choices, from a larger model where a smaller is unsure: ``output``.

        Also ``margin``, by how much the likeliest choice was likelier than the second, and the
        ``model`` that chose. Rows with less than ``margin`` go on to the next model.
        """
        prompt = {"template": template, "messages": messages, "order": order}
        return self._add("cascade", name, models, prompt | {"choices": choices, "margin": margin})

    def sql(
        self,
        name: str,
        database: str,
        query: str,
        *,
        values: Mapping[str, str | float] | None = None,
        attempts: int = 3,
    ) -> Self:
        """A query's ``rows`` for each row, as a list of objects, and the ``first`` of them.

        Args:
            name: of the step
            database: one of the workflow's databases
            query: one statement, with bound parameters such as ``:title``
            values: an expression for each parameter, such as ``"entities.output"``
            attempts: before a row fails because the database is down
        """
        return self._add(
            "sql", name, database, {"query": query, "values": values, "attempts": attempts}
        )

    def http(
        self,
        name: str,
        request: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: object = None,
        attempts: int = 4,
        timeout: float = 30.0,
        per_second: float | None = None,
        share: bool = True,
    ) -> Self:
        """A server's answer to each row: ``status``, ``text`` and, where it is JSON, ``json``.

        Args:
            name: of the step
            request: ``"GET https://host/{{ title | urlencode }}"``, or POST
            headers: templates by name; in them and in the URL ``${NAME}`` stands for a variable of
                the environment, whose value no file of the run holds
            body: of a POST, JSON whose texts are templates
            attempts: before a row fails
            timeout: of each, in seconds
            per_second: most requests
            share: equal requests are sent once
        """
        given = {"headers": headers, "body": body, "attempts": attempts, "timeout": timeout}
        return self._add("http", name, request, given | {"per_second": per_second, "share": share})

    def python(
        self,
        name: str,
        function: Callable[[list[dict[str, Any]]], Any] | str,
        *,
        reads: Sequence[str],
        writes: Sequence[str],
        batch_rows: int = 256,
    ) -> Self:
        """What a function makes of a list of rows: a dict with the fields ``writes`` for each.

        ``function`` may be written ``"module:function"``; ``reads`` are the columns that it sees.
        """
        given = {"reads": reads, "writes": writes, "batch_rows": batch_rows}
        return self._add("python", name, function, given)

    def filter(self, name: str, condition: str) -> Self:
        """Rows go on where the expression is true, such as ``score.output | int > 3``."""
        return self._add("filter", name, condition, {})

    def explode(self, name: str, column: str) -> Self:
        """Each element of a list becomes a row below its row: ``item`` and ``index``."""
        return self._add("explode", name, column, {})

    def reduce(
        self,
        name: str,
        of: str,
        *,
        items: Mapping[str, str],
        by: Sequence[str] = (),
        on_error: str = "fail",
    ) -> Self:
        """Many rows become one with ``items``, a list of objects.

        Args:
            name: of the step
            of: the explode whose rows come together, or ``"input"``
            items: an expression for each field of an item
            by: rows with equal values of these columns come together, and the result has them;
                without it, the rows that were exploded from one row
            on_error: ``"fail"``: a failed row fails its group; ``"skip"`` leaves it out
        """
        return self._add("reduce", name, of, {"items": items, "by": by, "on_error": on_error})

    def output(self, *columns: str, **labelled: str) -> Self:
        """The results show these columns, ``label="step.output"`` under another name.

        Without this they show every column of the steps that no other step reads.
        """
        shown = {**self._flow.output, **shown_columns(columns), **shown_columns(labelled)}
        self._flow = replace(self._flow, output=shown)
        return self

    def run(
        self,
        input: str | os.PathLike[str],
        *,
        out: str | os.PathLike[str],
        progress: Progress = False,
        **options: Unpack[WorkflowKeywords],
    ) -> WorkflowSummary:
        """The command ``batchpipe run --workflow``: every row of the results is in ``out``.

        The same call goes on where a stopped run was.

        >>> import batchpipe as bp, json, pathlib, tempfile
        >>> from batchpipe.demo.prompt import MODEL_DIR
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> with open(folder / "films.jsonl", "w") as film:
        ...     print(json.dumps({"title": "Alien", "tags": ["space", "cat"]}), file=film)
        >>> flow = bp.Workflow(models={"tiny": MODEL_DIR}).explode("tag", "tags")
        >>> flow = flow.llm("why", "tiny", template="{{ title }}: {{ tag.item }}", max_tokens=2)
        >>> done = flow.run(folder / "films.jsonl", out=folder / "out.jsonl")
        >>> done.rows, done.succeeded, done.by_step["why"]["calls"]
        (2, 2, 2)

        Args:
            input: Parquet or JSON lines; file, directory, glob or URL
            out: the results: .parquet, .jsonl, .jsonl.gz or .jsonl.zst
            progress: True shows it on stderr; a function is called with a `WorkflowProgress`
            options: of the command: ``run_dir``, ``overwrite``, ``max_errors``, ``limit``,
                ``seed``, ``kv_memory``, ``host_kv_memory``, ``dtype``, ``device``,
                ``tensor_parallel``, ``workers``, ``ray_address``

        Raises:
            ConfigError: before a model loads, for anything wrong with the workflow or the request
            StoppedEarly: after Ctrl-C, SIGTERM or ``max_errors``; what is finished is on disk
        """
        from batchpipe.api.workflows import run_flow

        return run_flow(self._flow, input, out, progress, options)

    def plan(
        self,
        input: str | os.PathLike[str] | None = None,
        *,
        limit: int | None = None,
        machine: str | None = None,
    ) -> WorkflowPlan:
        """What a run over this input would ask, before and after the rules that make it smaller.

        Reads the input, the models' tokenizers and configurations, and no weights. Without an input
        the workflow is planned for a single row. ``machine`` names a profile, such as ``"h200"``.

        >>> import batchpipe as bp
        >>> from batchpipe.demo.prompt import MODEL_DIR
        >>> flow = bp.Workflow(models={"tiny": MODEL_DIR})
        >>> _ = flow.llm("about", "tiny", template="What is {{ title }} about?")
        >>> _ = flow.llm("again", "tiny", template="What is {{ title }} about?")
        >>> plan = flow.output("about.output", "again.output").plan()
        >>> plan.before.calls, plan.after.calls, plan.optimised.graph.same_as
        (2.0, 1.0, {'again': 'about'})

        Raises:
            ConfigError: something in the workflow cannot work
        """
        from batchpipe.workflow.lowering.explain import plan_workflow

        return plan_workflow(self._flow, input, limit=limit, machine=machine)

    def _add(self, kind: str, name: str, subject: object, given: Mapping[str, Any]) -> Self:
        try:
            step = step_of(kind, name, {kind: subject, **given})
        except Fault as fault:
            source = self._flow.source
            raise fault.error(name, source=source, line=None, lines={}) from fault
        if name in self._flow.by_name:
            raise ConfigError(f"step {name}: there is one of this name already; choose another")
        self._flow = replace(self._flow, steps=(*self._flow.steps, step))
        return self
