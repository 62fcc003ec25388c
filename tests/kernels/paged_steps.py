"""Random steps over paged, prefix-shared KV, in the specification's terms and in the kernels'."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from hypothesis import strategies as st
from torch import Tensor

from batchpipe.kernels.paged import PagedReads, paged_reads
from batchpipe.kernels.reference import Read

BLOCK_TOKENS = 16


@dataclass(frozen=True)
class Node:
    """A segment of the prefix tree: tokens before this step, tokens of it, what lies below."""

    past: int
    chunk: int
    children: tuple[Node, ...] = ()


@dataclass
class Step:
    """One step: its queries' positions and slots, and the reads over a shuffled pool of blocks."""

    positions: list[int] = field(default_factory=list)
    write_slots: list[int] = field(default_factory=list)
    blocks: list[list[int]] = field(default_factory=list)  # of each read
    reads: list[list[int]] = field(default_factory=list)  # keys, position, query_start, query_end
    slots: int = 0

    def spec(self) -> list[Read]:
        return [
            Read(start, end, slots_of(blocks)[:keys], position)
            for blocks, (keys, position, start, end) in zip(self.blocks, self.reads, strict=True)
        ]

    def paged(self, page_tokens: int, device: torch.device) -> PagedReads:
        """Pages of whole blocks, or of single slots."""
        pages: list[Tensor] = []
        table = []
        first = 0
        for blocks, (keys, position, start, end) in zip(self.blocks, self.reads, strict=True):
            slots = slots_of(blocks)[:keys]
            pages.append(slots if page_tokens == 1 else torch.tensor(blocks))
            table.append([first, keys, position, start, end])
            first += len(pages[-1])
        return paged_reads(page_tokens, torch.cat(pages), torch.tensor(table), device)


def slots_of(blocks: list[int]) -> Tensor:  # int64  # [blocks * BLOCK_TOKENS]
    return (torch.tensor(blocks)[:, None] * BLOCK_TOKENS + torch.arange(BLOCK_TOKENS)).flatten()


def step_of(roots: tuple[Node, ...], seed: int) -> Step:
    """The step that computes the chunks of these trees; no two segments share a block."""
    needed = sum(_blocks(root) for root in roots)
    draw = torch.Generator().manual_seed(seed)
    free = torch.randperm(needed + 2, generator=draw).tolist()
    step = Step(slots=(needed + 2) * BLOCK_TOKENS)
    for root in roots:
        _lay(root, 0, step, free)
    return step


def _blocks(node: Node) -> int:
    return -(-(node.past + node.chunk) // BLOCK_TOKENS) + sum(map(_blocks, node.children))


def _lay(node: Node, position: int, step: Step, free: list[int]) -> None:
    length = node.past + node.chunk
    blocks = [free.pop() for _ in range(-(-length // BLOCK_TOKENS))]
    start = len(step.positions)
    if node.chunk:
        step.positions += range(position + node.past, position + length)
        step.write_slots += slots_of(blocks)[node.past : length].tolist()
        step.blocks.append(blocks)
        step.reads.append([length, position, start, len(step.positions)])
    below = len(step.positions)
    for child in node.children:
        _lay(child, position + length, step, free)
    if node.children:
        step.blocks.append(blocks)
        step.reads.append([length, position, below, len(step.positions)])


LENGTHS = st.sampled_from([1, 2, 15, 16, 17, 40, 63, 65])
CHUNKS = st.sampled_from([1, 1, 1, 1, 2, 9, 20, 63])  # mostly decodes
leaves = st.builds(Node, past=st.just(0) | LENGTHS, chunk=CHUNKS)
branches = st.builds(
    Node,
    past=LENGTHS,
    chunk=st.sampled_from([0, 0, 0, 5, 9]),
    children=st.lists(leaves, min_size=1, max_size=5).map(tuple),
)
stems = st.builds(
    Node,
    past=LENGTHS,
    chunk=st.just(0),
    children=st.lists(leaves | branches, min_size=1, max_size=3).map(tuple),
)
steps = st.builds(
    step_of,
    st.lists(leaves | branches | stems, min_size=1, max_size=2).map(tuple),
    st.integers(0, 9),
)
