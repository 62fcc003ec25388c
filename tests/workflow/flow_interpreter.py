"""A workflow, one step after the other, one row after the other, with `model.generate`: the truth.

Knows nothing of plans, schedules, sharing or journals. What it has in common with the runtime are
the steps as written and the texts in them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from oracle import _load, greedy_reference, load_tokenizer

from batchpipe.planner.query.graph import INPUT, QueryGraph
from batchpipe.planner.query.rules import drop_unused
from batchpipe.planner.query.statistics import Statistics
from batchpipe.rows.template import RenderError
from batchpipe.workflow.lowering.expressions import Text
from batchpipe.workflow.lowering.lower import lowered
from batchpipe.workflow.lowering.readings import readings_of, text_keys
from batchpipe.workflow.operators.python import Function
from batchpipe.workflow.operators.rows import Unfit, elements, goes_on, group_key
from batchpipe.workflow.steps import (
    Cascade,
    Explode,
    Filter,
    Flow,
    Llm,
    Python,
    Reduce,
    Step,
    Vote,
)


@dataclass(eq=False)
class Member:
    """A row of a level."""

    key: tuple[int, ...]
    above: Member | None = None
    values: dict[str, Any] = field(default_factory=dict)
    causes: dict[str, str] = field(default_factory=dict)
    dropped: bool = False

    @property
    def chain(self) -> list[Member]:
        return [self, *(self.above.chain if self.above else [])]

    @property
    def gone(self) -> bool:
        return any(each.dropped for each in self.chain)

    @property
    def scope(self) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for each in reversed(self.chain):
            merged |= each.values
        return merged

    def cause(self, names: Sequence[str]) -> str | None:
        found = (each.causes[name] for name in names for each in self.chain if name in each.causes)
        return next(found, None)


class RowError(Exception):
    pass


def interpreted(flow: Flow, inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of OUT."""
    names = list(dict.fromkeys(name for row in inputs for name in row))
    checked = lowered(flow, names)
    graph = drop_unused(checked.graph, Statistics({INPUT: 1.0}))
    tables: dict[str, list[Member]] = {
        INPUT: [Member((place,), values=dict(row)) for place, row in enumerate(inputs)]
    }
    for operator in graph.operators:
        step = flow.by_name[operator.name]
        sources = [each.name for each in graph.operators if each in graph.sources(operator)]
        readings = readings_of(step, checked.names)
        if isinstance(step, Reduce):
            of = tables[graph.deepest(operator.reads)]
            if step.by:
                tables[step.name] = _grouped(step, readings, of, sources)
            else:
                for row in tables[operator.level]:
                    _reduce(step, readings, row, of, sources, flow)
            continue
        if isinstance(step, Explode):
            tables[step.name] = []
        for row in tables[operator.level]:
            if row.gone:
                continue
            cause = row.cause(sources)
            try:
                if cause is None:
                    _ask(step, readings, row, tables, flow)
                else:
                    row.causes[step.name] = cause
            except (RowError, RenderError, Unfit) as error:
                row.causes[step.name] = f"step {step.name} failed: {error}"
    return list(_shown(graph, checked, tables))


def _ask(step: Step, readings: Any, row: Member, tables: Any, flow: Flow) -> None:
    match step:
        case Filter():
            row.dropped = not goes_on(readings["filter"].evaluate(row.scope))
        case Explode():
            for each in elements(readings["explode"].evaluate(row.scope)):
                child = Member((*row.key, each["index"]), row, {step.name: each})
                tables[step.name].append(child)
        case Llm():
            row.values[step.name] = _answer(step, step.model, _prompt(step, readings, row), flow)
        case Vote():
            said = _answer(step, step.models[0], _prompt(step, readings, row), flow)["output"]
            row.values[step.name] = {
                "output": said.strip(),
                "share": 1.0,
                "votes": {said.strip(): step.samples},
                "model": step.models[0],
            }
        case Cascade():
            row.values[step.name] = _chosen(step, _prompt(step, readings, row), flow)
        case Python():
            given = {
                name: readings[f"reads[{at}]"].evaluate(row.scope)
                for at, name in enumerate(step.reads)
            }
            [outcome] = Function(step).answer([given])
            if outcome.error is not None:
                raise RowError(outcome.error)
            row.values[step.name] = dict(outcome.values)
        case _:
            raise AssertionError(step)


def _prompt(step: Any, readings: Any, row: Member) -> str | list[dict[str, str]]:
    texts: list[Text] = [readings[key] for key in text_keys(step)]
    parts = [text.render(row.scope) for text in texts]
    if not step.messages:
        if not "".join(parts):
            raise RowError("the rendered template is empty")
        return "".join(parts)
    roles = [role for role, _ in step.messages]
    return [{"role": role, "content": c} for role, c in zip(roles, parts, strict=True)]


def _tokens(prompt: str | list[dict[str, str]], folder: str) -> list[int]:
    tokenizer = load_tokenizer(folder)
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _answer(step: Any, model: str, prompt: Any, flow: Flow) -> dict[str, Any]:
    folder = flow.models[model].model
    ids, most = _tokens(prompt, folder), step.sampling["max_tokens"]
    context = _load(folder)[0].config.max_position_embeddings
    if len(ids) + 1 > context:
        raise RowError(
            f"prompt has {len(ids)} tokens and the model's context is {context}, answer included; "
            f"shorten it"
        )
    [found] = greedy_reference(Path(folder), [ids], min(most, context - len(ids)))
    eos = _load(folder)[1]
    kept = [token for token in found.token_ids if token not in eos]
    text = load_tokenizer(folder).decode(
        kept, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return {"output": text}


def _chosen(step: Cascade, prompt: Any, flow: Flow) -> dict[str, Any]:
    for place, name in enumerate(step.models):
        folder = flow.models[name].model
        model, ids = _load(folder)[0], _tokens(prompt, folder)
        scores = []
        labels = [_tokens(choice, folder) for choice in step.choices]
        if any(one != two and two[: len(one)] == one for one in labels for two in labels):
            labels = [[*label, *_load(folder)[1]] for label in labels]
        for label in labels:
            with torch.no_grad():
                logits = model(torch.tensor([ids + label])).logits[0].log_softmax(-1)
            behind = range(len(ids) - 1, len(ids) + len(label) - 1)
            scores.append(sum(float(logits[at, t]) for at, t in zip(behind, label, strict=True)))
        shares = torch.tensor(scores, dtype=torch.float64).softmax(0)
        best = int(shares.argmax())
        margin = float(shares[best]) - sorted(shares.tolist())[-2]
        if margin >= step.margin or place + 1 == len(step.models):
            return {"output": step.choices[best], "margin": margin, "model": name}
    raise AssertionError


def _below(row: Member, of: list[Member]) -> list[Member]:
    return [each for each in of if row in each.chain and not each.gone]


def _reduce(
    step: Reduce, readings: Any, row: Member, of: list[Member], sources: list[str], flow: Flow
) -> None:
    if row.gone:
        return
    cause = row.cause(sources)
    members = [] if cause else _below(row, of)
    if cause is None and step.on_error == "fail":
        cause = next((c for each in members if (c := each.cause(sources)) is not None), None)
    if cause is not None:
        row.causes[step.name] = cause
        return
    try:
        row.values[step.name] = {
            "items": [_item(step, readings, m) for m in members if m.cause(sources) is None]
        }
    except RenderError as error:
        row.causes[step.name] = f"step {step.name} failed: {error}"


def _item(step: Reduce, readings: Any, member: Member) -> dict[str, Any]:
    return {name: readings[f"items.{name}"].evaluate(member.scope) for name in step.fields}


def _grouped(step: Reduce, readings: Any, of: list[Member], sources: list[str]) -> list[Member]:
    groups: dict[str, list[Member]] = {}
    keys: dict[str, list[Any]] = {}
    for member in of:
        if member.gone or (step.on_error == "skip" and member.cause(sources)):
            continue
        by = [readings[f"by[{at}]"] for at in range(len(step.by))]
        try:
            values = [each.evaluate(member.scope) for each in by]
            name = group_key(values)
        except KeyError:  # nobody knows its group: it is told in one of its own
            values, name = [None] * len(by), str(member.key)
        groups.setdefault(name, []).append(member)
        keys.setdefault(name, values)
    made = []
    for place, (name, members) in enumerate(groups.items()):
        row = Member((place,))
        cause = next((c for each in members if (c := each.cause(sources)) is not None), None)
        named = dict(zip([b.rpartition(".")[2] for b in step.by], keys[name], strict=True))
        items = [] if cause else [_item(step, readings, each) for each in members]
        row.values[step.name] = {**named, "items": items}
        if cause is not None:
            row.causes[step.name] = cause
        made.append(row)
    return made


def _shown(graph: QueryGraph, checked: Any, tables: dict[str, list[Member]]) -> Any:
    order = [operator.name for operator in graph.operators]
    path = graph.path(graph.result_level)
    rows = [(row.key, row) for row in tables[path[0]] if not row.gone]
    for level in path[:-1]:  # a row whose explode failed stands for those that it might have had
        maker = next(each for each in graph.operators if each.makes == level)
        if maker.kind == "explode":
            rows += [
                (row.key, row)
                for row in tables[maker.level]
                if not row.gone and maker.name in row.causes
            ]
    for _, row in sorted(rows, key=lambda each: each[0]):
        scope, error = row.scope, row.cause(order)
        line = {name: scope.get(name) for name in graph.inputs} if path[-1] == INPUT else {}
        for label, column in checked.output.items():
            step, _, part = column.partition(".")
            found = scope.get(step)
            line[label] = found[part] if part and found is not None else found
        status = "success" if error is None else "error"
        yield json.loads(json.dumps(line)) | {"status": status, "error": error}
