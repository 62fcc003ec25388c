"""How much more would rows share if the text that they repeat stood before what differs?

Two prompts share what they begin with alike. A template that puts the question before a long text
loses all of that text, although it stands in every prompt. Knows blocks of text, lines or columns,
and counts; it rewrites nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import nodes
from jinja2.sandbox import SandboxedEnvironment

from batchpipe.planner.request import Prompts
from batchpipe.rows.words import one_line

MOST_ROWS = 5_000
ROWS_TOGETHER = 500  # in a run of the sample: rows of one text often stand side by side
WORTH = 0.05  # of all prompt tokens
SHOWN_CHARACTERS = 60

Block = tuple[int, int]  # what it holds, as a hash; how long it is


@dataclass(frozen=True, slots=True)
class BetterOrder:
    """What to move, and the shares of the prompts' tokens that can be shared as is and then."""

    moved: str
    before: float
    after: float

    @property
    def worth(self) -> bool:
        """True where enough is gained to speak of."""
        return self.after - self.before >= WORTH


def sampled_rows(count: int) -> npt.NDArray[np.int64]:
    """At most `MOST_ROWS` of so many, in runs of neighbours evenly over all."""
    if count <= MOST_ROWS:
        return np.arange(count)
    starts = np.linspace(0, count - ROWS_TOGETHER, MOST_ROWS // ROWS_TOGETHER).astype(np.int64)
    return np.unique((starts[:, None] + np.arange(ROWS_TOGETHER)).ravel())


# ---- ready prompts ---------------------------------------------------------------------------


def better_line_order(prompts: Prompts, tokenizer: Any) -> BetterOrder:
    """The gain of the lines that several prompts have, most frequent first, before all others."""
    ends_line = _line_ends(prompts, tokenizer)
    rows = [_lines(token_ids, ends_line) for token_ids in prompts]
    frequency = Counter(block for row in rows for block in set(row))
    # The sort is stable: lines that as many prompts have stay in their order, and so do the lines
    # that no other prompt has, behind all others.
    reordered = [sorted(row, key=lambda block: -frequency[block]) for row in rows]
    moved = _heaviest_moved(rows, reordered, frequency)
    shown = ""
    if moved is not None:
        row, place = moved
        start = sum(length for _, length in rows[row][:place])
        token_ids = prompts[row][start : start + rows[row][place][1]]
        shown = one_line(tokenizer.decode(token_ids.tolist()), SHOWN_CHARACTERS)
    return BetterOrder(shown, shareable_share(rows), shareable_share(reordered))


def shareable_share(rows: Sequence[Sequence[Block]]) -> float:
    """The share of all length that lies in a beginning that an earlier row has too."""
    total = distinct = 0
    seen: set[int] = set()
    for row in rows:
        path = 0
        for block in row:
            path = hash((path, block))
            total += block[1]
            if path not in seen:
                seen.add(path)
                distinct += block[1]
    return 1 - distinct / total if total else 0.0


def _line_ends(prompts: Prompts, tokenizer: Any) -> npt.NDArray[np.bool_]:  # [token ids]
    """Which tokens have a line break in them."""
    used = np.unique(np.concatenate([np.unique(token_ids) for token_ids in prompts]))
    texts = tokenizer.batch_decode([[token] for token in used.tolist()])
    ends_line = np.zeros(int(used[-1]) + 1, dtype=np.bool_)
    ends_line[used] = ["\n" in text for text in texts]
    return ends_line


def _lines(token_ids: npt.NDArray[np.int32], ends_line: npt.NDArray[np.bool_]) -> list[Block]:
    """The prompt's lines, each to the end of the last token that has its line break."""
    cuts = [0, *(np.flatnonzero(ends_line[token_ids]) + 1).tolist()]
    if cuts[-1] < len(token_ids):
        cuts.append(len(token_ids))
    return [(hash(token_ids[start:end].tobytes()), end - start) for start, end in pairwise(cuts)]


def _heaviest_moved(
    rows: Sequence[Sequence[Block]],
    reordered: Sequence[Sequence[Block]],
    frequency: Counter[Block],
) -> tuple[int, int] | None:
    """Row and place of the repeated line behind a rarer one that holds most length of all rows."""
    found = None
    most = 0
    for row, (blocks, sorted_blocks) in enumerate(zip(rows, reordered, strict=True)):
        if blocks == sorted_blocks:
            continue
        rarest = len(rows)
        for place, block in enumerate(blocks):
            repeated = frequency[block]
            if repeated > rarest and (repeated - 1) * block[1] > most:
                found, most = (row, place), (repeated - 1) * block[1]
            rarest = min(rarest, repeated)
    return found


# ---- templates -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A piece of a template: fixed text and the columns behind it, none at the template's end."""

    fixed_characters: int
    columns: tuple[str, ...]


def template_parts(source: str, columns: Sequence[str]) -> list[Part]:
    """The template cut behind each place that reads columns; a loop or condition is one place."""
    parts: list[Part] = []
    fixed = 0
    for node in SandboxedEnvironment().parse(source).body:
        pieces = node.nodes if isinstance(node, nodes.Output) else [node]
        for piece in pieces:
            if isinstance(piece, nodes.TemplateData):
                fixed += len(piece.data)
                continue
            read = [name.name for name in _names(piece) if name.name in columns]
            if read:
                parts.append(Part(fixed, tuple(dict.fromkeys(read))))
                fixed = 0
    return [*parts, Part(fixed, ())] if fixed else parts


def better_column_order(
    parts: Sequence[Part], values: Mapping[str, Sequence[object]]
) -> BetterOrder | None:
    """The gain of the columns with the fewest values first; None where they stand so already."""
    movable = [part for part in parts if part.columns]
    tail = [part for part in parts if not part.columns]
    cells = {part: _cells(part, values) for part in movable}
    ordered = sorted(movable, key=lambda part: len(set(map(repr, cells[part]))))
    if ordered == movable:
        return None
    return BetterOrder(
        _moves(movable, ordered),
        shareable_share(_rows_of(movable, tail, cells)),
        shareable_share(_rows_of(ordered, tail, cells)),
    )


Cells = list[tuple[object, ...]]  # [rows]


def _cells(part: Part, values: Mapping[str, Sequence[object]]) -> Cells:
    return list(zip(*(values[name] for name in part.columns), strict=True))


def _rows_of(
    movable: Sequence[Part], tail: Sequence[Part], cells: Mapping[Part, Cells]
) -> list[list[Block]]:
    """Every row as blocks, a part's fixed text before what the row has in its columns."""
    end = [(0, part.fixed_characters) for part in tail]
    columns = [
        [
            ((hash(part), part.fixed_characters), (hash(repr(cell)), _characters(cell)))
            for cell in cells[part]
        ]
        for part in movable
    ]
    rows = zip(*columns, strict=True)
    return [[*(block for pair in row for block in pair), *end] for row in rows]


def _characters(cell: tuple[object, ...]) -> int:
    return sum(len(str(value)) for value in cell)


def _names(piece: nodes.Node) -> list[nodes.Name]:
    """The names that the piece reads, itself perhaps one of them."""
    return [piece] if isinstance(piece, nodes.Name) else list(piece.find_all(nodes.Name))


def _moves(present: Sequence[Part], ordered: Sequence[Part]) -> str:
    """``{{ schema }} before {{ question }}``: what overtakes the first part that is overtaken."""
    for place, part in enumerate(present):
        ahead = ordered[: ordered.index(part)]
        movers = [other for other in present[place + 1 :] if other in ahead]
        if movers:
            return f"{_written(movers)} before {_written([part])}"
    return ""


def _written(parts: Sequence[Part]) -> str:
    return ", ".join("{{ " + name + " }}" for part in parts for name in part.columns)
