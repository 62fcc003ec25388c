"""Lines of batch files, for the tests of several folders."""

from __future__ import annotations

from typing import Any

from openai.types import Completion
from openai.types.chat import ChatCompletion

Line = dict[str, Any]


def chat(custom_id: str, text: str, **body: Any) -> Line:
    """A line that asks for a chat completion."""
    messages = [{"role": "user", "content": text}]
    return line(custom_id, "/v1/chat/completions", {"messages": messages, **body})


def completion(custom_id: str, prompt: Any, **body: Any) -> Line:
    """A line that asks for a text completion."""
    return line(custom_id, "/v1/completions", {"prompt": prompt, **body})


def line(custom_id: Any, url: str, body: Any) -> Line:
    """A line that asks for anything."""
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def parsed(answer: Line) -> ChatCompletion | Completion | None:
    """The answer's body by the official package's own types, None where the line failed.

    The line itself is checked as both OpenAI's readers and vLLM's expect it.
    """
    assert answer.keys() == {"id", "custom_id", "response", "error"}
    response, error = answer["response"], answer["error"]
    assert response.keys() == {"status_code", "request_id", "body"}
    assert all(isinstance(each, str) for each in (answer["id"], answer["custom_id"]))
    assert isinstance(response["request_id"], str)
    if error is not None:
        assert response["status_code"] >= 400
        assert response["body"] is None  # vLLM's reader knows no body but an answer
        assert isinstance(error["code"], str)
        assert isinstance(error["message"], str)
        return None
    assert response["status_code"] == 200
    kind = Completion if response["body"]["object"] == "text_completion" else ChatCompletion
    return kind.model_validate(response["body"], strict=True)
