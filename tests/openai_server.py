"""A real server with OpenAI's API: the shipped demo model, answered by `model.generate`.

    python tests/openai_server.py --port 8123 --log arrivals.jsonl

In a thread of the test (`serving`) or as a process of its own (`spawned`), which can be killed.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import click
import flask
from oracle import load_tokenizer
from werkzeug.serving import make_server

from batchpipe.demo.prompt import MODEL_DIR

BAD_WORD = "spoilt"
SECRET = "sesame"
Body = dict[str, Any]


@dataclass
class Behaviour:
    """How the server is to be: it may be changed while it runs."""

    models: list[str] = field(default_factory=lambda: ["demo"])
    owned_by: str = "vllm"
    max_model_len: int | None = None
    takes_tokens: bool = True
    completes: bool = True
    key: str | None = None
    statuses: list[int] = field(default_factory=list)  # of the next completions, before any other
    cached_tokens: int | None = None
    token_ids: bool = True  # given where they are asked for
    seconds: float = 0.0  # that an answer takes besides
    bodies: list[Body] = field(default_factory=list)  # of completions, as they came
    headers: list[dict[str, str]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)  # completions that came and went
    hold: int = 0  # none goes before so many came
    log: Path | None = None

    @property
    def at_once(self) -> int:
        """Most completions under way at a time."""
        under_way = accumulate(1 if event == "came" else -1 for event in self.events)
        return max(under_way, default=0)

    @property
    def asked(self) -> list[Body]:
        """The completions without the one-token prompt that only tries."""
        return [body for body in self.bodies if len(body["prompt"]) != 1]


def make_app(behaviour: Behaviour) -> flask.Flask:
    """The routes."""
    app = flask.Flask("openai_server")
    generating = threading.Lock()
    came = threading.Condition()

    def refusal() -> flask.Response | None:
        behaviour.headers.append(dict(flask.request.headers))
        if behaviour.key is None:
            return None
        given = flask.request.headers.get("Authorization", "")
        if given == f"Bearer {behaviour.key}":
            return None
        return fault(401, f"the key {given.removeprefix('Bearer ')} is wrong")

    @app.get("/v1/models")
    def models() -> Any:
        card = {"object": "model", "owned_by": behaviour.owned_by, "created": 0}
        if behaviour.max_model_len is not None:
            card["max_model_len"] = behaviour.max_model_len
        return refusal() or {"object": "list", "data": [card | {"id": i} for i in behaviour.models]}

    @app.post("/v1/completions")
    def completions() -> Any:
        body: Body = flask.request.get_json()
        behaviour.bodies.append(body)
        refused = refusal() or refused_body(behaviour, body)
        if refused is not None:
            return refused
        if len(body["prompt"]) != 1:
            with came:
                behaviour.events.append("came")
                came.notify_all()
                came.wait_for(lambda: behaviour.events.count("came") >= behaviour.hold, 60)
        time.sleep(behaviour.seconds)
        with generating:
            made = completion(body, behaviour)
            if behaviour.log is not None:
                with behaviour.log.open("a") as log:
                    print(json.dumps(body["prompt"]), file=log)
        if len(body["prompt"]) != 1:
            behaviour.events.append("went")
        return made

    return app


def refused_body(behaviour: Behaviour, body: Body) -> flask.Response | None:
    """An error as real servers give it, where the request is none for this one."""
    if not behaviour.completes:
        return fault(404, "Not Found")
    if body["model"] not in behaviour.models:
        return fault(404, f"the model {body['model']} does not exist")
    if isinstance(body["prompt"], list) and not behaviour.takes_tokens:
        return fault(422, "prompt: Input should be a valid string")
    if behaviour.statuses and len(body["prompt"]) != 1:
        return fault(behaviour.statuses.pop(0), "not now")
    if BAD_WORD in prompt_of(body)[1]:
        return fault(400, "this prompt is spoilt")
    return None


def fault(status: int, message: str) -> flask.Response:
    """An error with its sentence."""
    response = flask.jsonify({"error": {"message": message, "type": "error", "code": status}})
    response.status_code = status
    response.headers["retry-after-ms"] = "10"  # a test does not wait for seconds
    return response


def prompt_of(body: Body) -> tuple[list[int], str]:
    """Token ids and text of the prompt."""
    tokenizer, prompt = load_tokenizer(str(MODEL_DIR)), body["prompt"]
    if isinstance(prompt, str):
        return tokenizer(prompt)["input_ids"], prompt
    return prompt, tokenizer.decode(prompt)


def completion(body: Body, behaviour: Behaviour) -> Body:
    """The greedy answer."""
    from oracle import greedy_reference

    tokenizer = load_tokenizer(str(MODEL_DIR))
    ids, _ = prompt_of(body)
    [answer] = greedy_reference(
        MODEL_DIR, [ids], body["max_tokens"], ignore_eos=body.get("ignore_eos", False)
    )
    tokens = list(answer.token_ids)
    ended = tokens[-1] == tokenizer.eos_token_id and not body.get("ignore_eos")
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    for stop in body.get("stop") or []:
        ended, text = ended or stop in text, text.partition(stop)[0]
    choice: Body = {"index": 0, "text": text, "finish_reason": "stop" if ended else "length"}
    if body.get("return_token_ids") and behaviour.token_ids:
        choice["token_ids"] = tokens
    usage: Body = {"prompt_tokens": len(ids), "completion_tokens": len(tokens)}
    if behaviour.cached_tokens is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": behaviour.cached_tokens}
    return {"id": "x", "object": "text_completion", "choices": [choice], "usage": usage}


@dataclass(frozen=True)
class Running:
    """A server that answers, and how it is."""

    url: str
    behaviour: Behaviour


@contextmanager
def serving(**behaviour: Any) -> Iterator[Running]:
    """The server in a thread of this process."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    behaves = Behaviour(**behaviour)
    server = make_server("127.0.0.1", 0, make_app(behaves), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Running(f"http://127.0.0.1:{server.port}/v1", behaves)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def spawned(port: int, log: Path, seconds: float = 0.0) -> Iterator[subprocess.Popen[bytes]]:
    """The server as a process of its own, which answers, and is killed at the end of the block."""
    command = [sys.executable, __file__, "--port", str(port), "--log", str(log)]
    with subprocess.Popen(
        [*command, "--seconds", str(seconds)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"ready"
        try:
            yield process
        finally:
            process.kill()


@click.command()
@click.option("--port", type=int, required=True)
@click.option("--log", type=click.Path(path_type=Path), required=True)
@click.option("--seconds", type=float, default=0.0)
def main(port: int, log: Path, seconds: float) -> None:
    """Serve until killed."""
    behaviour = Behaviour(seconds=seconds, log=log)
    completion({"prompt": [5], "max_tokens": 1}, behaviour)  # the model is loaded
    server = make_server("127.0.0.1", port, make_app(behaviour), threaded=True)
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
