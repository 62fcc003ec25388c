"""A process that dies at any moment loses nothing that was committed and doubles nothing."""

from __future__ import annotations

import itertools
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from journal_runs import Killed, bad, check_files, create, good, kill_at, reopen, results_of

from batchpipe.journal import compaction, journal, moments
from batchpipe.journal.folder import Folder, open_folder
from batchpipe.journal.lock import hold, holder
from batchpipe.journal.manifest import read_manifest
from batchpipe.rows.results import Result

ROWS = 14
numbers = itertools.count()


class Killings(RuleBasedStateMachine):
    """A journal beside a dict that cannot lose anything."""

    def __init__(self) -> None:
        super().__init__()
        moments.hook = None
        self.folder = self.new_folder()
        self.journal = create(self.folder, ROWS)
        self.results: dict[int, Result] = {}  # that count
        self.attempted, self.required = [-1] * ROWS, [0] * ROWS
        self.waiting: dict[int, Result] = {}  # added, perhaps not committed
        self.repairs = 0

    def new_folder(self) -> Folder:
        return open_folder(f"memory://killings-{next(numbers)}/run")

    def not_done(self) -> list[int]:
        done = [self.attempted[row] >= self.required[row] for row in range(ROWS)]
        return [row for row in range(ROWS) if not done[row] and row not in self.waiting]

    def commit(self, rows: list[int], repair: int) -> None:
        """The model's own words for the rule of the newest result."""
        for row in rows:
            result = self.waiting.pop(row)
            self.attempted[row] = repair
            known = self.results.get(row)
            if known is None or result.status == "success" or known.status != "success":
                self.results[row] = result

    def survive(self) -> None:
        """After a death: what was being committed is there or not, all else as it was."""
        moments.hook = None
        self.journal = reopen(self.folder)
        assert not self.journal.damaged
        done = self.journal.done()
        before = self.repairs
        self.repairs = len(self.journal.manifest.repairs)
        if self.repairs == before:
            self.commit([row for row in list(self.waiting) if done[row]], before)
        else:  # a repair flushes first
            self.commit(list(self.waiting), before)
            for row in np.flatnonzero(self.journal.required_repair() == self.repairs).tolist():
                self.required[row] = self.repairs
        self.waiting.clear()
        check_files(self.folder)

    @rule(draw=st.randoms(use_true_random=False), count=st.integers(1, 6), flush=st.booleans())
    def add(self, draw: random.Random, count: int, flush: bool) -> None:
        rows = self.not_done()
        some = [
            (good if draw.random() < 0.6 else bad)(row, f"r{self.repairs}")
            for row in draw.sample(rows, min(count, len(rows)))
        ]
        self.waiting.update((result.ordinal, result) for result in some)
        try:
            self.journal.add(some)
            if flush:
                self.journal.flush()
                self.commit(list(self.waiting), self.repairs)
        except Killed:
            self.survive()

    @precondition(lambda self: self.repairs < 3)
    @rule(statuses=st.sampled_from([{"error"}, {"success"}, {"error", "success"}]))
    def repair(self, statuses: set[str]) -> None:
        try:
            self.journal.flush()
            self.commit(list(self.waiting), self.repairs)
            selected = self.journal.select(statuses, set())
            expected = [row for row in sorted(self.results) if self.results[row].status in statuses]
            assert selected.tolist() == expected
            self.journal.begin_repair(selected, {"n": self.repairs + 1})
            self.repairs += 1
            for row in expected:
                self.required[row] = self.repairs
        except Killed:
            self.survive()

    @precondition(lambda self: moments.hook is None)
    @rule(times=st.integers(1, 12))
    def arm(self, times: int) -> None:
        kill_at(None, times)

    @rule()
    def reopen(self) -> None:
        with suppress(Killed):
            reopen(self.folder)
        self.survive()

    @invariant()
    def the_same_rows_are_done(self) -> None:
        done = {row for row in range(ROWS) if self.attempted[row] >= self.required[row]}
        found = set(np.flatnonzero(self.journal.done()).tolist())
        assert done <= found <= done | self.waiting.keys()
        counts = self.journal.counts
        assert counts.finished == len(found)

    def teardown(self) -> None:
        moments.hook = None
        rows = self.not_done()
        self.journal.add(good(row, "at last") for row in rows)
        self.waiting.update((row, good(row, "at last")) for row in rows)
        self.commit(list(self.waiting), self.repairs)
        expected = [self.results[row] for row in range(ROWS)]
        assert results_of(self.journal) == expected
        again = reopen(self.folder)
        assert results_of(again) == expected
        assert again.counts.failed == sum(result.status != "success" for result in expected)
        check_files(self.folder)


class LocalKillings(Killings):
    """The same in a directory."""

    def new_folder(self) -> Folder:
        self.directory = tempfile.mkdtemp(prefix="killings-")
        return open_folder(f"{self.directory}/run")

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.directory)


@pytest.mark.parametrize(("machine", "examples"), [(Killings, 150), (LocalKillings, 25)])
def test_no_death_loses_or_doubles_a_row(
    machine: type[Killings], examples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.TestCase.settings = settings(
        max_examples=examples, stateful_step_count=25, deadline=None
    )
    machine.TestCase("runTest").runTest()


def a_run(folder: Folder) -> None:
    """Comes past every moment of a journal's life, wherever an earlier one died."""
    run = reopen(folder) if read_manifest(folder) is not None else create(folder, 12)
    if not run.manifest.repairs:
        for row in np.flatnonzero(~run.done()).tolist():
            run.add([bad(row) if row < 9 else good(row)])
            run.flush()
        run.finish({"repairs": 0})
        run.begin_repair(run.select({"error"}, set()), {})
    run.add(good(row, "repaired") for row in np.flatnonzero(~run.done()).tolist())
    run.finish({"repairs": 1})


def is_of_a_run(moment: str) -> bool:
    return not moment.startswith(("recovery", "sweep"))


@pytest.mark.parametrize("moment", list(filter(is_of_a_run, moments.MOMENTS)))
def test_a_run_goes_on_from_every_moment(folder: Folder, moment: str) -> None:
    expected = [good(row, "repaired" if row < 9 else "") for row in range(12)]
    deaths = 0
    for times in range(1, 4):
        run_folder = open_folder(f"{folder.name}-{times}")
        kill_at(moment, times)
        try:
            a_run(run_folder)
        except Killed:
            deaths += 1
        moments.hook = None
        a_run(run_folder)
        run = reopen(run_folder)
        assert run.summary == {"repairs": 1}
        assert results_of(run) == expected
        assert not run.damaged
        check_files(run_folder)
    assert deaths


@pytest.mark.parametrize("moment", [name for name in moments.MOMENTS if "recovery" in name])
def test_a_recovery_goes_on_from_every_moment(folder: Folder, moment: str) -> None:
    a_run(folder)
    for part in reopen(folder).manifest.parts:
        folder.put(part.name, b"")
    folder.put("summary.json", b"")
    kill_at(moment)
    with pytest.raises(Killed):
        reopen(folder)
    moments.hook = None
    a_run(folder)
    run = reopen(folder)
    assert results_of(run) == [good(row, "repaired") for row in range(12)]
    check_files(folder)


@pytest.mark.parametrize(
    "moment",
    ["creation: before its manifest", "creation: after its manifest", "sweep: before a removal"],
)
@pytest.mark.parametrize("times", [1, 2])
def test_a_run_killed_while_it_replaces_another_is_one_of_the_two(
    folder: Folder, moment: str, times: int
) -> None:
    a_run(folder)
    folder.put("note.txt", b"mine")
    kill_at(moment, times)
    with suppress(Killed):
        create(folder, 12)
    moments.hook = None
    done = reopen(folder).done()
    assert done.all() or not done.any()
    create(folder, 12)
    a_run(folder)
    assert len(results_of(reopen(folder))) == 12
    assert folder.get("note.txt") == b"mine"


def test_strays_of_a_death_are_gone_with_the_next_start(tmp_path: Path) -> None:
    folder = open_folder(str(tmp_path / "run"))
    a_run(folder)
    strays = ("parts/000900.parquet", "parts/.000901.parquet.0123abcd.tmp", "repairs/7.parquet")
    for name in (*strays, ".manifest.json.0123abcd.tmp", ".summary.json.0123abcd.tmp"):
        folder.put(name, b"half")
    folder.put("parts/mine.txt", b"mine")
    reopen(folder)
    folder.remove("parts/mine.txt")
    check_files(folder)
    assert sorted(folder.names()) == ["manifest.json", "parts/", "repairs/", "summary.json"]


WRITER = """
import sys
from batchpipe.journal import compaction, journal
from batchpipe.journal.folder import open_folder
from batchpipe.journal.journal import Journal
from batchpipe.journal.lock import hold
from batchpipe.journal.manifest import Manifest, read_manifest
from batchpipe.rows.results import Result

compaction.MERGED_PARTS = 3
folder = open_folder(sys.argv[1])
with hold(folder) as lock:
    known = read_manifest(folder)
    if known is None:
        run = Journal.create(folder, Manifest({}, "", {}, 99_999), lock)
    else:
        run = Journal.open(folder, known, lock)
    assert not run.damaged
    first = int(run.done().sum())
    print("begun", first, flush=True)
    for start in range(first, 99_999, 3):
        run.add(Result(row, output=f"answer {row}") for row in range(start, start + 3))
        run.flush()
        print(start + 3, flush=True)
"""


def test_kill_9_of_a_real_process_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    draw, acknowledged = random.Random(5), 0
    for _ in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, tmp_path / "run"], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        begun, first = writer.stdout.readline().split()
        assert begun == "begun"
        assert int(first) >= acknowledged
        for _ in range(draw.randrange(1, 25)):
            acknowledged = int(writer.stdout.readline())
        writer.kill()
        rest = writer.stdout.read().split("\n")[:-1]
        acknowledged = int(rest[-1]) if rest else acknowledged
        assert writer.wait() == -signal.SIGKILL
        writer.stdout.close()
        folder = open_folder(str(tmp_path / "run"))
        assert holder(folder) is None
        with hold(folder):
            run = reopen(folder)
            assert not run.damaged
            assert run.done()[:acknowledged].all()
            assert acknowledged <= run.counts.finished <= acknowledged + 3
            check_files(folder)


def test_the_constants_of_these_tests_merge_parts() -> None:
    assert (journal.FLUSH_ROWS, compaction.MERGED_PARTS) == (4, 3)
