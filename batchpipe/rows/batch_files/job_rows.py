"""A job's own rows as requests, and requests as a job's rows."""

from __future__ import annotations

from typing import Any

from batchpipe.rows.batch import Record
from batchpipe.rows.batch_files.request import (
    OTHER_NAMES,
    PARAMETERS,
    BadRequest,
    BatchRequest,
    Written,
)
from batchpipe.rows.messages import BadMessages, parse_messages
from batchpipe.rows.prompts import SOURCES
from batchpipe.rows.words import listed, shown

ID = "request_id"


def read_job_row(row: Record, request_id: str, *, from_arrow: bool) -> BatchRequest:
    """The request that the row is; `BadRequest` where it has no prompt or several."""
    present = [name for name in SOURCES if row.get(name) is not None]
    if len(present) != 1:
        raise BadRequest(f"it has {listed(present)} for a prompt; it must have one of {[*SOURCES]}")
    prompt: Any = row[present[0]]
    if present[0] == "messages":
        try:
            prompt = parse_messages(prompt, from_arrow=from_arrow)
        except BadMessages as bad:
            raise BadRequest(f"messages {bad}") from bad
    parameters: dict[str, object] = {}
    others: dict[str, object] = {}
    for name, value in row.items():
        if value is None or name in (ID, "model", *SOURCES):
            continue
        if name in PARAMETERS or name in OTHER_NAMES:
            parameters.setdefault(OTHER_NAMES.get(name, name), value)
        else:
            others[f"job.{name}"] = value
    model = row.get("model")
    if model is not None and not isinstance(model, str):
        raise BadRequest(f"model is {shown(model)}; it must be a text")
    return BatchRequest(request_id, prompt, present[0] == "messages", model, parameters, others)


def write_job_row(request: BatchRequest) -> Written:
    """The row that asks the same; `BadRequest` for a list of prompts, which no row has."""
    row: Record = {ID: request.custom_id}
    if request.model is not None:
        row["model"] = request.model
    row[_source_of(request)] = request.prompt
    unsaid: list[str] = []
    for name, value in request.others.items():
        owner, _, own_name = name.partition(".")
        if owner == "job":
            row[own_name] = value
        else:
            unsaid.append(f"{own_name or name} ({shown(value)})")
    parameters = dict(request.parameters)
    if isinstance(parameters.get("stop"), str):  # a column has one type
        parameters["stop"] = [parameters["stop"]]
    return Written(row | parameters, tuple(unsaid))


def _source_of(request: BatchRequest) -> str:
    if request.is_chat:
        return "messages"
    prompt = request.prompt
    if isinstance(prompt, str):
        return "prompt"
    if isinstance(prompt, list) and not any(isinstance(each, (str, list)) for each in prompt):
        return "prompt_token_ids"
    raise BadRequest("it has a list of prompts, and a job's row has one: give each its own line")
