"""Coroutines run beside code that waits, and none outlives the block."""

from __future__ import annotations

import asyncio
from concurrent.futures import CancelledError

import pytest

from batchpipe.integrations.event_loop import EventLoop

closed: list[str] = []


async def close() -> None:
    closed.append("closed")


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


def test_what_runs_at_the_end_is_cancelled_before_the_close() -> None:
    closed.clear()

    async def endless() -> None:
        try:
            await asyncio.sleep(10_000)
        finally:
            closed.append("cancelled")

    with EventLoop(close) as loop:
        running = loop.start(endless())
        assert loop.start(double(21)).result() == 42
    assert closed == ["cancelled", "closed"]
    with pytest.raises(CancelledError):
        running.result()


def test_it_serves_where_a_loop_runs_already() -> None:
    async def notebook() -> int:
        with EventLoop(close) as loop:
            return loop.start(double(4)).result()

    assert asyncio.run(notebook()) == 8
