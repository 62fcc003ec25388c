"""What may be written of each kind of step, in YAML or in Python: its keys and their values.

`step_of` knows nothing of the other steps; what a step reads is `lower`'s to find out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from batchpipe.rows.words import shown
from batchpipe.structured.constraint import BadConstraint, constraint_of, labels_of
from batchpipe.workflow.authoring.asked_keys import PROMPT, SAMPLING, prompt, sampling
from batchpipe.workflow.authoring.keys import Keys
from batchpipe.workflow.authoring.names import Fault
from batchpipe.workflow.steps import (
    Cascade,
    Explode,
    Filter,
    Http,
    Llm,
    Python,
    Reduce,
    Sql,
    Step,
    Vote,
)

# Words that mean something else in templates; `input` are the input's rows.
RESERVED = {"input", "loop", "self", "super", "caller", "varargs", "kwargs", "not", "and", "or"}
RESERVED |= {"in", "is", "if", "else", "true", "false", "none", "True", "False", "None"}
VOTE_TEMPERATURE = 0.7  # where nothing is said; at 0 all samples would be equal


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of step: the keys beside its own, and what makes the step of them."""

    keys: tuple[str, ...]
    fields: Callable[[Keys], dict[str, Any]]
    step: Callable[..., Step]


def step_of(
    kind: str,
    name: str,
    given: Mapping[str, Any],
    *,
    line: int | None = None,
    lines: Mapping[str, int] | None = None,
) -> Step:
    """The step of these keys, of which ``kind`` is one; what is None counts as not given.

    Raises:
        Fault: with the key that is unknown, missing or wrong
    """
    if not name.isidentifier() or name in RESERVED:
        raise Fault(
            f"{shown(name)} cannot name a step; give a word of letters, digits and _ that "
            f"templates have no meaning for"
        )
    found = KINDS[kind]
    keys = Keys(kind, given, (kind, *found.keys))
    return found.step(name=name, line=line, lines=lines or {}, **found.fields(keys))


def _llm(keys: Keys) -> dict[str, Any]:
    return {"model": keys.text("llm"), **prompt(keys), "sampling": sampling(keys)}


def _vote(keys: Keys) -> dict[str, Any]:
    models = keys.texts("vote", "models")
    if not models:
        raise Fault("vote names no model; give one or several", "vote")
    drawn = sampling(keys, VOTE_TEMPERATURE)
    if not drawn["temperature"]:
        raise Fault("temperature is 0; all samples of the vote would be equal", "temperature")
    answer = None
    if "answer" in keys:
        answer = keys.text("answer")
        try:
            re.compile(answer)
        except re.error as error:
            what = f"answer is {shown(answer)}, which is no regular expression: {error}"
            raise Fault(what, "answer") from error
    return {
        "models": models,
        **prompt(keys),
        "sampling": drawn,
        "samples": keys.count("samples", 5, least=2),
        "agreement": keys.number("agreement", 1.0, most=1),
        "weights": keys.word("weights", "majority", "modelswitch"),
        "answer": answer,
    }


def _cascade(keys: Keys) -> dict[str, Any]:
    models = keys.texts("cascade", "models")
    if len(models) < 2:
        raise Fault(f"cascade names {len(models)} model; give a small one and a larger", "cascade")
    if "choices" not in keys:
        raise Fault("choices is missing; the margin is between the likeliest two", "choices")
    try:
        choices = labels_of(constraint_of("choices", keys.get("choices")))
    except BadConstraint as bad:
        raise Fault(str(bad), "choices") from bad
    return {
        "models": models,
        **prompt(keys),
        "sampling": {"temperature": 0.0},
        "choices": tuple(choices),
        "margin": keys.number("margin", 0.2, most=1),
    }


def _sql(keys: Keys) -> dict[str, Any]:
    return {
        "database": keys.text("sql"),
        "query": keys.text("query"),
        "values": keys.expressions("values"),
        "attempts": keys.count("attempts", 3),
    }


def _http(keys: Keys) -> dict[str, Any]:
    method, _, url = keys.text("http").strip().partition(" ")
    if method not in ("GET", "POST") or not url.strip():
        raise Fault(f"http is {shown(keys.get('http'))}; write GET or POST and a URL", "http")
    if not url.strip().startswith(("http://", "https://", "{{", "${")):
        raise Fault(f"http asks {shown(url)}; a URL begins with https:// or http://", "http")
    if "body" in keys and method == "GET":
        raise Fault("a GET has no body; write POST, or put the values into the URL", "body")
    headers = keys.get("headers", {})
    if not isinstance(headers, Mapping) or not all(
        isinstance(each, str) for pair in headers.items() for each in pair
    ):
        raise Fault(f"headers is {shown(headers)}; it must be names with texts", "headers")
    share = keys.get("share", True)
    if not isinstance(share, bool):
        raise Fault(f"share is {shown(share)}; it must be true or false", "share")
    return {
        "method": method,
        "url": url.strip(),
        "headers": dict(headers),
        "body": keys.get("body"),
        "attempts": keys.count("attempts", 4),
        "timeout_seconds": keys.number("timeout", 30.0),
        "per_second": keys.number("per_second", None),
        "share": share,
    }


def _python(keys: Keys) -> dict[str, Any]:
    function = keys.get("python")
    if not callable(function):
        module, colon, name = keys.text("python").partition(":")
        words = (*module.split("."), *name.split("."))
        if not colon or not all(word.isidentifier() for word in words):
            raise Fault(f"python is {shown(function)}; write module:function", "python")
    writes = keys.texts("writes", "names")
    if not writes or not all(name.isidentifier() for name in writes):
        raise Fault(f"writes is {shown(keys.get('writes'))}; list the fields it gives", "writes")
    return {
        "function": function,
        "reads": keys.texts("reads", "columns"),
        "writes": writes,
        "batch_rows": keys.count("batch_rows", 256),
    }


def _filter(keys: Keys) -> dict[str, Any]:
    return {"condition": keys.text("filter")}


def _explode(keys: Keys) -> dict[str, Any]:
    return {"column": keys.text("explode")}


def _reduce(keys: Keys) -> dict[str, Any]:
    of = keys.get("reduce")
    if not isinstance(of, str):
        raise Fault(f"reduce is {shown(of)}; name an explode, or write input", "reduce")
    fields = keys.expressions("items")
    if not fields:
        raise Fault("items is missing; name what each item has: {name: step.output}", "items")
    return {
        "of": "" if of == "input" else of,
        "fields": fields,
        "by": keys.texts("by", "columns"),
        "on_error": keys.word("on_error", "fail", "skip"),
    }


KINDS: dict[str, Kind] = {
    "llm": Kind((*PROMPT, *SAMPLING), _llm, Llm),
    "vote": Kind((*PROMPT, *SAMPLING, "samples", "agreement", "weights", "answer"), _vote, Vote),
    "cascade": Kind((*PROMPT, "choices", "margin"), _cascade, Cascade),
    "sql": Kind(("query", "values", "attempts"), _sql, Sql),
    "http": Kind(("headers", "body", "attempts", "timeout", "per_second", "share"), _http, Http),
    "python": Kind(("reads", "writes", "batch_rows"), _python, Python),
    "filter": Kind((), _filter, Filter),
    "explode": Kind((), _explode, Explode),
    "reduce": Kind(("items", "by", "on_error"), _reduce, Reduce),
}
