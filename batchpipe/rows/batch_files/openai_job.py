"""OpenAI's batch lines as the rows of a job: what an answer needs of them, or why there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from batchpipe.errors import ConfigError
from batchpipe.rows.batch import Record, Rows
from batchpipe.rows.batch_files.openai_lines import read_openai
from batchpipe.rows.batch_files.request import NEUTRAL, PARAMETERS, BadRequest, BatchRequest
from batchpipe.rows.source import Source
from batchpipe.rows.words import listed, shown

LINE_FIELDS = frozenset(("custom_id", "method", "url", "body"))
OWN_COLUMNS = ("custom_id", "url", "messages", "prompt", "prompt_token_ids", "prompts")
COMPLETION_TOKENS = 16  # of an answer of /v1/completions that says nothing, by OpenAI's reference

# They change nothing of what is answered.
WITHOUT_EFFECT = frozenset(
    (
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "stream_options",
        "user",
    )
)

REASONS = {
    "stream": "a batch file has no streams",
    **dict.fromkeys(NEUTRAL.keys() - {"stream"}, "batchpipe cannot do that"),
}


ANY_OBJECT = {"type": "object"}

# What `structured_outputs` of vLLM may have -> the column that asks the same.
VLLM_FORMS = {
    "json": "schema",
    "json_object": "schema",
    "choice": "choices",
    "regex": "regex",
    "grammar": "grammar",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """Fields of a body that together become columns of the row."""

    fields: tuple[str, ...]
    columns: tuple[str, ...]
    read: Callable[[Mapping[str, Any]], Record]  # of the body; raises BadRequest


def _logprobs(body: Mapping[str, Any]) -> Record:
    """How many likeliest tokens are told beside each: a number itself, or a chat's two fields."""
    told, likeliest = body.get("logprobs"), body.get("top_logprobs")
    if "prompt_logprobs" in body:
        raise BadRequest("prompt_logprobs has no place in a batch's answers: leave it out")
    if told is True:
        return {"logprobs": likeliest or 0}
    if likeliest is not None:
        raise BadRequest(f"top_logprobs is {shown(likeliest)} without logprobs true beside it")
    return {} if told is None else {"logprobs": told}


SCORES = Asked(("logprobs", "top_logprobs", "prompt_logprobs"), ("logprobs",), _logprobs)


def _form(body: Mapping[str, Any]) -> Record:
    """What the row's columns say of the form that its answer must have; vLLM has a field more."""
    forms = body.get("structured_outputs")
    if forms is None:
        return _response_format(body.get("response_format"))
    asked = [name for name in forms if forms[name] is not None] if isinstance(forms, dict) else []
    if len(asked) != 1 or asked[0] not in VLLM_FORMS:
        raise BadRequest(
            f"structured_outputs is {shown(forms)}; it must have one of {listed(VLLM_FORMS)}"
        )
    if "response_format" in body:
        raise BadRequest("response_format and structured_outputs exclude each other: give one")
    is_any = asked[0] == "json_object"
    return {VLLM_FORMS[asked[0]]: ANY_OBJECT if is_any else forms[asked[0]]}


def _response_format(wanted: Any) -> Record:
    if wanted is None:
        return {}
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind == "json_object":
        return {"schema": ANY_OBJECT}
    named = wanted.get("json_schema") if kind == "json_schema" else None
    if not isinstance(named, dict) or named.get("schema") is None:
        raise BadRequest(
            f"response_format is {shown(wanted)}; it must have the type text, json_object, or "
            f"json_schema with a schema in it"
        )
    return {"schema": named["schema"]}


FORM = Asked(
    ("response_format", "structured_outputs"), ("choices", "schema", "regex", "grammar"), _form
)


@dataclass(frozen=True, slots=True)
class OpenAIRows:
    """The view of a job's lines: each is the row that answers it."""

    models: tuple[str, ...]  # names that lines may call the model by
    completion_tokens: int | None  # of an answer of /v1/completions that says nothing itself

    @property
    def columns(self) -> tuple[str, ...]:
        """Of every row, whatever the lines have."""
        return (*OWN_COLUMNS, *PARAMETERS, *SCORES.columns, *FORM.columns)

    def row(self, line: Record) -> tuple[Record, str]:
        """The row, and why it cannot run; its id and url are there in any case."""
        kept = {name: line.get(name) for name in ("custom_id", "url")}
        if not isinstance(kept["custom_id"], (str, int)) or isinstance(kept["custom_id"], bool):
            kept["custom_id"] = None
        try:
            return kept | self._asked(read_openai(line)), ""
        except BadRequest as bad:
            return kept, str(bad)

    def _asked(self, request: BatchRequest) -> Record:
        if request.model is not None and request.model not in self.models:
            raise BadRequest(
                f"model is {shown(request.model)}, and this run answers for "
                f"{listed(self.models)}: name it with --served-model-name"
            )
        row = _prompt(request) | dict(request.parameters) | _columns_of(request)
        if not request.is_chat and self.completion_tokens is not None:
            row.setdefault("max_tokens", self.completion_tokens)
        return row


def seen_as_requests(
    source: Source, models: tuple[str, ...], *, has_max_tokens: bool, required: bool
) -> Source:
    """The source; its lines as the rows that answer them where they are OpenAI's batch lines.

    Raises:
        ConfigError: they are lines of another API, or none where they are ``required``
    """
    are_requests = set(source.names) >= LINE_FIELDS if source.readable else required
    if are_requests and source.schema is None:
        return source.through(OpenAIRows(models, None if has_max_tokens else COMPLETION_TOKENS))
    for api, field in (("anthropic", "params"), ("mistral", "body")):
        if {"custom_id", field} <= set(source.names):
            raise ConfigError(
                f"{source.spec} has batch lines without a url, as {api.title()} has them: convert "
                f"them by batchpipe convert {source.spec} requests.jsonl --from {api} --to vllm"
            )
    if required:
        raise ConfigError(
            f"{source.spec} has no OpenAI batch lines: its fields are {listed(source.names)}, and "
            f"such lines have custom_id, method, url and body; `batchpipe run` takes other rows"
        )
    return source


def one_prompt_each(rows: Rows) -> tuple[Rows, npt.NDArray[np.int64]]:
    """Rows of one prompt each, and the place of the row that each was in.

    A row with a list of prompts is as many rows, and another one is itself.
    """
    lists = rows.values("prompts") if "prompts" in rows.names else []
    if not any(lists):
        return rows, np.arange(len(rows))
    records: list[Record | None] = []
    places: list[int] = []
    faults: dict[int, str] = {}
    for place, (record, prompts) in enumerate(zip(rows.records, lists, strict=True)):
        if place in rows.faults:
            faults[len(records)] = rows.faults[place]
        made = [record]
        if record is not None and isinstance(prompts, list):
            made = [record | {"prompts": None} | _plain_prompt(each) for each in prompts]
        records += made
        places += [place] * len(made)
    return (
        replace(rows, records=records, faults=MappingProxyType(faults)),
        np.array(places, dtype=np.int64),
    )


def _prompt(request: BatchRequest) -> Record:
    prompt = request.prompt
    if request.is_chat:
        assert isinstance(prompt, list)
        return {"messages": [_message(index, each) for index, each in enumerate(prompt)]}
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], (str, list)):
        return {"prompts": prompt} if len(prompt) > 1 else _plain_prompt(prompt[0])
    return _plain_prompt(prompt)


def _plain_prompt(prompt: object) -> Record:
    return {"prompt_token_ids" if isinstance(prompt, list) else "prompt": prompt}


def _message(index: int, message: object) -> object:
    """The message with its texts as one: most chat templates know no lists of parts."""
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(message, dict) or not isinstance(content, list):
        return message
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text":
            raise BadRequest(f"messages[{index}] has {shown(part)}; only texts can be read")
        if not isinstance(part.get("text"), str):
            raise BadRequest(f"messages[{index}] has {shown(part)}, a text part without its text")
    return message | {"content": "\n".join(part["text"] for part in content)}


def _columns_of(request: BatchRequest) -> Record:
    """The columns that the request's other fields become; `BadRequest` for what none can say."""
    body = {name.removeprefix("openai."): value for name, value in request.others.items()}
    row: Record = {}
    for asked in (SCORES, FORM):
        row |= asked.read(body)
        for name in asked.fields:
            body.pop(name, None)
    for name, value in body.items():
        if name not in WITHOUT_EFFECT:
            reason = REASONS.get(name, "batchpipe has no such field")
            raise BadRequest(f"{name} is {shown(value)}; {reason}: leave it out")
    return row
