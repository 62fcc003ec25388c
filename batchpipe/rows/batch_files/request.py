"""One line of a batch file as every format means it: who asks, what, and how to draw the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from batchpipe.rows.batch import Record
from batchpipe.rows.words import shown


class BadRequest(ValueError):
    """A line is no request that can be answered or written; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """A request out of a batch file, whichever API the file is for.

    ``prompt`` is a list of messages where ``is_chat`` says so; else a text, a list of token ids, or
    a list of several of either.
    """

    custom_id: str
    prompt: object
    is_chat: bool
    model: str | None = None
    parameters: Mapping[str, object] = field(default_factory=dict)  # by their names in `PARAMETERS`
    others: Mapping[str, object] = field(default_factory=dict)  # what no job has; see `other_name`


class Written(NamedTuple):
    """A line of another format, and what of the request that format cannot say."""

    line: Record
    unsaid: tuple[str, ...]


# What a job's row says of its answer that an API may say too, and other names of it.
PARAMETERS = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "n",
    "seed",
    "stop",
    "stop_token_ids",
    "repetition_penalty",
    "ignore_eos",
)
OTHER_NAMES = {"max_completion_tokens": "max_tokens", "max_new_tokens": "max_tokens"}

# Fields beside a job's own that OpenAI and Mistral share, name and meaning.
SHARED_NAMES = frozenset(
    (
        "frequency_penalty",
        "metadata",
        "parallel_tool_calls",
        "presence_penalty",
        "response_format",
        "tool_choice",
        "tools",
    )
)

# Fields that ask for nothing where they have one of these values.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "add_generation_prompt": (True,),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "skip_special_tokens": (True,),
    "stream": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
}


def asks_for_nothing(name: str, value: object) -> bool:
    """True where the field says no more than its absence does; 0 is not false."""
    return value is None or any(
        value == each and isinstance(value, bool) == isinstance(each, bool)
        for each in NEUTRAL.get(name, ())
    )


def other_name(api: str, name: str) -> str:
    """The field's name in `BatchRequest.others`: what one API alone has bears that API's name."""
    return name if name in SHARED_NAMES else f"{api}.{name}"


def custom_id_of(line: Record) -> str:
    """The line's own name.

    Raises:
        BadRequest: it has none, or one that is neither a text nor a whole number
    """
    name = line.get("custom_id")
    if isinstance(name, int) and not isinstance(name, bool):
        return str(name)
    if name is None or name == "":
        raise BadRequest("custom_id is missing; answers are found by it")
    if not isinstance(name, str):
        raise BadRequest(f"custom_id is {shown(name)}; it must be a text")
    return name


def object_in(line: Record, name: str) -> Record:
    """The object that the line has under this name; `BadRequest` where there is none."""
    value = line.get(name)
    if value is None:
        raise BadRequest(f"{name} is missing")
    if not isinstance(value, dict):
        raise BadRequest(f"{name} is {shown(value)}, not an object")
    return value


def model_in(body: Record) -> str | None:
    """The model that the body names, if it names one."""
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise BadRequest(f"model is {shown(model)}; it must be a text")
    return model


def messages_in(body: Record) -> list[object]:
    """The chat in the body, whatever its messages are; `BadRequest` where there is none."""
    messages = body.get("messages")
    if messages is None:
        raise BadRequest("messages is missing")
    if not isinstance(messages, list):
        raise BadRequest(f"messages is {shown(messages)}, not a list of {{role, content}}")
    return messages


def sorted_fields(
    api: str, body: Record, names: Mapping[str, str], read: frozenset[str]
) -> tuple[dict[str, object], dict[str, object]]:
    """The body's other fields: sampling parameters by a job's names, and what no job has.

    Args:
        api: whose body it is
        names: its names of the parameters -> those of `PARAMETERS`
        read: the fields that were read already
    """
    parameters: dict[str, object] = {}
    others: dict[str, object] = {}
    for name, value in body.items():
        if name in read or asks_for_nothing(name, value):
            continue
        if name not in names:
            others[other_name(api, name)] = value
            continue
        if parameters.setdefault(names[name], value) != value:
            raise BadRequest(f"{name} is {shown(value)} and contradicts its other name")
    return parameters, others


def write_fields(
    api: str, request: BatchRequest, names: Mapping[str, str], shared: frozenset[str]
) -> tuple[Record, list[str]]:
    """The parameters and others by the API's names, and a phrase for each that it has no name for.

    Args:
        api: whose body is written
        names: of `PARAMETERS` -> the API's
        shared: those of `SHARED_NAMES` that it knows
    """
    body: Record = {}
    unsaid: list[str] = []
    for name, value in request.parameters.items():
        if name in names:
            body[names[name]] = value
        else:
            unsaid.append(f"{name} ({shown(value)})")
    for name, value in request.others.items():
        owner, dot, own_name = name.partition(".")
        if name in shared:
            body[name] = value
        elif dot and owner == api:
            body[own_name] = value
        else:
            unsaid.append(f"{own_name or name} ({shown(value)})")
    return body, unsaid
