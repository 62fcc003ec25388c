"""The workers as the driver sees them: started, given work, heard, and replaced when they die."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import ray
from ray.exceptions import RayError, RayTaskError

from batchpipe.errors import GOES_ON, BatchpipeError, ConfigError, DeviceLost, StoppedEarly
from batchpipe.integrations.ray.messages import Loaded, Report
from batchpipe.integrations.ray.slots import Slot
from batchpipe.rows.words import one_line

REPORT_SECONDS = 0.25  # a worker that is killed loses at most what it did since its last report
CALLS_AHEAD = 2  # of which a worker does the one while the other waits: it is never without
GRACE_SECONDS = 60.0  # after the first worker is ready, for the others
MOST_STARTS = 3  # one after the other that come to nothing
ALONE_SECONDS = 300.0  # without any worker, before the run stops


@dataclass(frozen=True, slots=True)
class Heard:
    """Word of one worker."""

    worker: int
    report: Report | None = None  # None: it is ready, or it died
    death: str | None = None  # what is known of its end


@dataclass(slots=True)
class _Member:
    """One worker: its actor now, or the one that is starting."""

    actor: Any
    loading: Any  # ObjectRef of `load`, None once it is ready
    calls: deque[Any] = field(default_factory=deque)  # ObjectRefs of `advance`, in order
    loaded: Loaded | None = None
    starts: int = 1  # since the last that came to something


class Part(Protocol):
    """What a worker loads."""

    def __call__(self, worker: int, *, anew: bool) -> tuple[object, ...]:
        """The arguments of its ``load``; ``anew`` it has nothing yet."""


class Crew:
    """So many workers, numbered from 0.

    Args:
        actor: their class, made of the setup. It has methods ``load``, which returns `Loaded` or
            an error, and ``advance``, which is given what `advance` is and returns a `Report`
        slot: what each of them has to itself
        part: what each loads, as the arguments of ``load``; asked whenever it does. None: none
    """

    def __init__(
        self,
        actor: type,
        setup: object,
        slot: Slot,
        workers: int,
        part: Part | None = None,
    ) -> None:
        self._actor, self._setup, self._slot, self._part = actor, setup, slot, part
        self._alone_since = time.monotonic()
        self._members: dict[int, _Member] = {n: self._started(n) for n in range(workers)}

    def gather(self, told: Callable[[Heard], object] | None = None) -> list[int]:
        """The workers that are ready, once all are or the others have had their time.

        Args:
            told: is told of what is heard meanwhile, and replaces who dies; None: nobody is

        Raises:
            ConfigError: the model cannot be loaded
            StoppedEarly: no worker starts
        """
        ends_at: float | None = None
        while any(member.loading is not None for member in self._members.values()):
            for heard in self.hear(1.0):
                if told is not None:
                    told(heard)
                elif heard.death is not None:
                    self.replace(heard.worker)
            if ends_at is None and self.ready:
                ends_at = time.monotonic() + GRACE_SECONDS
            if ends_at is not None and time.monotonic() >= ends_at:
                break
        return self.ready

    @property
    def ready(self) -> list[int]:
        """Workers that can be given work."""
        return [number for number, member in self._members.items() if member.loaded is not None]

    @property
    def kv_tokens(self) -> int:
        """That all of them together hold."""
        return sum(each.loaded.kv_tokens for each in self._members.values() if each.loaded)

    def where(self, worker: int) -> str | None:
        """The machine that the worker is on, where that is known."""
        loaded = self._members[worker].loaded
        return None if loaded is None else loaded.where

    def has_call(self, worker: int) -> bool:
        """True where nothing more needs to be said to the worker for now."""
        return len(self._members[worker].calls) >= CALLS_AHEAD

    def advance(self, worker: int, given: Sequence[object] = (), *told: object) -> None:
        """The worker goes on, with more prompts if there are any, and whatever else it is told."""
        member = self._members[worker]
        member.calls.append(member.actor.advance.remote(tuple(given), REPORT_SECONDS, *told))

    def hear(self, seconds: float) -> list[Heard]:
        """What workers say within this time, as soon as one says something.

        Raises:
            ConfigError: a worker cannot load the model
            StoppedEarly: a worker's memory is too small, or there is no worker any more
        """
        told = {ref: number for number, ref in self._awaited()}
        if not told:
            self._check_company()
            time.sleep(seconds)
            return []
        self._check_company()
        ready, _ = ray.wait(list(told), num_returns=1, timeout=seconds, fetch_local=False)
        if ready and len(told) > 1:
            ready, _ = ray.wait(list(told), num_returns=len(told), timeout=0, fetch_local=False)
        return [self._heard(told[ref], ref) for ref in ready]

    def replace(self, worker: int) -> bool:
        """Another worker of this number starts; false where the last ones came to nothing."""
        member = self._members[worker]
        starts = member.starts + 1
        if starts <= MOST_STARTS:
            self._members[worker] = self._started(worker)
            self._members[worker].starts = starts
        return starts <= MOST_STARTS

    def reload(self, worker: int) -> None:
        """The worker, or one in its place, loads what is its part now: until then it is not ready.

        Nothing changes for one that is only starting.
        """
        member = self._members[worker]
        if member.loaded is not None:
            part = self._arguments(worker, anew=False)
            member.loading, member.loaded = member.actor.load.remote(*part), None
        elif member.loading is None:
            self._members[worker] = self._started(worker)

    def close(self) -> None:
        """No worker is left."""
        for member in self._members.values():
            _kill(member.actor)

    def _started(self, worker: int) -> _Member:
        # A pending actor waits for its place; one that died is replaced here, with the model anew.
        options = {"num_cpus": self._slot.cpus, "num_gpus": self._slot.gpus, "max_restarts": 0}
        actor = ray.remote(self._actor).options(**options).remote(self._setup)
        return _Member(actor, actor.load.remote(*self._arguments(worker, anew=True)))

    def _arguments(self, worker: int, *, anew: bool) -> tuple[object, ...]:
        return () if self._part is None else self._part(worker, anew=anew)

    def _awaited(self) -> Iterator[tuple[int, Any]]:
        for number, member in self._members.items():
            if member.loading is not None:
                yield number, member.loading
            elif member.calls:
                yield number, member.calls[0]

    def _heard(self, worker: int, ref: Any) -> Heard:
        member = self._members[worker]
        try:
            said: Loaded | Report | BatchpipeError = ray.get(ref)
        except RayTaskError as error:
            if isinstance(error.cause, ImportError):
                raise _not_installed(error.cause) from error
            raise
        except RayError as error:  # the actor, its node or what it returned is lost
            return self._dead(worker, death_of(error))
        if isinstance(said, DeviceLost):
            return self._dead(worker, one_line(str(said)))
        if isinstance(said, BatchpipeError):
            raise said
        member.starts = 1
        if isinstance(said, Loaded):
            member.loading, member.loaded = None, said
            return Heard(worker)
        member.calls.popleft()
        if isinstance(said.fault, DeviceLost):
            return self._dead(worker, one_line(str(said.fault)), said)
        if said.fault is not None:
            raise said.fault
        return Heard(worker, said)

    def _dead(self, worker: int, why: str, last: Report | None = None) -> Heard:
        member = self._members[worker]
        _kill(member.actor)  # where it only cannot be reached, it must not go on
        member.loading = member.loaded = None
        member.calls.clear()
        if not self.ready:
            self._alone_since = time.monotonic()
        return Heard(worker, last, why)

    def _check_company(self) -> None:
        if self.ready:
            return
        starting = any(member.loading is not None for member in self._members.values())
        if not starting:
            raise StoppedEarly(f"every worker dies while it starts; {GOES_ON}")
        if time.monotonic() - self._alone_since > ALONE_SECONDS:
            raise StoppedEarly(
                f"no worker could start within {ALONE_SECONDS / 60:.0f} minutes: the Ray cluster "
                f"has no free place for one; {GOES_ON}"
            )


def death_of(error: BaseException) -> str:
    """What Ray knows of an actor's end, in a few words."""
    text = " ".join(str(error).split())
    if "connection error code" in text:  # Ray lost it, and knows no more
        return "its process crashed or was killed, as happens where memory runs out"
    found = re.search(r"Worker exit detail: (.*?\.)(?:\s|$)", text)
    if found is None:
        found = re.search(r"(The (?:actor|node)[^.]* (?:died|dead)[^.]*\.)", text)
    return one_line(found[1] if found else text).rstrip(".")


def _kill(actor: Any) -> None:
    with suppress(RayError, ValueError):
        ray.kill(actor)


def _not_installed(error: ImportError) -> ConfigError:
    return ConfigError(
        f"a worker cannot start ({one_line(str(error))}): install batchpipe[ray] on every node of "
        f"the Ray cluster, in the version that is here"
    )
