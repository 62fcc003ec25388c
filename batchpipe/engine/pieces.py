"""Runs a step in pieces that fit into memory: whole while it fits, in halves where it does not.

A step can be run again, and in pieces: its keys go to the same slots with the same values, parents
before their children, and a token is drawn from nothing but its own row of scores. So a shortage
changes no answer.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from batchpipe.engine.faults import first_line, is_device_lost, is_out_of_memory
from batchpipe.engine.logprobs import Logprobs
from batchpipe.engine.model import Decoder
from batchpipe.errors import GOES_ON, DeviceLost, OutOfMemory
from batchpipe.planner.schedule.segment import Chunk, Sequence


class Drawn(NamedTuple):
    """A sequence's next token, and how likely the model found it where that is asked for."""

    sequence: Sequence
    token: int
    logprobs: Logprobs | None = None


# The chunks' KV is stored and the sequences that they complete have drawn; nothing else changes,
# so that it can be called again where it failed.
Compute = Callable[[list[Chunk]], list[Drawn]]


class Pieces:
    """Computes the chunks of every step, as many at once as the decoder's memory allows."""

    def __init__(self, decoder: Decoder) -> None:
        self.most_tokens: int | None = None  # tried at once; None until memory runs short
        self.shortages = 0
        self._decoder = decoder

    def run(self, chunks: list[Chunk], compute: Compute) -> list[Drawn]:
        """All the chunks are computed; the drawn tokens stand in the order of the chunks.

        Raises:
            OutOfMemory: there is no room for a single token
            DeviceLost: the device fails for good
        """
        drawn: list[Drawn] = []
        with told_if_lost(self._decoder.device):
            while chunks:
                piece, rest = split(chunks, self.most_tokens)
                found = self._attempt(piece, compute)
                if found is not None:
                    drawn += found
                    chunks = rest
        return drawn

    def _attempt(self, piece: list[Chunk], compute: Compute) -> list[Drawn] | None:
        """What the piece draws; None where memory ran short, and smaller pieces come next."""
        try:
            return compute(piece)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self._shrink_below(sum(chunk.end - chunk.start for chunk in piece), error)
            error.__traceback__ = None  # its frames hold the activations
        # Only here is the error itself gone, and the errors before it with their frames.
        self._decoder.attention.batch = None
        gc.collect()
        if self._decoder.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _shrink_below(self, tokens: int, error: Exception) -> None:
        self.shortages += 1
        if tokens == 1:
            raise OutOfMemory(
                f"device {self._decoder.device} has no memory left for a step of 1 token "
                f"({first_line(error)}); give the same command with a lower --kv-memory, "
                f"and it goes on from what is on disk"
            ) from error
        self.most_tokens = tokens // 2


@contextmanager
def told_if_lost(device: torch.device) -> Iterator[None]:
    """An error within that means that the device is lost says so, as `DeviceLost`."""
    try:
        yield
    except RuntimeError as error:
        if not is_device_lost(error):
            raise
        raise DeviceLost(f"device {device} is lost ({first_line(error)}); {GOES_ON}") from error


def split(chunks: list[Chunk], most_tokens: int | None) -> tuple[list[Chunk], list[Chunk]]:
    """The first chunks, of at most so many tokens together, and the rest, both in order.

    A chunk across the border is cut in two. Only the second draws, unless the first ends within a
    draft: then both do, each behind its own tokens.
    """
    if most_tokens is None:
        return chunks, []
    room = most_tokens
    for at, chunk in enumerate(chunks):
        tokens = chunk.end - chunk.start
        if tokens > room:
            border = chunk.start + room
            drawing = None if chunk.draft is None else chunk.sequence
            cut = max(chunk.scoring.start, min(border, chunk.scoring.stop))
            scored, to_score = range(chunk.scoring.start, cut), range(cut, chunk.scoring.stop)
            before = Chunk(chunk.segment, chunk.start, border, drawing, chunk.draft, scored)
            after = Chunk(chunk.segment, border, chunk.end, chunk.sequence, chunk.draft, to_score)
            return [*chunks[:at], *([before] if room else [])], [after, *chunks[at + 1 :]]
        room -= tokens
    return chunks, []
