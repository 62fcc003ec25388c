"""Coroutines beside code that waits: an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from threading import Thread
from types import TracebackType
from typing import Any, TypeVar

Value = TypeVar("Value")


class EventLoop:
    """Within the block coroutines run; at its end all that still run are cancelled.

    A thread of its own also serves where a loop runs already, as in a notebook.

    Args:
        close: called in the loop at its end
    """

    def __init__(self, close: Callable[[], Awaitable[object]]) -> None:
        self._loop = asyncio.new_event_loop()
        self._close = close
        self._thread = Thread(target=self._loop.run_forever, daemon=True)

    def start(self, coroutine: Coroutine[Any, Any, Value]) -> Future[Value]:
        """What the coroutine will return."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def __enter__(self) -> EventLoop:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.start(self._end()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._close()
