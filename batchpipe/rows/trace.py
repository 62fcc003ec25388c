"""Length traces: how long prompts and answers were and which blocks prompts share, without a text.

The form that serving traces are published in (Mooncake, FAST'25): columns ``input_len`` and
``output_len`` in tokens and, where prompts share beginnings, ``hash_ids``: one id per block of the
prompt, the last block may be partial, and equal ids mean an equal prompt up to the block's end.
Other columns, such as ``request_id`` or times of arrival, are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
import numpy.typing as npt

from batchpipe.errors import ConfigError
from batchpipe.planner.request import Prompts, TokenIds
from batchpipe.rows.prompts import SOURCES
from batchpipe.rows.source import Rows, read_rows
from batchpipe.rows.words import listed, shown

Int64s = npt.NDArray[np.int64]

COLUMNS = ("input_len", "output_len")
BLOCK_TOKENS = 512  # Mooncake's
_LONGEST = 2**31 - 1

# Odd factors: modulo 2**31, two runs then differ at every position that they have in common.
_PER_RUN, _PER_POSITION = np.uint32(2_654_435_761), np.uint32(2_246_822_519)
_TOKEN_BITS = np.uint32(2**31 - 1)
_SLICE_TOKENS = 1 << 20  # 4 MiB a step: the temporary copies stay small beside the prompts


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Prompts of made-up tokens, and how long the answer to each was."""

    prompts: Prompts
    output_tokens: Int64s  # [requests]

    def __len__(self) -> int:
        return len(self.prompts)


@dataclass(frozen=True, slots=True, eq=False)
class _Blocks:
    """The hash ids of all rows that have some, end to end."""

    row: Int64s  # [blocks]
    position: Int64s  # [blocks] in the prompt, counted in blocks
    number: Int64s  # [blocks] equal ids have equal numbers, 0 upwards
    ids: list[int]  # by number, as the file has them


def is_trace(column_names: Iterable[str]) -> bool:
    """True for the columns of a length trace: both lengths and nothing that a model could read."""
    names = set(column_names)
    return names.issuperset(COLUMNS) and names.isdisjoint(SOURCES)


def read_trace(path: str, limit: int | None = None, *, block_tokens: int = BLOCK_TOKENS) -> Trace:
    """Every row is a request with as many tokens as the file says, at most ``limit`` rows.

    Two prompts are equal up to the end of the last block in which their hash ids agree (or to the
    end of the one that ends inside it) and differ at every position behind; a prompt without hash
    ids has no token in common with any other at the same position. Token ids lie in [0, 2**31).

    Raises ``ConfigError`` naming file and row (counted from 0) for a missing column, a length that
    is no positive number, a number of hash ids that does not fit the length, and hash ids that
    form no tree.
    """
    if block_tokens < 1:
        raise ConfigError(f"block_tokens is {block_tokens}; it must be 1 or more")
    rows = read_rows(path, limit=limit)
    if rows.faults:
        raise ConfigError(rows.faults[min(rows.faults)])
    for column in COLUMNS if len(rows) or rows.names else ():
        if column not in rows.names:
            raise ConfigError(
                f"{path} has no column {column!r}; its columns are {listed(rows.names)}: "
                f"a length trace needs {' and '.join(COLUMNS)}"
            )
    lengths, output_tokens = (_lengths(rows, column) for column in COLUMNS)
    blocks = _read_blocks(rows, lengths, block_tokens)
    _check_tree(rows, blocks)
    ends = np.cumsum(lengths)
    prompts = Prompts(_token_ids(lengths, blocks, block_tokens), ends - lengths, ends)
    return Trace(prompts, output_tokens)


def _place(rows: Rows, ordinal: int) -> str:
    """The row as messages name it: its file and where in that file."""
    file, row = rows.file_of(ordinal)
    return f"{file.path} row {row}"


def _whole(cell: object) -> bool:
    return isinstance(cell, int) and not isinstance(cell, bool)


def _lengths(rows: Rows, column: str) -> Int64s:  # [requests]
    cells = rows.values(column) if len(rows) else []
    for ordinal, cell in enumerate(cells):
        if cell is None:
            raise ConfigError(f"{_place(rows, ordinal)}: {column} is null, not a number of tokens")
        if not (_whole(cell) and 0 < cell <= _LONGEST):  # type: ignore[operator]
            raise ConfigError(
                f"{_place(rows, ordinal)}: {column} is {shown(cell)}; "
                f"it must be a whole number of tokens from 1 to {_LONGEST:,}"
            )
    return np.array(cells, dtype=np.int64)


def _read_blocks(rows: Rows, lengths: Int64s, block_tokens: int) -> _Blocks:
    """Every row's hash ids; ``ConfigError`` for a row whose list does not fit its length."""
    lists: list[list[int]] = []
    cells = rows.values("hash_ids") if "hash_ids" in rows.names else [None] * len(rows)
    for ordinal, (cell, length) in enumerate(zip(cells, lengths.tolist(), strict=True)):
        if cell is not None and not (isinstance(cell, list) and all(map(_whole, cell))):
            raise ConfigError(
                f"{_place(rows, ordinal)}: hash_ids is {shown(cell)}, not a list of whole numbers"
            )
        needed = -(-length // block_tokens)
        if cell is not None and len(cell) != needed:
            raise ConfigError(
                f"{_place(rows, ordinal)}: hash_ids has {len(cell):,} ids, but input_len {length:,}"
                f" is {needed:,} blocks of {block_tokens:,} tokens"
            )
        lists.append(cell or [])
    numbers: dict[int, int] = {}
    number = [numbers.setdefault(block, len(numbers)) for block in chain.from_iterable(lists)]
    counts = np.array([len(each) for each in lists], dtype=np.int64)
    first = np.cumsum(counts) - counts  # of each row among all blocks
    return _Blocks(
        row=np.repeat(np.arange(len(counts)), counts),
        position=np.arange(len(number)) - np.repeat(first, counts),
        number=np.array(number, dtype=np.int64),
        ids=list(numbers),
    )


def _check_tree(rows: Rows, blocks: _Blocks) -> None:
    """Every id stands at one position and behind one other id; else ``ConfigError``."""
    _, first = np.unique(blocks.number, return_index=True)
    known = first[blocks.number] if len(first) else blocks.number  # where each id was first seen
    parent = np.append(-1, blocks.number[:-1])[: len(blocks.number)]
    parent[blocks.position == 0] = -1
    moved = blocks.position != blocks.position[known]
    strayed = np.flatnonzero(moved | (parent != parent[known]))
    for block in strayed[:1].tolist():
        earlier = int(known[block])
        if moved[block]:
            here, there = (f"at block {blocks.position[each]}" for each in (block, earlier))
        else:
            here, there = (f"after id {blocks.ids[parent[each]]}" for each in (block, earlier))
        raise ConfigError(
            f"{_place(rows, int(blocks.row[block]))}: hash id {blocks.ids[blocks.number[block]]} "
            f"stands {here}, but {there} in {_place(rows, int(blocks.row[earlier]))}: "
            f"one id must mean one prompt up to its block's end"
        )


def _token_ids(lengths: Int64s, blocks: _Blocks, block_tokens: int) -> TokenIds:  # [tokens]
    """Token ids of all prompts, a function of the run (a block, or a whole prompt) and position."""
    token_ids = np.empty(int(lengths.sum()), dtype=np.int32)
    filled = 0
    for run, position, tokens in _slices(lengths, blocks, block_tokens):
        # At flat index i a run that begins at index f has position + (i - f): one repeat, one ramp.
        count = int(tokens.sum())
        begin = np.cumsum(tokens) - tokens
        base = run.astype(np.uint32) * _PER_RUN
        base += (position - begin).astype(np.uint32) * _PER_POSITION
        drawn = np.arange(count, dtype=np.uint32) * _PER_POSITION
        drawn += np.repeat(base, tokens)
        token_ids[filled : filled + count] = (drawn & _TOKEN_BITS).view(np.int32)
        filled += count
    return token_ids


def _slices(
    lengths: Int64s, blocks: _Blocks, block_tokens: int
) -> Iterator[tuple[Int64s, Int64s, Int64s]]:
    """Runs of all prompts in order, some at a time: number, first position, tokens."""
    alone = np.setdiff1d(np.arange(len(lengths)), blocks.row)  # rows without hash ids: one run each
    row = np.append(blocks.row, alone)
    start = np.append(blocks.position * block_tokens, np.zeros_like(alone))
    number = np.append(blocks.number, len(blocks.ids) + np.arange(len(alone)))
    tokens = np.append(
        np.minimum(block_tokens, lengths[blocks.row] - blocks.position * block_tokens),
        lengths[alone],
    )
    order = np.argsort(row, kind="stable")
    number, start, tokens = number[order], start[order], tokens[order]
    slice_of_run = np.cumsum(tokens) // _SLICE_TOKENS
    cuts = np.flatnonzero(np.diff(slice_of_run)) + 1
    bounds = [0, *cuts.tolist(), len(number)]
    for begin, end in pairwise(bounds):
        yield number[begin:end], start[begin:end], tokens[begin:end]
