"""OpenAI's batch lines, which `vllm run-batch` reads too: ``{custom_id, method, url, body}``."""

from __future__ import annotations

from batchpipe.rows.batch import Record
from batchpipe.rows.batch_files.request import (
    PARAMETERS,
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
from batchpipe.rows.words import listed, shown

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
URLS = (CHAT, COMPLETIONS)

# What OpenAI's own API knows of the parameters. vLLM knows all of them, by the same names.
OF_OPENAI = ("max_tokens", "temperature", "top_p", "n", "seed", "stop")
READ = frozenset(("model", "messages", "prompt"))


def read_openai(line: Record) -> BatchRequest:
    """The request on this line.

    Raises:
        BadRequest: it is none for a chat or a completion
    """
    custom_id = custom_id_of(line)
    method, url = line.get("method", "POST"), line.get("url")
    if method != "POST":
        raise BadRequest(f"method is {shown(method)}; it must be 'POST'")
    if url not in URLS:
        raise BadRequest(f"url is {shown(url)}; it must be one of {listed(URLS)}")
    body = object_in(line, "body")
    is_chat = url == CHAT
    prompt = messages_in(body) if is_chat else body.get("prompt")
    if prompt is None:
        raise BadRequest("prompt is missing")
    names = {**{name: name for name in PARAMETERS}, "max_completion_tokens": "max_tokens"}
    parameters, others = sorted_fields("openai", body, names, READ)
    return BatchRequest(custom_id, prompt, is_chat, model_in(body), parameters, others)


def write_openai(request: BatchRequest) -> Written:
    """The request as OpenAI's own API takes it."""
    if request.model is None:
        raise BadRequest("it names no model, which OpenAI needs: give --model")
    return _written(request, {name: name for name in OF_OPENAI})


def write_vllm(request: BatchRequest) -> Written:
    """The request as `vllm run-batch` and `batchpipe run-batch` take it."""
    return _written(request, {name: name for name in PARAMETERS})


def _written(request: BatchRequest, names: dict[str, str]) -> Written:
    if request.is_chat:
        names["max_tokens"] = "max_completion_tokens"  # the other name is deprecated there
    fields, unsaid = write_fields("openai", request, names, SHARED_NAMES)
    body: Record = {} if request.model is None else {"model": request.model}
    body["messages" if request.is_chat else "prompt"] = request.prompt
    line: Record = {"custom_id": request.custom_id, "method": "POST"}
    line |= {"url": CHAT if request.is_chat else COMPLETIONS, "body": body | fields}
    return Written(line, tuple(unsaid))
