"""The way back to the rows' states from what lies in the folder, damaged files left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from batchpipe.journal.folder import Folder
from batchpipe.journal.manifest import MANIFEST, SUMMARY, Manifest, Part, Repair
from batchpipe.journal.moments import reached
from batchpipe.journal.part_file import DamagedFile, batches, fetched
from batchpipe.journal.row_states import Ordinals, RowStates

STATE_COLUMNS = ("ordinal", "status", "finish_reason")

# The names that runs give to files, of this version and the one before; all others are the user's.
_OURS = re.compile(r"(part-)?\d{6,}\.parquet|\d+\.parquet|\..+\.[0-9a-f]{8}\.tmp")
_TEMPORARY = re.compile(r"\.(?!lock\.).+\.[0-9a-f]{8}\.tmp")  # a lease's may be in use


@dataclass(frozen=True, slots=True)
class Recovered:
    """What the files say, and which of them say nothing any more."""

    states: RowStates
    parts: dict[str, str]  # damaged part -> what is wrong with it
    repairs: dict[str, str]  # the same of selections

    @property
    def is_whole(self) -> bool:
        """True where no file is damaged."""
        return not self.parts and not self.repairs


def recover(
    folder: Folder,
    manifest: Manifest,
    see: Callable[[Part, pa.Table], None] | None = None,
    columns: Sequence[str] = STATE_COLUMNS,
) -> Recovered:
    """Every row's state. ``see`` is shown these columns of each part, after the state took them.

    Raises:
        OSError: a file is there and cannot be read
    """
    assert manifest.rows is not None or not manifest.parts
    states = RowStates(manifest.rows or 0)
    damaged: dict[str, str] = {}
    for part in sorted(manifest.parts, key=lambda part: (part.repair, part.number)):
        try:
            content = fetched(folder, part.name, part.digest)
        except DamagedFile as error:
            damaged[part.name] = str(error)
            continue
        for table in batches(content, columns):
            states.load(table, part.number, part.repair)
            if see is not None:
                see(part, table)
    lost: dict[str, str] = {}
    for repair in manifest.repairs:
        try:
            states.require(selection(folder, repair), repair.number)
        except DamagedFile as error:
            lost[repair.name] = str(error)
    states.count()
    return Recovered(states, damaged, lost)


def selection(folder: Folder, repair: Repair) -> Ordinals:
    """The rows that a repair selected; none where that was lost before."""
    if repair.digest is None:
        return np.zeros(0, dtype=np.int64)
    content = fetched(folder, repair.name, repair.digest)
    found = [table["ordinal"].to_numpy() for table in batches(content)]
    return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)


def sentences(recovered: Recovered, manifest: Manifest) -> list[str]:
    """What is damaged and what follows, a sentence a file."""
    said = [
        f"{part.name} {recovered.parts[part.name]}; its {part.rows:,} rows are computed again"
        + (", save those answered in a repair since" if manifest.repairs else "")
        for part in manifest.parts
        if part.name in recovered.parts
    ]
    return said + [
        f"{name} {what}; rows that it selected and that were not answered since keep their "
        f"earlier results: give the same retry again"
        for name, what in recovered.repairs.items()
    ]


def sweep(folder: Folder, manifest: Manifest) -> None:
    """Files that a run wrote and that its manifest does not name are not there."""
    for name in _strays(folder, manifest):
        reached("sweep: before a removal")
        folder.remove(name)


def forget(folder: Folder) -> None:
    """What sessions of another run kept beside its results is not there."""
    names = [name for name in folder.names("sessions") if _OURS.fullmatch(name)]
    for name in (
        "plan.parquet",
        "rows.parquet",
        "report.html",
        *(f"sessions/{name}" for name in names),
    ):
        folder.remove(name)


def _strays(folder: Folder, manifest: Manifest) -> list[str]:
    named = manifest.files()
    at_the_top = folder.names()
    strays = [name for name in at_the_top if _TEMPORARY.fullmatch(name)]
    if SUMMARY in at_the_top:
        strays.append(SUMMARY)
    for under in ("parts", "repairs"):
        if f"{under}/" in at_the_top:
            strays += [f"{under}/{name}" for name in folder.names(under) if _OURS.fullmatch(name)]
    if "sessions/" in at_the_top:
        kept = folder.names("sessions")
        strays += [f"sessions/{name}" for name in kept if _TEMPORARY.fullmatch(name)]
    assert MANIFEST not in strays
    return [name for name in strays if name not in named]
