"""Mistral's batch lines: ``{custom_id, body}``; the job, not the line, names url and model."""

from __future__ import annotations

from batchpipe.rows.batch import Record
from batchpipe.rows.batch_files.request import (
    SHARED_NAMES,
    BadRequest,
    BatchRequest,
    Written,
    custom_id_of,
    messages_in,
    model_in,
    object_in,
    sorted_fields,
    write_fields,
)

# A job's names -> Mistral's.
NAMES = {
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "n": "n",
    "stop": "stop",
    "seed": "random_seed",
}
READ = frozenset(("model", "messages"))


def read_mistral(line: Record) -> BatchRequest:
    """The request on this line; `BadRequest` where it is none for a chat."""
    custom_id = custom_id_of(line)
    body = object_in(line, "body")
    names = {theirs: ours for ours, theirs in NAMES.items()}
    parameters, others = sorted_fields("mistral", body, names, READ)
    return BatchRequest(custom_id, messages_in(body), True, model_in(body), parameters, others)


def write_mistral(request: BatchRequest) -> Written:
    """The request as Mistral takes it; `BadRequest` where it is no chat."""
    if not request.is_chat:
        raise BadRequest("it has a plain prompt, and Mistral's batches are of chats")
    fields, unsaid = write_fields("mistral", request, NAMES, SHARED_NAMES)
    body: Record = {} if request.model is None else {"model": request.model}
    body |= {"messages": request.prompt, **fields}
    return Written({"custom_id": request.custom_id, "body": body}, tuple(unsaid))
