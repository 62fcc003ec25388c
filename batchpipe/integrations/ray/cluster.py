"""The Ray cluster: joined or started here, and left again."""

from __future__ import annotations

import logging
import signal
import socket
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from batchpipe.errors import ConfigError
from batchpipe.integrations.ray.slots import Node
from batchpipe.rows.words import one_line

CONNECT_SECONDS = 5.0
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}


class Cluster:
    """Ray in this process. It is left when nobody holds this any more, if it was joined here."""

    def __init__(self, *, joined_here: bool) -> None:
        self._leave = weakref.finalize(self, ray.shutdown) if joined_here else None

    @property
    def nodes(self) -> list[Node]:
        """The machines that answer."""
        return [
            Node(int(node["Resources"].get("CPU", 0)), int(node["Resources"].get("GPU", 0)))
            for node in ray.nodes()
            if node["Alive"]
        ]

    def close(self) -> None:
        """This process is no part of it any more; what was started here has ended."""
        if self._leave is not None:
            self._leave()


def join(address: str | None) -> Cluster:
    """The cluster at this address; without one, the one that this process is in, or a new one here.

    Raises:
        ConfigError: it does not answer
    """
    if ray.is_initialized():
        return Cluster(joined_here=False)
    if address is None:
        with _quietly():
            ray.init("local", include_dashboard=False, **QUIET)
        return Cluster(joined_here=True)
    _check_answers(address)
    try:
        with _quietly():
            ray.init(address, **QUIET)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise _unanswered(address, one_line(str(error))) from error
    return Cluster(joined_here=True)


@contextmanager
def _quietly() -> Iterator[None]:
    """SIGTERM means what it did before, and Ray says nothing on stdout, which is the summary's."""
    # The same switch as Ray's progress bars use; its thread prints of dead workers all the same.
    ray._private.worker._worker_logs_enabled = False
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_answers(address: str) -> None:
    """Somebody listens there: Ray itself would try for a long time."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if address == "auto" or not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _unanswered(address, one_line(str(error))) from error


def _unanswered(address: str, why: str) -> ConfigError:
    return ConfigError(
        f"--ray-address {address}: no Ray cluster answers there ({why}); start one by "
        f"`ray start --head`, or leave --ray-address out to run on this machine alone"
    )
