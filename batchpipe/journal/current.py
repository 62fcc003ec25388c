"""The results that count, read back from the parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchpipe.errors import StoppedEarly
from batchpipe.journal.folder import Folder
from batchpipe.journal.manifest import Part
from batchpipe.journal.part_file import DamagedFile, batches, fetched


def current_results(
    folder: Folder,
    parts: Iterable[Part],
    winner: npt.NDArray[np.int32],  # the part whose result counts  # [rows]
    columns: Sequence[str] | None = None,  # with `ordinal`; None: all
) -> Iterator[pa.Table]:
    """Every row's result once, in any order.

    Raises:
        StoppedEarly: a part was damaged since it was read or written last
    """
    for part in parts:
        try:
            content = fetched(folder, part.name, part.digest)
        except DamagedFile as error:
            raise StoppedEarly(
                f"{folder.name}: {error.name} {error}; the same command computes its rows again"
            ) from error
        for table in batches(content, columns):
            counts = winner[table["ordinal"].to_numpy()] == part.number
            yield table if counts.all() else table.filter(pa.array(counts))
