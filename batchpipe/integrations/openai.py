"""A server with OpenAI's API: what it serves, what it completes, and what its refusals mean.

Alone imports `openai`, and needs no torch. Talks to one URL and to nothing else: it follows no
redirect, and of the environment it takes a key only where `--api-key-env` names its variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import openai

from batchpipe.errors import GOES_ON, ConfigError, StoppedEarly
from batchpipe.rows.words import one_line

RETRIES = 6  # of one request, 25 s together
RETRIES_AT_FIRST = 2  # before the run begins: a wrong address is told at once
REQUEST_SECONDS = 3600.0  # for an answer, with all that the server has to do before it
CONNECT_SECONDS = 10.0
NO_KEY = "none"  # the package wants one; without it, it would take OPENAI_API_KEY

# Of no single row: they would come for every other as well.
OF_ALL_ROWS = (
    openai.APIConnectionError,
    openai.AuthenticationError,
    openai.PermissionDeniedError,
    openai.NotFoundError,
    openai.RateLimitError,
)
FAILS = 500  # perhaps at this row alone; what is above says that the server is away


class Refused(Exception):
    """The server will not complete this one prompt; the message is its sentence."""


class Server:
    """One server, asked with the key or with none.

    `cards` and `refuses_token_ids` wait; `complete` and `close` belong to an event loop.
    """

    def __init__(self, url: str, key: str | None) -> None:
        self.url = url
        self._key = key
        self._client: openai.AsyncOpenAI = self._connected(
            openai.AsyncOpenAI, openai.DefaultAsyncHttpxClient, RETRIES
        )

    def cards(self) -> dict[str, Any]:
        """What the server says of each model that it serves, by its name there; may be nothing.

        Raises:
            ConfigError: it does not answer, refuses the key, or has another API
        """
        try:
            with self._waiting(RETRIES_AT_FIRST) as client:
                return {str(card.id): card for card in client.models.list().data}
        except openai.NotFoundError:  # not every server lists them
            return {}
        except openai.APIError as error:
            raise ConfigError(self._unreached(error)) from error
        except (AttributeError, TypeError) as error:
            raise ConfigError(
                f"--base-url {self.url} answers, but not with OpenAI's API; most servers have it "
                f"under /v1"
            ) from error

    def refuses_token_ids(self, model: str, token_id: int) -> str | None:
        """Why the server takes no prompts as token ids; None where it takes them.

        Raises:
            ConfigError: it completes no prompts at all
            StoppedEarly: it has gone since it answered first
        """
        try:
            with self._waiting(RETRIES_AT_FIRST) as client:
                client.completions.create(model=model, prompt=[token_id], max_tokens=1)
        except openai.NotFoundError as error:
            raise ConfigError(
                f"{self.url} has no /completions for {model} ({self._sentence(error)}); most "
                f"servers have it under /v1"
            ) from error
        except openai.RateLimitError:  # the run itself has more patience
            return None
        except OF_ALL_ROWS as error:
            raise self._gone(error) from error
        except openai.APIStatusError as error:
            return self._sentence(error)
        return None

    async def complete(self, request: Mapping[str, Any]) -> Any:
        """What the server answers to a request for one completion.

        Raises:
            Refused: it will not answer this one
            StoppedEarly: it answers no more
        """
        try:
            return await self._client.completions.create(**request)
        except OF_ALL_ROWS as error:
            raise self._gone(error) from error
        except openai.APIStatusError as error:
            if error.status_code >= FAILS:
                await self._still_there(error)
            raise Refused(f"the server refuses this prompt: {self._sentence(error)}") from error
        except (openai.APIError, ValueError) as error:
            raise Refused(f"the server's answer cannot be read: {self._sentence(error)}") from error

    async def close(self) -> None:
        """Its connections are closed."""
        await self._client.close()

    async def _still_there(self, error: openai.APIStatusError) -> None:
        """The server failed at this one prompt alone, as far as can be seen.

        Raises:
            StoppedEarly: it fails altogether
        """
        if error.status_code != FAILS:
            raise self._gone(error) from error
        try:
            await self._client.models.list()
        except openai.NotFoundError:
            return
        except openai.APIError as now:
            raise self._gone(now) from now

    def _waiting(self, retries: int) -> openai.OpenAI:
        client: openai.OpenAI = self._connected(openai.OpenAI, openai.DefaultHttpxClient, retries)
        return client

    def _connected(self, kind: Any, http: Any, retries: int) -> Any:
        timeout = openai.Timeout(REQUEST_SECONDS, connect=CONNECT_SECONDS)
        client = kind(
            base_url=self.url,
            api_key=self._key or NO_KEY,
            max_retries=retries,
            timeout=timeout,
            http_client=http(follow_redirects=False, timeout=timeout),
        )
        client.organization = client.project = None  # what the environment has is for another
        return client

    def _unreached(self, error: openai.APIError) -> str:
        """Why the run cannot begin."""
        why = self._sentence(error)
        if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)):
            return f"{self.url} refuses the key ({why}); name its variable by --api-key-env"
        verb = "serves nothing" if isinstance(error, openai.APIStatusError) else "does not answer"
        return f"--base-url {self.url} {verb} ({why}); start the server or mend the address"

    def _gone(self, error: openai.APIError) -> StoppedEarly:
        return StoppedEarly(f"{self.url} answers no more ({self._sentence(error)}); {GOES_ON}")

    def _sentence(self, error: Exception) -> str:
        """What the server says, with its status; a key that it repeats is cut out."""
        if isinstance(error, openai.APIStatusError):
            said = _message(error.body) or error.response.reason_phrase
            text = f"{said} [{error.status_code}]"
        else:
            cause = error.__cause__ or error
            text = str(cause) or type(cause).__name__
        return one_line(text.replace(self._key, "***") if self._key else text)


def _message(body: object) -> str:
    """The sentence, which servers lay into one another in many ways."""
    if isinstance(body, Mapping):
        inner = next((body[n] for n in ("message", "detail", "error") if body.get(n)), None)
        return str(dict(body)) if inner is None else _message(inner)
    return "" if body is None else str(body)
