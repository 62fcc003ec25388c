"""Attempts that may fail for a while, with longer and longer waits between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Event
from typing import TypeVar

from batchpipe.errors import ConfigError

try:
    import tenacity
except ImportError as error:
    raise ConfigError(
        f"sql and http steps need the package tenacity ({error}): pip install 'batchpipe[workflow]'"
    ) from error

Value = TypeVar("Value")


class Transient(Exception):
    """An attempt failed in a way that the next one may not; the message is for the user.

    ``wait_seconds``: what the other side asks for, in place of our own wait
    """

    def __init__(self, message: str, wait_seconds: float | None = None) -> None:
        super().__init__(message)
        self.wait_seconds = wait_seconds


@dataclass(frozen=True, slots=True)
class Patience:
    """How often and how long apart: waits double from the first to the longest, with jitter."""

    attempts: int
    first_wait_seconds: float = 0.5
    longest_wait_seconds: float = 30.0


def retried(attempt: Callable[[], Value], patience: Patience, closing: Event) -> Value:
    """What the first attempt that is not `Transient` returns or raises.

    Raises:
        Transient: of the last attempt, with how many there were; none follows where ``closing`` is
            set, which also ends a wait
    """
    first = patience.first_wait_seconds
    backoff = tenacity.wait_exponential(multiplier=first, max=patience.longest_wait_seconds)
    # The jitter keeps threads that failed together from coming back together.
    jittered = backoff + tenacity.wait_random(0, first)

    def wait_seconds(state: tenacity.RetryCallState) -> float:
        failed = state.outcome.exception() if state.outcome is not None else None
        asked = failed.wait_seconds if isinstance(failed, Transient) else None
        return jittered(state) if asked is None else asked

    def give_up(state: tenacity.RetryCallState) -> Value:
        assert state.outcome is not None, "an attempt has ended"
        failed, attempts = state.outcome.exception(), state.attempt_number
        times = f" ({attempts} attempts)" if attempts > 1 else ""
        raise Transient(f"{failed}{times}") from failed

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(Transient),
        stop=tenacity.stop_after_attempt(patience.attempts) | tenacity.stop_when_event_set(closing),
        wait=wait_seconds,
        sleep=tenacity.sleep_using_event(closing),
        retry_error_callback=give_up,
    )
    return retrying(attempt)
