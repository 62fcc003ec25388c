"""A request for each row. Alone imports httpx.

Asked again, with growing waits, where the answer may be another one later: after 429, 5xx, a
timeout or a lost connection. That also holds for POST, which a server may so see twice. The
proxies and certificates that the environment names are used (``HTTP_PROXY``, ``HTTPS_PROXY``,
``ALL_PROXY``, ``NO_PROXY``, ``SSL_CERT_FILE``, ``SSL_CERT_DIR``), as httpx does by itself. No
cookie is kept from one request to another. Sentences never show headers, nor what follows the
path of a URL, where keys stand, nor the value of any variable of the environment that the step
names; where an answer repeats one, the variable's name stands in its place.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from threading import Event
from typing import Any

from batchpipe.errors import ConfigError
from batchpipe.rows.words import listed, one_line, shown
from batchpipe.workflow.authoring.variables import LEAST_SECRET, Hidden, in_host
from batchpipe.workflow.operators.pace import Pace
from batchpipe.workflow.operators.retry import Patience, Transient, retried
from batchpipe.workflow.outcome import Outcome
from batchpipe.workflow.steps import Http

try:
    import httpx
except ImportError as error:
    raise ConfigError(
        f"http steps need the package httpx ({error}): pip install 'batchpipe[workflow]'"
    ) from error

ENVIRONMENT = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
MOST_BYTES = 10_000_000  # of an answer's body, unpacked
MOST_REDIRECTS = 10
LONGEST_REST_SECONDS = 600.0  # that a server's Retry-After is heeded for
SHOWN_CHARACTERS = 200  # of the body of an error

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

# A fault of the request itself: it would come again.
_HOPELESS = (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.DecodingError)


class Refused(ValueError):
    """The request has no answer that a row could keep; the message is the reason."""


class Client:
    """Up to so many connections to all hosts of a workflow together, and each host's pace.

    Raises:
        ConfigError: the environment names a proxy or certificates that cannot be used
    """

    def __init__(self, *, connections: int = 32) -> None:
        self.closing = Event()
        self.pace = Pace(self.closing)
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        try:
            self._connections = httpx.Client(limits=limits, headers={"User-Agent": "batchpipe"})
        except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
            raise ConfigError(
                f"http steps cannot use the proxy or the certificates that the environment names "
                f"({listed(name for name in ENVIRONMENT if name in os.environ)}): "
                f"{one_line(str(error))}"
            ) from error
        self._connections.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))

    def close(self) -> None:
        """All connections are closed, and nobody waits for another attempt."""
        self.closing.set()
        self._connections.close()

    def request(
        self, method: str, url: str, headers: Mapping[str, str], body: Any, timeout_seconds: float
    ) -> httpx.Request:
        """The request, not yet sent.

        Raises:
            Refused: there can be none with such a URL or headers
        """
        checked = _checked(headers)
        try:
            made = self._connections.build_request(
                method, url, headers=checked, json=body, timeout=timeout_seconds
            )
        except (httpx.InvalidURL, ValueError, TypeError) as error:
            raise Refused(f"the request is wrong: {one_line(str(error))}") from error
        if made.url.scheme not in ("http", "https") or not made.url.host:
            raise Refused("the URL does not begin with http:// or https:// and a host")
        return made

    def sent(self, request: httpx.Request, own: Mapping[str, str]) -> tuple[httpx.Response, bytes]:
        """The response at the end of all redirects, with its body.

        Another host is not shown the step's ``own`` headers, which may hold keys.

        Raises:
            httpx.HTTPError: there is none
            Refused: the body is too large, or redirects do not end
        """
        for _ in range(MOST_REDIRECTS + 1):
            response = self._connections.send(request, stream=True, follow_redirects=False)
            try:
                following = response.next_request
                if following is None:
                    return response, _body(response)
            finally:
                response.close()
            if _origin(following.url) != _origin(request.url):
                for name in own:
                    following.headers.pop(name, None)
            request = following
        raise Refused(f"more than {MOST_REDIRECTS} redirects")


class Endpoint:
    """A step's requests, sent for one row after another, by any number of threads."""

    def __init__(self, step: Http, client: Client) -> None:
        self._step, self._client = step, client
        self._patience = Patience(step.attempts)
        named = (step.url, *step.headers.values())
        self._hidden = Hidden(named)
        self._secrets = Hidden(named, least_characters=LEAST_SECRET, besides=in_host(step.url))

    def answer(self, url: str, headers: Mapping[str, str], body: Any = None) -> Outcome:
        """What the host answers, or why it is an error, after all attempts."""
        step = self._step
        try:
            request = self._client.request(step.method, url, headers, body, step.timeout_seconds)
        except Refused as reason:
            return Outcome(error=self._hidden.out_of(str(reason)))
        try:
            return retried(
                lambda: self._attempt(request, headers), self._patience, self._client.closing
            )
        except (Transient, Refused) as reason:
            sentence = f"{step.method} {_shown(request.url)}: {reason}"
            return Outcome(error=self._hidden.out_of(sentence))

    def _attempt(self, request: httpx.Request, headers: Mapping[str, str]) -> Outcome:
        """What came of one request.

        Raises:
            Transient: something that may be otherwise the next time
            Refused: something that will not
        """
        host, pace = request.url.netloc.decode(), self._client.pace
        pace.wait(host, self._step.per_second)
        try:
            response, content = self._client.sent(request, headers)
        except _HOPELESS as error:
            raise Refused(_cause(error)) from error
        except httpx.TimeoutException as error:
            seconds = self._step.timeout_seconds
            raise Transient(f"no answer within {seconds:g} seconds") from error
        except httpx.TransportError as error:
            raise Transient(_cause(error)) from error
        except RuntimeError as error:  # of connections that were closed meanwhile
            raise Refused("closed before it answered") from error
        text = self._secrets.out_of(_text(response, content))
        if response.status_code < 400:
            values = {"status": response.status_code, "text": text, "json": _json(response, text)}
            return Outcome(values)
        status = f"{response.status_code} {response.reason_phrase}".strip()
        text = self._hidden.out_of(text)  # all of it, before it is cut
        sentence = f"{status}: {one_line(text, SHOWN_CHARACTERS)}" if text.strip() else status
        if response.status_code != 429 and response.status_code < 500:
            raise Refused(sentence)
        rest = _rest_seconds(response)
        if rest is not None:
            pace.hold(host, rest)
        raise Transient(sentence, wait_seconds=rest)


def _checked(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers without space around them; httpx would show in its error what is in a bad one.

    Raises:
        Refused: one of them is none
    """
    stripped = {name: value.strip() for name, value in headers.items()}
    for name, value in stripped.items():
        if not _HEADER.fullmatch(name):
            raise Refused(f"{shown(name)} is no name of a header")
        if not (value.isascii() and value.replace("\t", " ").isprintable()):
            raise Refused(f"header {name} has a line break or a letter that is not ASCII")
    return stripped


def _body(response: httpx.Response) -> bytes:
    """The body, unpacked; a timeout also where it only trickles.

    Raises:
        Refused: it is too large
    """
    read_seconds = response.request.extensions["timeout"]["read"]
    until = time.monotonic() + read_seconds
    found = bytearray()
    for chunk in response.iter_bytes():
        found += chunk
        if len(found) > MOST_BYTES:
            raise Refused(f"the answer is larger than {MOST_BYTES // 1_000_000} MB")
        if time.monotonic() > until:
            raise httpx.ReadTimeout("", request=response.request)
    return bytes(found)


def _text(response: httpx.Response, content: bytes) -> str:
    try:
        return content.decode(response.charset_encoding or "utf-8", "replace")
    except LookupError:  # no encoding that Python knows
        return content.decode("utf-8", "replace")


def _json(response: httpx.Response, text: str) -> Any:
    """What the body says as JSON, or None where it says that it is none, or is none."""
    if "json" not in response.headers.get("content-type", ""):
        return None
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return None


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _rest_seconds(response: httpx.Response) -> float | None:
    """How long the server wants to be left alone, given in seconds or as a date."""
    said = response.headers.get("retry-after", "").strip()
    try:
        seconds = float(said) if said.isdigit() else parsedate_to_datetime(said).timestamp()
    except (ValueError, OverflowError):
        return None
    if not said.isdigit():
        seconds -= time.time()
    return min(max(0.0, seconds), LONGEST_REST_SECONDS)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _shown(url: httpx.URL) -> str:
    """The URL without name, password and what follows its path."""
    return one_line(str(url.copy_with(userinfo=b"", query=None, fragment=None)))


def _cause(error: Exception) -> str:
    return one_line(str(error)) or type(error).__name__
