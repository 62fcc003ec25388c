"""Which queries of a step read which keys: the one object every attention path takes.

Each query reads its own segment in one of two forms: a *square* (a chunk of several tokens among
themselves, causal) or a *single* (one token over a padded list of slots). Everything before that
is a `Read` shared by a range of queries, all of whose keys lie in their past.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from batchpipe.kernels.reference import Read


@dataclass(frozen=True, slots=True, eq=False)
class Singles:
    """Queries alone in their chunk; row b reads ``slots[b, :lengths[b]]``.

    Behind them stands a slot of the row's own, never another's: a masked NaN is still NaN.
    """

    query: Tensor  # int64, index of each query  # [singles]
    slots: Tensor  # int64  # [singles, longest]
    lengths: Tensor  # int64  # [singles]
    position: Tensor  # int64, position of each row's first key  # [singles]


@dataclass(frozen=True, slots=True, eq=False)
class SharedRead:
    """A `Read` all of whose keys lie in the past of all its queries."""

    read: Read
    run: slice | None  # its slots where they are consecutive: then keys are read in place
    first_query_position: int  # smallest position among its queries
    last_query_position: int


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Layout:
    """One step: where its keys go and what its queries read.

    Usually every token is a query. Where some are not, there are no squares.
    """

    positions: Tensor  # int64  # [queries]
    write_slots: Tensor  # int64, where each token's key and value go  # [tokens]
    squares: tuple[tuple[int, int], ...]  # half-open query ranges of the chunks of several tokens
    singles: tuple[Singles, ...]  # of similar lengths each
    shared: tuple[SharedRead, ...]

    def reads(self) -> list[Read]:
        """The same step in the terms of the specification."""
        reads = [shared.read for shared in self.shared]
        for start, end in self.squares:
            reads.append(Read(start, end, self.write_slots[start:end], int(self.positions[start])))
        for group in self.singles:
            for row, query in enumerate(group.query.tolist()):
                slots = group.slots[row, : int(group.lengths[row])]
                reads.append(Read(query, query + 1, slots, int(group.position[row])))
        return reads


def take(cache: Tensor, slots: Tensor, run: slice | None) -> Tensor:  # [keys, kv_heads, head_dim]
    """The cache rows in these slots; a view where they are consecutive."""
    if run is not None:
        return cache[run]
    # index_select over flat rows: 5x over cache[slots] for 100 rows of 80 slots (EPYC, one thread)
    return torch.index_select(cache.flatten(1), 0, slots).view(len(slots), *cache.shape[1:])
