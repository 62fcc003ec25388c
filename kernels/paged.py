"""A step's reads as tables over pages of KV: what the fused kernels are told."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from batchpipe.kernels.layout import Layout

PAGE_FIRST, KEYS, POSITION, QUERY_START, QUERY_END = range(5)
READ_COLUMNS = 5


@dataclass(frozen=True, slots=True, eq=False)
class PagedReads:
    """Every read of a step, as `reference.Read` means it, the wider ones first.

    Key k of read r lies in slot ``pages[page_first + k // page_tokens] * page_tokens +
    k % page_tokens``. The reads of a query nest: of two that share a query, one covers all the
    queries of the other. Pages of one token are plain slots; pages of a whole KV block keep the
    table short, and then a read begins at a block's first slot.
    """

    page_tokens: int
    pages: Tensor  # int32, on the device  # [pages]
    table: Tensor  # int64, on the host, columns as named above  # [reads, READ_COLUMNS]
    on_device: Tensor  # int32, the table once more  # [reads, READ_COLUMNS]


def paged_reads(page_tokens: int, pages: Tensor, table: Tensor, device: torch.device) -> PagedReads:
    """The reads on this device, with the wider ones first where two begin at the same query."""
    assert int(table[:, KEYS].min()) > 0, "a read without keys"
    order = (table[:, QUERY_START] << 32) - table[:, QUERY_END]
    table = table[order.argsort(stable=True)]
    on_device = table.to(torch.int32).to(device, non_blocking=True)
    return PagedReads(page_tokens, pages.to(device, torch.int32), table, on_device)


def reads_of(layout: Layout) -> PagedReads:
    """The reads of a layout, its slots taken as pages of one token.

    Waits for the device once: the layout keeps the lengths of its singles there.
    """
    pages = [layout.write_slots]
    rows = [(start, end - start, -1, start, end) for start, end in layout.squares]
    first = len(layout.write_slots)
    for shared in layout.shared:
        read = shared.read
        rows.append((first, len(read.slots), read.position, read.query_start, read.query_end))
        pages.append(read.slots)
        first += len(read.slots)
    squares = torch.tensor([row[0] for row in rows[: len(layout.squares)]], dtype=torch.int64)
    alone = []
    for group in layout.singles:
        count, longest = group.slots.shape
        firsts = first + longest * torch.arange(count, device=group.slots.device)
        columns = (firsts, group.lengths, group.position, group.query, group.query + 1)
        alone.append(torch.stack(columns, dim=1))
        pages.append(group.slots.flatten())
        first += group.slots.numel()
    device = layout.positions.device
    table = torch.tensor(rows, dtype=torch.int64).view(-1, READ_COLUMNS)
    starts = layout.positions[squares.to(device)]
    known = torch.cat([starts, *(part.flatten() for part in alone)]).cpu()
    table[: len(squares), POSITION] = known[: len(squares)]
    table = torch.cat([table, known[len(squares) :].view(-1, READ_COLUMNS)])
    return paged_reads(1, torch.cat(pages), table, device)
