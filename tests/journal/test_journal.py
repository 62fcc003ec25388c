"""What a run is told to keep, it keeps: each row once, on every kind of folder."""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
import pytest
from journal_runs import Unlocked, bad, check_files, create, good, new_manifest, reopen, results_of

from batchpipe.journal import journal as journal_module
from batchpipe.journal.folder import Folder
from batchpipe.journal.journal import Counts, Journal
from batchpipe.journal.manifest import read_manifest
from batchpipe.journal.summary_file import read_summary
from batchpipe.rows.results import COLUMNS, Result


def test_every_row_comes_back_in_the_order_of_the_input(any_folder: Folder) -> None:
    journal = create(any_folder, 20)
    order = [7, 3, 19, 0, 1, 2, 18, 17, 16, 4, 5, 6, 15, 14, 13, 12, 8, 9, 10, 11]
    journal.add(bad(row) if row % 5 == 0 else good(row) for row in order)
    expected = [bad(row) if row % 5 == 0 else good(row) for row in range(20)]
    assert results_of(journal) == expected
    again = reopen(any_folder)
    assert again.counts == Counts(20, 4)
    assert again.done().all()
    assert results_of(again) == expected
    assert [table.schema for table in again.tables()] == [pa.schema(list(COLUMNS.items()))]
    check_files(any_folder)


def test_results_wait_for_one_commit(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = create(folder, 20)
    journal.add([good(0), good(1)])
    assert not reopen(folder).done().any()
    assert journal.counts.finished == 2
    journal.add([good(2), good(3)])  # FLUSH_ROWS
    assert reopen(folder).done().sum() == 4
    monkeypatch.setattr(journal_module, "FLUSH_BYTES", 100)
    journal.add([Result(4, output="x" * 101)])
    assert reopen(folder).done().sum() == 5
    monkeypatch.setattr(journal_module, "FLUSH_SECONDS", 0.0)
    journal.add([good(5)])
    assert reopen(folder).done().sum() == 6


def test_rows_that_wait_are_written_with_the_next_call(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = create(folder, 3)
    journal.add([good(0)])
    monkeypatch.setattr(journal_module, "FLUSH_SECONDS", 0.0)
    journal.add([])
    assert reopen(folder).done().tolist() == [True, False, False]


def test_a_finished_row_takes_no_second_result(folder: Folder) -> None:
    journal = create(folder, 3)
    journal.add([good(1)])
    with pytest.raises(AssertionError, match="row 1 is finished"):
        journal.add([good(1)])
    with pytest.raises(AssertionError, match="two results"):
        journal.add([good(0), good(0)])
    with pytest.raises(AssertionError, match="3 rows"):
        journal.add([good(3)])
    journal.flush()
    with pytest.raises(AssertionError, match="row 1 is finished"):
        reopen(folder).add([bad(1)])


def test_no_row_is_missing_from_the_tables(folder: Folder) -> None:
    journal = create(folder, 3)
    journal.add([good(0), good(2)])
    with pytest.raises(AssertionError, match="row 1 has no result"):
        list(journal.tables())


def test_a_repair_replaces_what_it_betters_and_nothing_else(folder: Folder) -> None:
    journal = create(folder, 6)
    journal.add([good(0), bad(1), bad(2), good(3), bad(4), good(5)])
    journal.finish({"n": 1})
    assert journal.summary == {"n": 1}
    selected = journal.select({"error"}, {"stop"})
    assert selected.tolist() == [0, 1, 2, 3, 4]
    journal.begin_repair(selected, {"max_tokens": 9})
    assert (journal.summary, read_summary(folder)) == (None, None)
    assert journal.counts == Counts(1, 0)
    journal.add([bad(0, "again"), good(1, "new"), bad(2, "again"), good(3, "new")])
    for now in (journal, reopen(folder)):
        assert now.counts == Counts(5, 1)
        assert now.done().tolist() == [True, True, True, True, False, True]
        assert now.required_repair().tolist() == [1, 1, 1, 1, 1, 0]
        assert now.manifest.repairs[0].overrides == {"max_tokens": 9}
    journal = reopen(folder)
    journal.add([good(4)])
    expected = [good(0), good(1, "new"), bad(2, "again"), good(3, "new"), good(4), good(5)]
    assert results_of(journal) == expected
    journal.begin_repair(np.array([2, 5]), {"max_tokens": 10})
    assert journal.required_repair().tolist() == [1, 1, 2, 1, 1, 2]
    journal.add([good(2), good(5, "new")])
    expected[2], expected[5] = good(2), good(5, "new")
    assert results_of(journal) == results_of(reopen(folder)) == expected
    check_files(folder)


def test_parts_without_a_row_that_counts_are_gone(folder: Folder) -> None:
    journal = create(folder, 4)
    journal.add([bad(0), bad(1), bad(2), bad(3)])
    journal.begin_repair(np.arange(4), {})
    journal.add([good(0), good(1), good(2), good(3)])
    assert [part.repair for part in journal.manifest.parts] == [1]
    check_files(folder)
    assert results_of(reopen(folder)) == [good(row) for row in range(4)]


def test_a_failed_attempt_at_a_good_row_is_remembered_when_parts_are_merged(
    folder: Folder,
) -> None:
    journal = create(folder, 4)
    journal.add(good(row) for row in range(4))
    journal.begin_repair(np.arange(4), {})
    for row in range(4):
        journal.add([bad(row)])
        journal.flush()
    assert any(part.level for part in journal.manifest.parts)
    again = reopen(folder)
    assert again.done().all()
    assert results_of(again) == [good(row) for row in range(4)]


def test_many_small_parts_become_few(folder: Folder) -> None:
    journal = create(folder, 60)
    order = np.random.default_rng(0).permutation(60).tolist()
    for row in order:
        journal.add([good(row)])
        journal.flush()
    levels = sorted(part.level for part in journal.manifest.parts)
    assert levels == [1, 1, 3, 3]  # 60 = 2 * 27 + 2 * 3
    check_files(folder)
    assert results_of(journal) == results_of(reopen(folder)) == [good(row) for row in range(60)]


def test_several_answers_and_what_is_recorded_are_kept(folder: Folder) -> None:
    journal = Journal.create(folder, new_manifest(None), Unlocked())
    journal.record(rows=2, facts={"skipped": 0})
    assert journal.rows == 2
    assert not journal.several
    journal.add([Result(0, output="a", outputs=("a", "b")), good(1)])
    assert journal.several
    journal.flush()
    again = reopen(folder)
    assert again.several
    assert again.manifest.facts == {"skipped": 0}
    again.record(facts={"skipped": 1})
    again.flush()
    assert reopen(folder).manifest.facts == {"skipped": 1}


def test_half_a_surrogate_pair_is_written_as_its_escape(folder: Folder) -> None:
    journal = create(folder, 2)
    journal.add([Result(0, output="a\ud800b", outputs=("\ud800", "c")), Result(1, output="d")])
    first, second = results_of(journal)
    assert (first.output, first.outputs) == ("a\\ud800b", ("\\ud800", "c"))
    assert second.output == "d"


def test_sessions_tell_how_long_each_worked(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = create(folder, 3)
    journal.add([good(0)])
    journal.flush()
    again = reopen(folder)
    again.add([good(1)])
    monkeypatch.setattr(time, "time", lambda: 0.0)
    again.flush()
    sessions = again.manifest.sessions
    assert [session.rows_before for session in sessions] == [0, 1]
    assert all(session.seconds >= 0 for session in sessions)
    idle = reopen(folder)
    assert read_manifest(folder) == again.manifest == idle.manifest  # opening alone writes nothing


def test_a_new_run_takes_the_place_of_an_old_one(folder: Folder) -> None:
    old = create(folder, 4)
    old.add(bad(row) for row in range(4))
    old.begin_repair(np.arange(2), {})
    old.add([good(0), good(1)])
    old.finish({})
    folder.put("plan.parquet", b"")
    folder.put("note.txt", b"mine")
    new = create(folder, 2)
    assert not new.done().any()
    assert {"manifest.json", "note.txt"} == {n for n in folder.names() if n[-1] != "/"}
    check_files(folder)


def test_a_new_run_leaves_what_no_run_writes(folder: Folder) -> None:
    journal = create(folder, 4)
    journal.add(good(row) for row in range(4))
    journal.finish({})
    folder.put("note.txt", b"mine")
    folder.put("parts/mine.parquet", b"mine")
    create(folder, 2)
    assert [name for name in folder.names() if name[-1] != "/"] == ["manifest.json", "note.txt"]
    assert folder.names("parts") == ["mine.parquet"]
