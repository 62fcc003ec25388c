"""A request for each row: what comes of every way in which a host can answer."""

from __future__ import annotations

import gzip
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from http_host import Host, Reply, http_host

from batchpipe.errors import ConfigError
from batchpipe.workflow.operators import http, retry
from batchpipe.workflow.operators.http import Client, Endpoint
from batchpipe.workflow.outcome import Outcome
from batchpipe.workflow.steps import Http

NO_URL = "the URL does not begin with http:// or https:// and a host"
PLAIN = {"Content-Type": "text/plain"}


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    with http_host() as host:
        yield host


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.close()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between attempts, which take no time here."""
    waited: list[float] = []

    def note(event: threading.Event) -> Any:
        return waited.append

    monkeypatch.setattr(retry.tenacity, "sleep_using_event", note)
    return waited


def endpoint(client: Client, **fields: Any) -> Endpoint:
    return Endpoint(Http(name="page", **{"method": "GET", "url": "", **fields}), client)


def get(client: Client, url: str, **fields: Any) -> Outcome:
    return endpoint(client, **fields).answer(url, {})


def test_an_answer_is_its_status_its_text_and_its_json(host: Host, client: Client) -> None:
    url = host.says("/film", Reply(201, '{"title": "Amélie"}'.encode()))
    assert get(client, url).values == {
        "status": 201,
        "text": '{"title": "Amélie"}',
        "json": {"title": "Amélie"},
    }


@pytest.mark.parametrize("body", [b"hello", b"{}"])
def test_what_does_not_say_that_it_is_json_is_text(host: Host, client: Client, body: bytes) -> None:
    found = get(client, host.says("/", Reply(body=body, headers=PLAIN)))
    assert found.values == {"status": 200, "text": body.decode(), "json": None}


@pytest.mark.parametrize("body", [b"{", b"NaN", b"", b"[" * 100_000])
def test_what_only_says_that_it_is_json_is_text(host: Host, client: Client, body: bytes) -> None:
    found = get(client, host.says("/", Reply(body=body)))
    assert found.error is None
    assert found.values["json"] is None


def test_text_is_read_in_the_encoding_that_it_names(host: Host, client: Client) -> None:
    for charset, text in (("latin-1", "Amélie"), ("klingon", "Am\ufffdlie")):
        headers = {"Content-Type": f"text/plain; charset={charset}"}
        reply = Reply(body="Amélie".encode("latin-1"), headers=headers)
        assert get(client, host.says("/", reply)).values["text"] == text


def test_post_sends_its_body_as_json_with_its_headers(host: Host, client: Client) -> None:
    step = endpoint(client, method="POST")
    body = {"title": "Amélie", "year": None}
    assert step.answer(host.says("/", Reply()), {"X-Key": " sesame\n"}, body).error is None
    [came] = host.came
    assert came.method == "POST"
    assert came.json == body
    assert came.headers["X-Key"] == "sesame"
    assert came.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_host_in_trouble_is_asked_again_after_longer_waits(
    host: Host, client: Client, waits: list[float], status: int
) -> None:
    url = host.says("/", *[Reply(status)] * 3, Reply())
    assert get(client, url).values["status"] == 200
    assert len(host.came) == 4
    for attempt, wait in enumerate(waits):
        assert 0.5 * 2**attempt <= wait <= 0.5 * 2**attempt + 0.5  # with jitter
    assert len(waits) == 3


def test_a_lost_connection_is_made_again(host: Host, client: Client, waits: list[float]) -> None:
    url = host.says("/", Reply(cut=True), Reply())
    assert get(client, url).error is None
    assert len(waits) == 1


@pytest.mark.parametrize("as_date", [False, True])
@pytest.mark.parametrize("status", [429, 503])
def test_a_host_is_left_alone_as_long_as_it_asks(
    host: Host, client: Client, status: int, as_date: bool
) -> None:
    later = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
    headers = {"Retry-After": format_datetime(later, usegmt=True) if as_date else "1"}
    url = host.says("/", Reply(status, headers=headers), Reply())
    assert get(client, url).error is None
    first, second = host.came
    assert second.at >= (later.timestamp() if as_date else first.at + 1.0)


def test_all_threads_leave_a_host_alone_that_asks_for_it(host: Host, client: Client) -> None:
    busy = host.says("/busy", Reply(429, headers={"Retry-After": "1"}), Reply())
    other = host.says("/other", Reply())
    asked = threading.Thread(target=lambda: get(client, busy))
    asked.start()
    while not host.came:
        time.sleep(0.001)
    time.sleep(0.1)  # the answer has come
    assert get(client, other).error is None
    asked.join()
    by_path = {came.path: came.at for came in host.came[1:]}
    assert by_path["/other"] - host.came[0].at >= 1.0


def test_a_rest_without_end_is_cut(
    host: Host, client: Client, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.pace, "hold", lambda *_: None)
    for said in ("86400", "Fri, 31 Dec 2100 23:59:59 GMT"):
        get(client, host.says("/", Reply(429, headers={"Retry-After": said}), Reply()))
    assert waits == [600.0, 600.0]


@pytest.mark.parametrize("said", ["soon", "-1", "", "²"])
def test_an_unreadable_rest_is_our_own_wait(
    host: Host, client: Client, waits: list[float], said: str
) -> None:
    headers = {"Retry-After": said.encode().decode("latin-1")}
    get(client, host.says("/", Reply(429, headers=headers), Reply()))
    assert 0.5 <= waits[0] <= 1.0


def test_a_host_that_stays_in_trouble_is_the_rows_error(
    host: Host, client: Client, waits: list[float]
) -> None:
    url = host.says("/", Reply(500, b"<h1>Out of\n memory</h1>" + b"x" * 300))
    error = get(client, url + "?key=sesame", attempts=3).error
    assert error is not None
    assert error.startswith(f"GET {url}: 500 Internal Server Error: <h1>Out of memory</h1>xxx")
    assert error.endswith("x… (3 attempts)")
    assert len(error) < 300
    assert len(waits) == 2


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_a_refused_request_is_not_sent_again(host: Host, client: Client, status: int) -> None:
    found = get(client, host.says("/", Reply(status, b"no such film")))
    assert str(found.error).endswith(": no such film")
    assert f"/: {status} " in str(found.error)
    assert len(host.came) == 1


def test_a_host_that_says_nothing_is_asked_again_and_then_told(
    host: Host, client: Client, waits: list[float]
) -> None:
    url = host.says("/", Reply(pause_seconds=3.0))
    found = get(client, url, attempts=2, timeout_seconds=0.1)
    assert found.error == f"GET {url}: no answer within 0.1 seconds (2 attempts)"


def test_an_answer_that_only_trickles_is_a_timeout(
    host: Host, client: Client, waits: list[float]
) -> None:
    url = host.says("/", Reply(body=b"x" * 300, chunks=300, pause_seconds=0.05, headers=PLAIN))
    found = get(client, url, attempts=1, timeout_seconds=0.3)
    assert found.error == f"GET {url}: no answer within 0.3 seconds"


def test_a_host_that_is_not_there_is_the_rows_error(client: Client, waits: list[float]) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        found = get(client, url, attempts=2)
    assert "refused" in str(found.error)
    assert str(found.error).endswith(" (2 attempts)")


@pytest.mark.parametrize("packed", [False, True])
def test_an_answer_too_large_is_refused_by_a_sentence(
    host: Host, client: Client, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    monkeypatch.setattr(http, "MOST_BYTES", 1_000_000)
    body, headers = b"x" * 1_000_001, dict(PLAIN)
    if packed:
        body, headers["Content-Encoding"] = gzip.compress(body), "gzip"
    url = host.says("/", Reply(body=body, headers=headers))
    assert get(client, url).error == f"GET {url}: the answer is larger than 1 MB"
    assert len(host.came) == 1


def test_redirects_are_followed_and_another_host_sees_no_key(host: Host, client: Client) -> None:
    with http_host() as other:
        there = other.says("/there", Reply())
        moved = host.says("/moved", Reply(302, headers={"Location": there}))
        begin = host.says("/", Reply(307, headers={"Location": "/moved"}))
        keys = {"X-Key": "sesame", "Authorization": "Bearer sesame"}
        assert endpoint(client).answer(begin, keys).values["status"] == 200
    assert moved.endswith(host.came[1].path)
    assert [came.headers.get("X-Key") for came in host.came] == ["sesame", "sesame"]
    [came] = other.came
    assert "sesame" not in str(came.headers)


def test_a_redirect_to_what_is_no_http_is_refused(host: Host, client: Client) -> None:
    url = host.says("/", Reply(302, headers={"Location": "file:///etc/passwd"}))
    assert "protocol" in str(get(client, url).error)
    assert len(host.came) == 1


def test_redirects_that_do_not_end_are_refused(host: Host, client: Client) -> None:
    url = host.says("/", Reply(302, headers={"Location": "/"}))
    assert get(client, url).error == f"GET {url}: more than 10 redirects"
    assert len(host.came) == 11


def test_no_row_sends_the_cookie_of_another(host: Host, client: Client) -> None:
    url = host.says("/", Reply(headers={"Set-Cookie": "row=1"}))
    get(client, url)
    get(client, url)
    assert "Cookie" not in host.came[1].headers


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("", NO_URL),
        ("/films", NO_URL),
        ("file:///etc/passwd", NO_URL),
        ("http:///films", NO_URL),
        ("http://[::1/x", "the request is wrong: Invalid port: ':1'"),
        ("http://a\nb/", "the request is wrong: Invalid non-printable ASCII character in URL, "
            "'\\n' at position 8."),
    ],
)  # fmt: skip
def test_a_row_whose_url_is_none_fails_alone(client: Client, url: str, sentence: str) -> None:
    assert get(client, url).error == sentence


@pytest.mark.parametrize(
    ("headers", "sentence"),
    [
        ({"X-Key": "ses\name"}, "header X-Key has a line break or a letter that is not ASCII"),
        ({"X-Key": "sesäme"}, "header X-Key has a line break or a letter that is not ASCII"),
        ({"X Key": "x"}, "'X Key' is no name of a header"),
    ],
)
def test_a_bad_header_is_told_by_name_without_its_value(
    client: Client, headers: dict[str, str], sentence: str
) -> None:
    assert endpoint(client).answer("http://127.0.0.1:1/", headers).error == sentence


def test_no_sentence_and_no_warning_shows_a_key(
    host: Host, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    url = host.says("/", Reply(404)).replace("//", "//me:sesame@")
    found = endpoint(client).answer(f"{url}?key=sesame", {"X-Key": "sesame"})
    assert "sesame" not in str(found.error)
    assert "sesame" not in caplog.text


@pytest.mark.parametrize(
    ("name", "value"), [("ALL_PROXY", "gopher://here"), ("SSL_CERT_FILE", "/no/such/file")]
)
def test_an_environment_that_cannot_be_used_is_told_before_any_row(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as told:
        Client()
    assert str(told.value).startswith("http steps cannot use the proxy or the certificates")
    assert name in str(told.value)


def test_requests_per_second_hold_for_all_threads_together(host: Host, client: Client) -> None:
    step = endpoint(client, per_second=20.0)
    url = host.says("/", Reply())
    threads = [threading.Thread(target=lambda: step.answer(url, {})) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    came = sorted(came.at for came in host.came)
    assert len(came) == 12
    # A late thread may come close to the next one; turns themselves are 1/20 s apart.
    assert came[-1] - came[0] >= 11 / 20 - 0.05


def test_many_threads_are_answered_each_its_own(host: Host, client: Client) -> None:
    bodies = [{"row": row} for row in range(200)]
    for body in bodies:
        host.says(f"/{body['row']}", Reply(body=json.dumps(body).encode()))
    step, found = endpoint(client), {}

    def ask(rows: range) -> None:
        for row in rows:
            found[row] = step.answer(f"{host.url}/{row}", {}).values["json"]

    threads = [threading.Thread(target=ask, args=(range(i, 200, 16),)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[row] for row in range(200)] == bodies


def test_a_closed_client_ends_the_wait_for_another_attempt(host: Host) -> None:
    client = Client()
    url = host.says("/", Reply(503, headers={"Retry-After": "600"}))
    found: list[Outcome] = []
    waiting = threading.Thread(target=lambda: found.append(get(client, url)))
    waiting.start()
    while not host.came:
        time.sleep(0.001)
    client.close()
    waiting.join()
    assert found[0].error is not None
