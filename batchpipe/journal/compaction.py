"""Many small parts become a few large ones, so that a long run has no ten thousands of files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable

import pyarrow as pa

from batchpipe.journal.folder import Folder
from batchpipe.journal.manifest import Part
from batchpipe.journal.part_file import SCHEMA, batches, fetched
from batchpipe.journal.row_states import RowStates

MERGED_PARTS = 32
MERGED_BYTES = 64 << 20  # of their files
MERGED_MEMORY_BYTES = 256 << 20  # of text that packs well


def mergeable(parts: Iterable[Part], but: Collection[str] = ()) -> list[Part]:
    """The smallest parts of one level and repair, where there are enough; else none.

    Parts of different repairs stay apart, for the newest result of a row is told by its repair.
    """
    alike: dict[tuple[int, int], list[Part]] = defaultdict(list)
    for part in parts:
        if part.name not in but:
            alike[part.level, part.repair].append(part)
    for group in alike.values():
        smallest = sorted(group, key=lambda part: (part.size_bytes, part.number))[:MERGED_PARTS]
        if (
            len(smallest) == MERGED_PARTS
            and sum(part.size_bytes for part in smallest) <= MERGED_BYTES
            and sum(part.memory_bytes for part in smallest) <= MERGED_MEMORY_BYTES
        ):
            return smallest
    return []


def merged(folder: Folder, sources: Iterable[Part], states: RowStates) -> pa.Table:
    """The rows of these parts that are still needed in them, sorted.

    Raises:
        DamagedFile: a part is not what was written
    """
    kept = [SCHEMA.empty_table()]
    for part in sources:
        for table in batches(fetched(folder, part.name, part.digest)):
            needed = states.needed(table["ordinal"].to_numpy(), part.number)
            kept.append(table if needed.all() else table.filter(pa.array(needed)))
    return pa.concat_tables(kept).sort_by("ordinal")
