"""What a workflow's author wrote, checked for form and frozen: one class for each kind of step.

Texts with ``{{ }}`` are Jinja2 templates over a row's columns: ``{{ title }}`` is the input's,
``{{ step.output }}`` is a step's. The same objects are made from YAML and from Python, and are
equal where both say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    name: str
    line: int | None = field(default=None, compare=False)  # of the YAML file
    lines: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)  # of its keys

    @property
    def place(self) -> str:
        """How a sentence names the step."""
        return f"step {self.name}" + (f" (line {self.line})" if self.line is not None else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked(_Step):
    """What every step that asks a model has: prompt, sampling and form of the answer."""

    blocks: tuple[str, ...] = ()  # templates that are joined to the prompt
    order_free: bool = False  # the blocks may stand in any order
    messages: tuple[tuple[str, str], ...] = ()  # (role, template), in place of blocks
    sampling: Mapping[str, Any] = field(default_factory=dict)  # SamplingParams names, and a form;
    # the temperature always: 0 where nothing is said, 0.7 for votes


@dataclass(frozen=True, slots=True, kw_only=True)
class Llm(Asked):
    """A model answers: ``output``; with a schema or choices also ``parsed``."""

    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote(Asked):
    """The answer that most samples give: ``output``, ``share`` of the votes, ``votes``, ``model``.

    The first model draws ``samples`` answers. Where they agree less than ``agreement`` the next
    model draws as many, and weights are ModelSwitch's (consistency of each model's own samples).
    """

    models: tuple[str, ...]
    samples: int = 5
    agreement: float = 1.0  # the share of the samples that must agree to ask no further model
    weights: str = "majority"  # or "modelswitch"
    answer: str | None = None  # a regular expression whose first group is what is compared


@dataclass(frozen=True, slots=True, kw_only=True)
class Cascade(Asked):
    """A small model answers, and a larger one where it is unsure.

    It makes ``output``, ``margin`` and ``model``. The margin is the probability of the likeliest
    choice less that of the second.
    """

    models: tuple[str, ...]
    choices: tuple[str, ...]
    margin: float = 0.2  # rows below it go on to the next model


@dataclass(frozen=True, slots=True, kw_only=True)
class Sql(_Step):
    """A query's rows for each row: ``rows``, a list of objects, and the ``first`` of them."""

    database: str  # a name in the workflow's databases
    query: str  # with bound parameters, ":title"; never a template
    values: Mapping[str, str] = field(
        default_factory=dict
    )  # parameter -> expression, "entities.output"
    attempts: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Http(_Step):
    """A request's answer for each row: ``status``, ``text`` and, where it is JSON, ``json``."""

    method: str  # GET or POST
    url: str  # template; values are escaped by the author's `urlencode`
    headers: Mapping[str, str] = field(default_factory=dict)  # templates
    body: Any = None  # JSON whose texts are templates
    attempts: int = 4
    timeout_seconds: float = 30.0
    per_second: float | None = None  # most requests
    share: bool = True  # equal requests are sent once


@dataclass(frozen=True, slots=True, kw_only=True)
class Python(_Step):
    """A function over a batch of rows: list of dicts in, as many dicts with ``writes`` out."""

    function: Callable[[list[dict[str, Any]]], Any] | str  # or "module:function"
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    batch_rows: int = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter(_Step):
    """Rows go on where the expression is true; the others end here."""

    condition: str  # a Jinja2 expression: "score.output | int > 3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explode(_Step):
    """Each element of a list becomes a row below: ``item`` and ``index``."""

    column: str  # an expression: "clean.names"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduce(_Step):
    """Many rows become one: ``items``, a list of objects with the fields, ordered as the rows.

    Without ``by``, the rows that an explode made of one row come together there again. With it,
    all rows with equal values of these columns do, and the result has those columns too.
    """

    of: str  # the explode (or "" for the input's rows) whose rows come together
    fields: Mapping[str, str]  # name in an item -> expression
    by: tuple[str, ...] = ()
    on_error: str = "fail"  # a failed row fails its group; "skip" leaves it out


Step = Llm | Vote | Cascade | Sql | Http | Python | Filter | Explode | Reduce


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model and how it is loaded: the options of `run` of the same names."""

    model: str
    options: Mapping[str, Any] = field(default_factory=dict)  # dtype, quantize, kv_memory, seed ...
    line: int | None = field(default=None, compare=False)  # of the YAML file


@dataclass(frozen=True)
class Flow:
    """A whole workflow as written; its steps may be named in any order."""

    steps: tuple[Step, ...]
    models: Mapping[str, ModelChoice]
    databases: Mapping[str, str] = field(default_factory=dict)  # name -> SQLAlchemy URL
    output: Mapping[str, str] = field(default_factory=dict)  # label -> column that the results
    # show; empty: every column of the steps that no other step reads
    source: str = field(default="the workflow", compare=False)  # the file's name

    @cached_property
    def by_name(self) -> dict[str, Step]:
        """Each step under its name."""
        return {step.name: step for step in self.steps}

    def model_place(self, name: str) -> str:
        """How a sentence names one of the models."""
        line = self.models[name].line
        return f"model {name} of {self.source}" + (f" (line {line})" if line is not None else "")
