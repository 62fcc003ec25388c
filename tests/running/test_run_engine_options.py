"""What an engine has no use for is refused in a sentence, before anything is done."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch  # noqa: F401  # a run through a server hides it where it is not loaded
from harness import Ran, call, write_lines
from openai_server import serving

URL = "http://127.0.0.1:1/v1"
SERVER = ("--engine", "openai", "--base-url", URL)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "job.jsonl", [{"prompt": "hi"}])


def refused(job: Path, *more: object) -> str:
    """The sentence. The model is not even looked for."""
    ran: Ran = call("run", job, "-m", "no/model", "-o", job.parent / "out.jsonl", *more)
    assert ran.code == 2
    assert not (job.parent / "out.jsonl.run").exists()
    return ran.sentence


def test_an_unknown_engine_is_refused_with_those_that_are(job: Path) -> None:
    assert "'batchpipe', 'openai', 'vllm'" in refused(job, "--engine", "tgi")


def test_a_server_needs_an_address(job: Path) -> None:
    assert "--engine openai needs --base-url" in refused(job, "--engine", "openai")


@pytest.mark.parametrize("engine", ["batchpipe", "vllm"])
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--base-url", URL),
        ("--served-model", "demo"),
        ("--api-key-env", "KEY"),
        ("--concurrency", 4),
    ],
)
def test_an_option_of_a_server_needs_one(
    job: Path, engine: str, option: str, value: object
) -> None:
    sentence = refused(job, "--engine", engine, option, value)
    assert f"{option} {value}" in sentence
    assert "leave it out" in sentence


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--kv-memory", "4GB"),
        ("--device", "cpu"),
        ("--dtype", "float32"),
        ("--quantize", "int8"),
        ("--speculate", "off"),
        ("--machine", "h200"),
        ("--step-tokens", 64),
    ],
)
def test_what_is_the_servers_affair_is_refused(job: Path, option: str, value: object) -> None:
    sentence = refused(job, *SERVER, option, value)
    assert f"{option} {value} is the server's own affair" in sentence


@pytest.mark.parametrize(
    ("option", "value"),
    [("--device", "cpu"), ("--machine", "h200"), ("--quantize", "int8"), ("--speculate", "off")],
)
def test_what_vllm_cannot_be_told_is_refused(job: Path, option: str, value: object) -> None:
    sentence = refused(job, "--engine", "vllm", option, value)
    assert f"{option} {value} is no option of --engine vllm" in sentence


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://host/v1",
        "http://",
        "http://host:x/v1",
        "http://host..com/v1",
        "http://[::1]8000/v1",
    ],
)
def test_an_address_that_is_none_is_named(job: Path, url: str) -> None:
    sentence = refused(job, "--engine", "openai", "--base-url", url)
    assert f"--base-url {url} is no address of a server" in sentence


@pytest.mark.parametrize("url", ["http://me:sesame@host/v1", "http://host/v1?key=sesame"])
def test_a_key_in_the_address_is_refused_and_not_shown(job: Path, url: str) -> None:
    sentence = refused(job, "--engine", "openai", "--base-url", url)
    assert "--api-key-env" in sentence
    assert "sesame" not in sentence


@pytest.mark.parametrize("wanted", [0, -1, 1001])
def test_a_concurrency_out_of_range_is_named(job: Path, wanted: int) -> None:
    sentence = refused(job, *SERVER, "--concurrency", wanted)
    assert f"--concurrency {wanted} must be from 1" in sentence


def test_a_key_that_the_environment_lacks_is_named(job: Path) -> None:
    sentence = refused(job, *SERVER, "--api-key-env", "NO_SUCH_KEY")
    assert "--api-key-env NO_SUCH_KEY" in sentence


@pytest.mark.parametrize("key", ["sésame", "sesame\nopen"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(
    job: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUR_KEY", key)
    sentence = refused(job, *SERVER, "--api-key-env", "OUR_KEY")
    assert "--api-key-env OUR_KEY: its value has characters that no key has" in sentence
    assert key not in sentence


def test_a_server_that_does_not_answer_is_named(job: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        sentence = refused(job, "--engine", "openai", "--base-url", url)
    assert f"--base-url {url} does not answer" in sentence
    assert "start the server or mend the address" in sentence


class _Page(BaseHTTPRequestHandler):
    """A site that is no API, and one that sends on to elsewhere."""

    def do_GET(self) -> None:
        self.send_response(307 if "moved" in self.path else 200)
        self.send_header("Location", "http://127.0.0.1:9/v1/models")
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<html>hello</html>")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Page)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_site_that_is_no_api_is_named(job: Path, site: str) -> None:
    sentence = refused(job, "--engine", "openai", "--base-url", site)
    assert f"--base-url {site} answers, but not with OpenAI's API" in sentence


def test_no_redirect_is_followed(job: Path, site: str) -> None:
    sentence = refused(job, "--engine", "openai", "--base-url", f"{site}/moved")
    assert "[307]" in sentence


def test_an_address_without_completions_is_named(tmp_path: Path) -> None:
    from batchpipe.demo.prompt import MODEL_DIR

    job = write_lines(tmp_path / "job.jsonl", [{"prompt": "hi"}])
    with serving(completes=False) as server:
        ran = call(
            *("run", job, "-m", MODEL_DIR, "-o", tmp_path / "out.jsonl"),
            *("--engine", "openai", "--base-url", server.url),
        )
    assert ran.code == 2
    assert f"{server.url} has no /completions for demo (Not Found [404])" in ran.sentence


@pytest.mark.parametrize("engine", ["openai", "vllm"])
def test_a_package_that_is_missing_is_named_with_its_install_line(
    job: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("batchpipe.integrations.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, engine, None)
    more = SERVER if engine == "openai" else ("--engine", "vllm")
    assert f"pip install 'batchpipe[{engine}]'" in refused(job, *more)


def test_a_package_that_is_broken_is_named_with_the_reason(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "libcudart.so.12: cannot open shared object file"
    (tmp_path / "vllm.py").write_text(f"raise ImportError({reason!r})")
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    sentence = refused(job, "--engine", "vllm")
    assert f"the package vllm, which cannot be imported ({reason})" in sentence
    assert "pip install 'batchpipe[vllm]'" in sentence
