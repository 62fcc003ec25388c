"""Damage is found, named and mended: the rows of a damaged part are computed again."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from journal_runs import Unlocked, bad, check_files, create, good, new_manifest, reopen, results_of

from batchpipe.errors import ConfigError, StoppedEarly
from batchpipe.journal.folder import Folder, open_folder
from batchpipe.journal.journal import Journal
from batchpipe.journal.manifest import Outdated, packed, read_manifest
from batchpipe.journal.summary_file import read_summary


@pytest.fixture
def run(folder: Folder) -> Journal:
    """Rows 0 to 4 in one part, 4 to 8 in another."""
    journal = create(folder, 8)
    journal.add(good(row) for row in range(8))
    return journal


def flipped(content: bytes, place: int, bit: int = 3) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    return bytes(changed)


def must_be_mended(folder: Folder, rows: range, what: str) -> None:
    again = reopen(folder)
    [sentence] = again.damaged
    assert what in sentence
    assert "its 4 rows are computed again" in sentence
    assert np.flatnonzero(~again.done()).tolist() == list(rows)
    check_files(folder)
    again.add(good(row) for row in rows)
    assert results_of(again) == [good(row) for row in range(8)]


def test_a_part_cut_in_half_is_computed_again(folder: Folder, run: Journal) -> None:
    name = run.manifest.parts[0].name
    content = folder.get(name)
    folder.put(name, content[: len(content) // 2])
    must_be_mended(folder, range(4), f"{name} is damaged: its checksum")


def test_a_missing_part_is_computed_again(folder: Folder, run: Journal) -> None:
    name = run.manifest.parts[1].name
    folder.remove(name)
    must_be_mended(folder, range(4, 8), f"{name} is missing")


def test_a_bit_flipped_anywhere_in_a_part_is_found(tmp_path: Path) -> None:
    folder = open_folder("memory://flips/run")
    journal = create(folder, 4)
    journal.add(good(row) for row in range(4))
    [part] = journal.manifest.parts
    content, manifest = folder.get(part.name), folder.get("manifest.json")
    for place in range(0, len(content), 7):
        folder.put(part.name, flipped(content, place, place % 8))
        folder.put("manifest.json", manifest)
        assert not reopen(folder).done().any(), place


def test_a_bit_flipped_anywhere_in_the_manifest_changes_nothing_unseen() -> None:
    folder = open_folder("memory://flips/manifest")
    journal = create(folder, 4)
    journal.add(good(row) for row in range(4))
    content, manifest = folder.get("manifest.json"), read_manifest(folder)
    refused = 0
    for place in range(len(content)):
        for bit in (0, 5):
            folder.put("manifest.json", flipped(content, place, bit))
            try:
                found = read_manifest(folder)
            except ConfigError:
                refused += 1
            else:
                assert found == manifest, place
    assert refused > len(content)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "manifest.json cannot be read"),
        (b"no json", "manifest.json cannot be read"),
        (b"[]", "is none of a run of batchpipe"),
        (b'{"name": "my web page"}', "is none of a run of batchpipe"),
        (b'{"schema_version": 1, "fingerprint": {}}', "was written by another version"),
        (b'{"schema_version": 4, "fingerprint": {}}', "is damaged: its checksum"),
        (b'{"fingerprint": {}, "checksum": "00"}', "is damaged: its checksum"),
    ],
)
def test_a_manifest_that_is_no_use_is_refused(folder: Folder, content: bytes, words: str) -> None:
    folder.put("manifest.json", content)
    with pytest.raises(ConfigError, match=words) as refused:
        read_manifest(folder)
    assert "--run-dir" in str(refused.value)
    assert isinstance(refused.value, Outdated) == ("version" in words or "damaged" in words)


def test_a_new_run_in_the_place_of_the_version_before_leaves_nothing_of_it(folder: Folder) -> None:
    folder.put("manifest.json", b'{"schema_version": 1, "fingerprint": {}, "output": "/out"}')
    folder.put("parts/part-000000.parquet", b"")
    folder.put("summary.json", b"{}")
    create(folder, 4)
    assert [name for name in folder.names() if name[-1] != "/"] == ["manifest.json"]
    assert folder.names("parts") == []


def test_a_damaged_summary_is_none(folder: Folder, run: Journal) -> None:
    run.finish({"rows": 8})
    assert read_summary(folder) == {"rows": 8}
    content = folder.get("summary.json")
    folder.put("summary.json", flipped(content, 3))
    assert read_summary(folder) is None
    folder.remove("summary.json")
    assert reopen(folder).summary is None
    assert read_summary(folder) is None


def test_a_lost_selection_keeps_what_was_answered(folder: Folder) -> None:
    journal = create(folder, 4)
    journal.add([bad(0), bad(1), good(2)])
    journal.begin_repair(np.array([0, 1]), {"max_tokens": 5})
    journal.add([good(0, "new")])
    journal.flush()
    folder.put("repairs/1.parquet", b"PAR1")
    again = reopen(folder)
    [sentence] = again.damaged
    assert "repairs/1.parquet is damaged" in sentence
    assert "give the same retry again" in sentence
    assert again.done().tolist() == [True, True, True, False]
    check_files(folder)
    again = reopen(folder)
    assert not again.damaged
    again.begin_repair(np.array([1]), {})
    assert again.required_repair().tolist() == [0, 2, 0, 0]
    again.add([good(1), good(3)])
    assert results_of(again) == [good(0, "new"), good(1), good(2), good(3)]


def test_a_part_damaged_while_the_run_goes_on_is_neither_merged_nor_read(folder: Folder) -> None:
    journal = create(folder, 5)
    for row in range(4):
        journal.add([good(row)])
        journal.flush()
        if not row:
            [part] = journal.manifest.parts
            folder.put(part.name, b"PAR1")
    journal.add([good(4)])
    with pytest.raises(StoppedEarly, match=f"{part.name} is damaged.*same command") as stopped:
        list(journal.tables())
    assert folder.name in str(stopped.value)
    again = reopen(folder)
    assert np.flatnonzero(~again.done()).tolist() == [0]
    again.add([good(0)])
    assert results_of(again) == [good(row) for row in range(5)]


@dataclass
class Failing:
    """A folder whose disk is full after so many files."""

    folder: Folder
    left: int

    @property
    def name(self) -> str:
        return self.folder.name

    def put(self, name: str, content: bytes) -> None:
        if not self.left:
            raise OSError(errno.ENOSPC, "No space left on device", f"{self.name}/{name}")
        self.left -= 1
        self.folder.put(name, content)

    def create(self, name: str, content: bytes) -> None:
        self.folder.create(name, content)

    def get(self, name: str) -> bytes:
        return self.folder.get(name)

    def names(self, under: str = "") -> list[str]:
        return self.folder.names(under)

    def remove(self, name: str) -> None:
        self.folder.remove(name)


@pytest.mark.parametrize("left", range(1, 17))
def test_a_full_disk_stops_a_run_and_with_room_it_goes_on(folder: Folder, left: int) -> None:
    failing = Failing(folder, left)
    journal = Journal.create(failing, new_manifest(12), Unlocked())
    kept = 0
    with suppress(OSError):
        for row in range(12):
            journal.add([good(row)])
            journal.flush()
            kept = row + 1
    assert not failing.left
    journal.record(facts={"tried": "again"})
    with pytest.raises(OSError, match="No space left"):
        journal.flush()
    again = reopen(folder)
    assert not again.damaged
    assert again.done()[:kept].all()
    check_files(folder)
    failing.left = 100  # the process that saw the full disk may go on too
    journal.add(good(row) for row in np.flatnonzero(~journal.done()).tolist())
    assert results_of(journal) == [good(row) for row in range(12)]
    check_files(folder)


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_truly_full_disk_leaves_no_half_file(tmp_path: Path) -> None:
    folder = open_folder(str(tmp_path / "run"))
    journal = create(folder, 4)
    journal.add([good(0)])
    with files_of_at_most(1500), pytest.raises(OSError, match="too large") as full:
        journal.flush()
    assert full.value.filename == str(tmp_path / "run" / "parts" / "000000.parquet")
    assert folder.names("parts") == []
    journal.flush()
    assert reopen(folder).done().tolist() == [True, False, False, False]


def test_a_manifest_keeps_what_json_can_say(folder: Folder) -> None:
    strange = {"1": [1.5, None, "ä\ud800\n"], "z": {"a": [], "b": 10**30}}
    manifest = new_manifest(3, facts=strange)
    folder.put("manifest.json", packed(manifest))
    assert read_manifest(folder) == manifest
