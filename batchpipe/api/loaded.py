"""A model in memory, which one call at a time works with, until it is closed."""

from __future__ import annotations

import gc
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchpipe.api.sentences import python_words
from batchpipe.config import JobOptions, RunOptions
from batchpipe.engine.device_memory import return_device_memory
from batchpipe.engine.host_memory import return_freed_memory
from batchpipe.errors import GOES_ON, BatchpipeError, ConfigError, DeviceLost
from batchpipe.job.collection import collection_paused
from batchpipe.job.language import Language, load_config, load_language
from batchpipe.running.engines import computing, connect

if TYPE_CHECKING:
    from batchpipe.running.own_engine import OwnBackend  # torch


NEW_ONE = "make a new LLM, and give it the same call"


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A model in memory, and how it was asked for."""

    options: JobOptions  # without an input
    run_options: RunOptions
    language: Language
    backend: OwnBackend
    dtype: str | None


def load(options: JobOptions, run_options: RunOptions) -> Loaded:
    """The model is in memory, and everything about it has been checked.

    Raises:
        ConfigError: it is not there, or has no room
        UnsupportedModelError: it cannot be served
    """
    backend = connect(options, run_options)
    config = load_config(options)
    _, dtype = computing(options, config)
    language = load_language(options, config)
    with collection_paused():
        from batchpipe.running.own_engine import OwnBackend  # torch, from here on

        assert isinstance(backend, OwnBackend), "the options name our own engine"
        with _only_new_ones_go_on():
            return Loaded(options, run_options, language, backend.loaded(language, dtype), dtype)


@contextmanager
def _only_new_ones_go_on() -> Iterator[None]:
    """Who loses a device within is told what to do without a command."""
    try:
        yield
    except DeviceLost as error:
        error.args = (str(error).replace(GOES_ON, NEW_ONE),)
        raise


class Held:
    """Holds the only lasting reference to a loaded model, so that closing frees it."""

    def __init__(self, loaded: Loaded) -> None:
        self.name = loaded.options.model
        self._loaded: Loaded | None = loaded
        self._lock = threading.RLock()
        self._at_work = False

    @property
    def closed(self) -> bool:
        """True once the model is gone."""
        return self._loaded is None

    @contextmanager
    def at_work(self) -> Iterator[Loaded]:
        """The model, for one thread at a time; what is raised within speaks of keyword arguments.

        Raises:
            ConfigError: it is closed, or what it calls, a progress function, calls it
        """
        with self._lock, python_words(), _only_new_ones_go_on():
            if self._loaded is None:
                raise ConfigError(f"the LLM of {self.name} is closed; make a new one")
            self._refuse_nested("called")
            self._at_work = True
            try:
                yield self._loaded
            except (KeyboardInterrupt, BatchpipeError) as error:
                # Who keeps the traceback, as a notebook does, must not keep the KV memory with it.
                traceback.clear_frames(error.__traceback__)
                raise
            finally:
                self._at_work = False
                return_device_memory()

    def close(self) -> None:
        """The model's memory is free, once a call under way has ended.

        Raises:
            ConfigError: a progress function of that call asks for it
        """
        with self._lock:
            self._refuse_nested("closed")
            self._loaded = None
        gc.collect()
        return_freed_memory()
        return_device_memory()

    def _refuse_nested(self, what: str) -> None:
        if self._at_work:
            raise ConfigError(
                f"an LLM cannot be {what} by its own progress function; wait for the call's end"
            )
